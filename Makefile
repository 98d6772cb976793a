# The two commands: `make demo` shows what rbuild does, `make test` shows that it does it right.

.PHONY: demo test soak bench

demo:
	scripts/demo.sh

test:
	scripts/test.sh

# What `test` does a part of, whole: many cases for every property, a fault at every system call, kills at hundreds of instants.
soak:
	scripts/soak.sh

bench:
	cargo build --release --locked -p builder-cli
	benchmarks/bench.py
