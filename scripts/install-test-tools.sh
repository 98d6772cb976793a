#!/bin/sh
# Installs what the tests need from Debian's packages, and makes an unprivileged test user with subordinate ids. Does nothing that is done already.
set -eu

user=rbuild-test
packages=""
need() { # need FILE-OR-COMMAND PACKAGE
    case $1 in
        /*) [ -e "$1" ] || packages="$packages $2" ;;
        *) command -v "$1" >/dev/null 2>&1 || packages="$packages $2" ;;
    esac
}
PATH=$PATH:/usr/sbin:/sbin
need python3 python3
need gcc gcc
need /usr/include/stdio.h libc6-dev
need losetup mount
need git git
need zstd zstd
need xz xz-utils
need bzip2 bzip2
need docker-registry docker-registry
need skopeo skopeo
need openssl openssl
need umoci umoci
need crun crun
need podman podman
need buildah buildah
need debootstrap debootstrap
need newuidmap uidmap
need pasta passt
need ip iproute2
need nft nftables
need qemu-aarch64-static qemu-user-static
need mkfs.ext4 e2fsprogs
need cc gcc
need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
[ -e /bin/busybox ] || [ -e /usr/bin/busybox ] || packages="$packages busybox-static"

if [ -n "$packages" ]; then
    [ "$(id -u)" = 0 ] || { echo "install-test-tools: missing packages:$packages; run as root" >&2; exit 1; }
    echo "installing$packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

# Programs for another processor: the busybox of Debian for arm64, without installing anything of that architecture.
foreign=/usr/local/share/rbuild-test/busybox-arm64
if [ ! -e "$foreign" ]; then
    [ "$(id -u)" = 0 ] || { echo "install-test-tools: $foreign is missing; run as root" >&2; exit 1; }
    scratch=$(mktemp -d)
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$(dirname "$foreign")"
    (
        cd "$scratch"
        options="-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists=$scratch/lists -o Dir::Cache=$scratch/cache -o APT::Sandbox::User=root"
        # shellcheck disable=SC2086
        apt-get $options update -qq && apt-get $options download -qq busybox-static
        dpkg-deb --fsys-tarfile busybox-static_*.deb | tar -x ./bin/busybox
    )
    install -m 755 "$scratch/bin/busybox" "$foreign"
    rm -rf "$scratch"
fi

if [ "$(id -u)" = 0 ]; then
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$user"
    for file in /etc/subuid /etc/subgid; do
        grep -q "^$user:" "$file" 2>/dev/null || echo "$user:300000:65536" >> "$file"
    done
fi
