#!/bin/sh
# The whole of what `make test` runs a part of: every property with many more cases, a fault at every system call, kills and interrupts at hundreds of
# instants. Takes about half an hour on two cores. The result goes to benchmarks/results/soak-DATE.md, with machine and commit.
#   soak.sh [FILTER]   a filter of cargo nextest (`+` for or), to run a part
#   RBUILD_TEST_SEED   another choice of instants (default: the day, as a number)
#   RBUILD_BIN         a release binary that is there already: end-to-end tests only, which need not be optimised themselves
set -eu
cd "$(dirname "$0")/.."
# Properties are all tests of the libraries; of the end-to-end tests, those that do more when they are soaked.
whole='package(/^builder/) + binary(injection) + binary(recovery) + binary(faults) + binary(registry_faults) + binary(full_disk) + binary(context) + binary(decoders) + binary(ladder)'
filter=${1:-$whole}

RBUILD_TEST_SEED=${RBUILD_TEST_SEED:-$(date -u +%Y%m%d)}
RBUILD_SOAK=$(mktemp)
RBUILD_FUZZ_ITERATIONS=${RBUILD_FUZZ_ITERATIONS:-1000000}
PROPTEST_CASES=${PROPTEST_CASES:-4096}
RBUILD_TEST_MACHINES=${RBUILD_TEST_MACHINES:-300}
export RBUILD_TEST_SEED RBUILD_SOAK PROPTEST_CASES RBUILD_TEST_MACHINES RBUILD_FUZZ_ITERATIONS

scripts/install-test-tools.sh
profile=dev
packages="-p integration-tests"
if [ -z "${RBUILD_BIN:-}" ]; then
    cargo build --release --workspace --all-targets --locked
    profile=release
    packages=--workspace
fi

result=benchmarks/results/soak-$(date -u +%Y-%m-%d).md
log=target/soak.log
began=$(date +%s)
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ', with changes')
outcome=passed
# shellcheck disable=SC2086
scripts/on-test-disk.sh cargo nextest run --profile soak --cargo-profile "$profile" $packages --locked --no-fail-fast -E "$filter" \
    >"$log" 2>&1 || outcome="FAILED (see $log)"
took=$(($(date +%s) - began))

{
    echo "# Soak, $(date -u +%Y-%m-%d): $outcome"
    echo
    echo "| | |"
    echo "| --- | --- |"
    echo "| Commit | $commit |"
    echo "| Kernel | $(uname -sr), $(uname -m) |"
    echo "| Machine | $(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)), $(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024)) MiB |"
    [ "$filter" = "$whole" ] || echo "| Part | \`$filter\` |"
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
