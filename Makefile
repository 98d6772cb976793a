# The two commands: `make demo` shows what rbuild does, `make test` shows that it does it right.

.PHONY: demo test soak bench

demo:
	scripts/demo.sh

test:
	scripts/test.sh

# The same with many more cases for every property.
soak:
	PROPTEST_CASES=4096 scripts/test.sh

bench:
	cargo build --release --locked -p builder-cli
	benchmarks/bench.py
