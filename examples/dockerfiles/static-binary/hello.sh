echo "hello, version @VERSION@"
