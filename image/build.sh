#!/usr/bin/env bash
# Builds the image of a board: build.sh BOARD OUT. What comes from Debian is downloaded once and kept in CACHE.
# The same commit and the same packages give the same bytes.
set -euo pipefail
umask 022
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
board=$1
out=$(mkdir -p "$2" && cd "$2" && pwd)
[ -f "$here/boards/$board" ] || { echo "no board $board; there are: $(ls "$here/boards")" >&2; exit 2; }
for tool in mmdebstrap mksquashfs genimage mcopy mkfs.vfat mkimage modprobe depmod cpio zstd xz go; do
	command -v "$tool" >/dev/null || { echo "$tool is missing: make test-deps" >&2; exit 1; }
done
. "$here/boards/$board"
. "$here/cache.sh"

PACKAGES=systemd,systemd-timesyncd,kmod,e2fsprogs,fdisk,mount,util-linux,busybox-static
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || stat -c %Y "$here/../go.mod")}
export SOURCE_DATE_EPOCH
version=${VERSION:-$(git -C "$here" describe --always --dirty 2>/dev/null || echo unknown)}

base=$cache/base-$(key "$PACKAGES").tar
boot=$cache/boot-$(key "$KERNEL,$UBOOT").tar
fetch "$base" "$PACKAGES"
fetch "$boot" "$KERNEL,$UBOOT"

work=$(mktemp -d "${TMPDIR:-/tmp}/millrace-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root" "$work/in" "$work/initramfs/modules"
unpack "$boot" "$work/kernel" "./$UBOOT_BIN"

# The root.
tar -xf "$base" -C "$root" --no-same-owner -X "$here/exclude"
tar -xf "$base" -C "$root" --no-same-owner ./usr/bin/{busybox,journalctl,kmod,mount,partx,systemctl,umount} \
	./usr/sbin/{e2fsck,mke2fs,modprobe,sfdisk}
mkdir -p "$root"/{dev,proc,sys,run,tmp,var,boot,etc}
for dir in bin sbin lib; do ln -sfn "usr/$dir" "$root/$dir"; done
cp -a "$here/rootfs/." "$root"
ln -s /run/resolv.conf "$root/etc/resolv.conf"
ln -s /proc/self/mounts "$root/etc/mtab"
ln -s /run/millrace-config "$root/etc/millrace"
printf 'NAME=Millrace\nID=millrace\nPRETTY_NAME="Millrace %s"\n' "$version" >"$root/usr/lib/os-release"
ln -s ../usr/lib/os-release "$root/etc/os-release"
echo "$version" >"$root/usr/lib/millrace/version"
: >"$root/usr/lib/clock-epoch" # its time is the floor of systemd's clock
install -m 644 "$here/../platform/systemd/millrace.service" "$root/usr/lib/systemd/system/"
install -m 644 "$here/millrace.toml" "$root/usr/lib/millrace/"
(cd "$here/.." && CGO_ENABLED=0 GOOS=linux GOARCH=$GOARCH GOARM=7 \
	go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$root/usr/bin/millrace" ./platform/cmd/millrace)
units=$root/etc/systemd/system
mkdir -p "$units"/{local-fs,sysinit,multi-user}.target.wants
ln -sfn /usr/lib/systemd/system/multi-user.target "$units/default.target"
ln -s /usr/lib/systemd/system/tmp.mount ../image-data.service "$units/local-fs.target.wants/"
ln -s ../image-coldplug.service /usr/lib/systemd/system/systemd-journald.{socket,service} "$units/sysinit.target.wants/"
ln -s ../image-config.service ../image-report.service /usr/lib/systemd/system/{millrace,systemd-timesyncd}.service "$units/multi-user.target.wants/"
for applet in sh awk cat chmod chown cmp cp date find grep ip kill mkdir mv readlink rm sleep sort stat sync umount xargs; do
	[ -e "$root/usr/bin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done
needed $MODULES | while read -r file; do
	install -D -m 644 "$file" "$root/usr/lib/modules/${file#*/lib/modules/}"
done
cp "$work/kernel/usr/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$root/usr/lib/modules/$release/"
depmod -b "$root" "$release"
chmod -R u=rwX,go=rX "$root" # whatever this checkout was made with
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mksquashfs "$root" "$work/in/root.squashfs" -quiet -no-progress -all-root -no-xattrs -comp zstd -Xcompression-level 15 -b 64K

# Kernel and initramfs.
cp "$work/kernel/boot/vmlinuz-$release" "$work/in/Image"
mkdir -p "$work"/initramfs/{bin,dev,proc,sys,new}
cp "$root/usr/bin/busybox" "$work/initramfs/bin/"
install -m 755 "$here/initramfs/init" "$work/initramfs/init"
early "$work/initramfs/modules" $EARLY_MODULES
pack "$work/initramfs" -19 >"$work/in/initrd"

# The boot partition and the disk.
sed "s/@CONSOLE@/$CONSOLE/" "$here/boot.cmd" >"$work/boot.cmd"
mkimage -A "$ARCH" -T script -C none -n boot -d "$work/boot.cmd" "$work/in/boot.scr" >/dev/null
cp "$here/millrace.toml" "$work/in/"
find "$work/in" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir "$work/empty"
genimage --loglevel 1 --config "$here/genimage.cfg" --rootpath "$work/empty" --tmppath "$work/tmp" --inputpath "$work/in" --outputpath "$work/out" >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
install -m 644 "$work/kernel/$UBOOT_BIN" "$out/u-boot.bin"
cp --sparse=always "$work/out/disk.img" "$out/disk.img"
zstd -q -f -12 "$out/disk.img" -o "$out/disk.img.zst"
stat -c '%n	%s bytes' "$work"/in/{root.squashfs,Image,initrd} "$out"/disk.img.zst | sed "s,$work/in/,,"
