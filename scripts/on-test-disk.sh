#!/bin/sh
# Runs a command with TMPDIR on a fresh journaled file system of its own, if it is root that asks: tests make and remove many files, which slows some
# file systems down for everybody else, and what they leave goes with the disk. RBUILD_TEST_NO_DISK=1 leaves the disk away.
set -eu
if [ "$(id -u)" != 0 ] || [ -n "${RBUILD_TEST_NO_DISK:-}" ]; then
    exec "$@"
fi
work=$(mktemp -d /tmp/rbXXXX)
trap 'umount -l "$work/d" 2>/dev/null || true; rm -rf "$work"' EXIT
truncate -s 24G "$work/image"
mkfs.ext4 -qF "$work/image"
mkdir "$work/d"
mount -o loop "$work/image" "$work/d"
chmod 755 "$work"
chmod 1777 "$work/d"
TMPDIR="$work/d" "$@"
