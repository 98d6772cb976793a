#!/bin/sh
# The whole of what `make test` runs a part of: every property with many more cases, a fault at every system call, kills and interrupts at hundreds of
# instants. Takes about half an hour on two cores. The result goes to benchmarks/results/soak-DATE.md, with machine and commit.
#   RBUILD_TEST_SEED   another choice of instants (default: the day, as a number)
set -eu
cd "$(dirname "$0")/.."

RBUILD_TEST_SEED=${RBUILD_TEST_SEED:-$(date -u +%Y%m%d)}
RBUILD_SOAK=$(mktemp)
PROPTEST_CASES=${PROPTEST_CASES:-4096}
export RBUILD_TEST_SEED RBUILD_SOAK PROPTEST_CASES

scripts/install-test-tools.sh
cargo build --release --workspace --all-targets --locked

result=benchmarks/results/soak-$(date -u +%Y-%m-%d).md
log=target/soak.log
began=$(date +%s)
# Properties are all tests of the libraries; of the end-to-end tests, those that do more when they are soaked.
outcome=passed
scripts/on-test-disk.sh cargo nextest run --profile soak --cargo-profile release --workspace --locked --no-fail-fast \
    -E 'package(builder-snapshot) | package(builder-core) | package(builder-frontend) | package(builder-cli) | binary(injection) | binary(recovery) | binary(faults) | binary(full_disk) | binary(context)' \
    >"$log" 2>&1 || outcome="FAILED (see $log)"
took=$(($(date +%s) - began))

{
    echo "# Soak, $(date -u +%Y-%m-%d): $outcome"
    echo
    echo "| | |"
    echo "| --- | --- |"
    echo "| Commit | $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ', with changes') |"
    echo "| Kernel | $(uname -sr), $(uname -m) |"
    echo "| Machine | $(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)), $(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024)) MiB |"
    echo "| Seed | $RBUILD_TEST_SEED |"
    echo "| Cases a property | $PROPTEST_CASES |"
    echo "| Tests | $(sed -n 's/^ *Summary *\[[^]]*\] *//p' "$log" | tail -1) |"
    echo "| Took | $took s |"
    echo
    sort "$RBUILD_SOAK" | sed 's/^\([^:]*\): /- **\1**: /'
} >"$result"
rm -f "$RBUILD_SOAK"
cat "$result"
[ "$outcome" = passed ]
