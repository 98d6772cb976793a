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
cargo tree --locked -p builder-frontend --no-default-features -e normal,build | { ! grep builder-core; }
cargo clippy --release --locked -p builder-frontend --no-default-features -- -D warnings

step tests
scripts/on-test-disk.sh cargo nextest run --cargo-profile release --workspace --locked

step "documentation examples"
cargo test --release --doc --workspace --locked -q

step "licences, sources and bans of dependencies"
command -v cargo-deny >/dev/null 2>&1 || cargo install --locked --debug --quiet cargo-deny
cargo deny --log-level error check bans licenses sources
