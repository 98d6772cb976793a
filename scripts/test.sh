#!/bin/sh
# Everything that must hold: format, lints, rules on dependencies, unit tests, documentation examples, end-to-end tests, conformance.
# One profile (release) serves the binary and the tests, so the world is compiled once.
set -eu
cd "$(dirname "$0")/.."

step() { echo; echo "== $*"; }

step tools
scripts/install-test-tools.sh

step format
cargo fmt --all --check

step build
cargo build --release --workspace --all-targets --locked

step lints
cargo clippy --release --workspace --all-targets --locked -- -D warnings

step "the frontend without the engine"
cargo check --release --locked -p builder-frontend --no-default-features

# As root the tests work on a fresh journaled file system of their own: they make and remove many files, which slows some file systems down for
# everybody else, and what they leave goes with it.
if [ "$(id -u)" = 0 ] && [ -z "${RBUILD_TEST_NO_DISK:-}" ]; then
    step "a disk for the tests"
    work=$(mktemp -d /tmp/rbXXXX)
    truncate -s 24G "$work/image"
    mkfs.ext4 -qF "$work/image"
    mkdir "$work/d"
    mount -o loop "$work/image" "$work/d"
    trap 'umount -l "$work/d"; rm -rf "$work"' EXIT
    chmod 755 "$work"
    chmod 1777 "$work/d"
    export TMPDIR="$work/d"
fi

step tests
cargo nextest run --cargo-profile release --workspace --locked

step "documentation examples"
cargo test --release --doc --workspace --locked -q

step "licences, sources and bans of dependencies"
command -v cargo-deny >/dev/null 2>&1 || cargo install --locked --debug --quiet cargo-deny
cargo deny --log-level error check bans licenses sources
