#!/usr/bin/env bash
# Builds a small Debian for the emulated machine, that has a package manager and systemd and no Millrace: build.sh OUT
# leaves there Image, initrd and root.squashfs. Its parts are the newest of Debian at the first time, and are kept in CACHE
# beside those of the device image, whose kernel it is.
#
# Packages are unpacked and entered as installed; none of their scripts runs, so that no foreign code does.
set -euo pipefail
umask 022
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
image=$here/../../../image
out=$(mkdir -p "$1" && cd "$1" && pwd)
SOURCE_DATE_EPOCH=0
. "$image/boards/qemu-arm64"
. "$image/cache.sh"

PACKAGES=base-files,base-passwd,bash,busybox-static,coreutils,dash,diffutils,dpkg,findutils,grep,gzip,init-system-helpers
PACKAGES+=,libc-bin,mount,perl-base,procps,sed,systemd,systemd-sysv,tar,util-linux

boot=$cache/boot-$(key "$KERNEL,$UBOOT").tar
root=$cache/machine-$(key "$PACKAGES $(cat "$here/installed.sh")")
fetch "$boot" "$KERNEL,$UBOOT"
fetch "$root.tar" "$PACKAGES" --extract-hook="$here/installed.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/millrace-machine.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/initramfs/{bin,dev,proc,sys,lower,upper,new,modules}
unpack "$boot" "$work/kernel"
early "$work/initramfs/modules" virtio_blk virtio_net squashfs overlay ext4 crc32c_generic
tar -xf "$root.tar" -C "$work" ./usr/bin/busybox
mv "$work/usr/bin/busybox" "$work/initramfs/bin/"
install -m 755 "$here/init" "$work/initramfs/"
install -m 644 "$here/shell" "$here/shell.service" "$work/initramfs/"
pack "$work/initramfs" -1 >"$out/initrd"
mv "$work/kernel/boot/vmlinuz-$release" "$out/Image"
sqfstar -quiet -no-progress -noI -noD -noF -noX "$out/root.squashfs" <"$root.tar"
