# The two commands: `make demo` shows what rbuild does, `make test` shows that it does it right.

.PHONY: demo test soak

demo:
	scripts/demo.sh

test:
	scripts/test.sh

soak:
	scripts/test.sh
