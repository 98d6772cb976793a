#!/bin/sh
# What rbuild does, in two minutes, on a machine without a registry: parallel stages, pruning, small results, the cache.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
size() { du -k "$1" | cut -f1; }

say "rbuild, in release"
cargo build --release --locked -p builder-cli -p embed
PATH="$PWD/target/release:$PATH"

demo=target/demo
rm -rf "$demo"
mkdir -p "$demo"

say "a base image from this machine's own shell and libraries"
make_base "$demo/base" "$demo/store"

build() {
    rbuild --root "$demo/store" --progress plain --build-context "base=oci-layout://$demo/base" "$@" examples/quickstart
}

say "rbuild --target production examples/quickstart"
began=$(milliseconds)
build --target production -t quickstart -o "type=oci,dest=$demo/production.tar" --metadata-file "$demo/metadata.json" 2>"$demo/log" || { cat "$demo/log"; exit 1; }
took=$(($(milliseconds) - began))
cat "$demo/log"

say "what to see"
echo "took          $took ms; 'web' and 'server' each sleep for 1000 ms, and did so at the same time"
if grep -q 'test [0-9]*/[0-9]*\]\|THE TESTS RUN' "$demo/log"; then
    echo "stage 'test'  was run, which is a fault"
    exit 1
fi
echo "stage 'test'  not run: production does not need it"
sed -n 's/.*"containerimage.digest": "\(.*\)".*/digest        \1/p' "$demo/metadata.json"

build --target toolchain -o "type=tar,dest=$demo/toolchain-files.tar" 2>/dev/null
build --target production -o "type=tar,dest=$demo/production-files.tar" 2>/dev/null
echo "size          production $(size "$demo/production-files.tar") KiB, the stage it was built in $(size "$demo/toolchain-files.tar") KiB"

say "again: everything is in the store"
began=$(milliseconds)
build --target production -t quickstart -o "type=oci,dest=$demo/again.tar" 2>"$demo/log" || { cat "$demo/log"; exit 1; }
took=$(($(milliseconds) - began))
# Of the blocks that belong to steps: how many say CACHED, how many DONE.
awk -v took="$took" '
    /^#[0-9]+ \[/ && !/\[internal\]/ { step[$1] = 1 }
    step[$1] && $2 == "CACHED" { cached++ }
    step[$1] && $2 == "DONE" { run++ }
    END { printf "took          %d ms: %d steps from the store, %d run\n", took, cached, run }' "$demo/log"
cmp "$demo/production.tar" "$demo/again.tar" && echo "same bytes    both archives are equal"
