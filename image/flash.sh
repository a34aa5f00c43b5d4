#!/usr/bin/env bash
# Writes an image to a card: flash.sh IMAGE DEVICE. It refuses whatever is not a whole removable block device, or is in use.
# SYSFS is where the kernel says so, for the test.
set -euo pipefail
image=$1 device=$2
refuse() {
	echo "flash: $device $*; nothing was written" >&2
	exit 1
}
[ -r "$image" ] || { echo "flash: there is no $image: make image" >&2; exit 1; }
[ -n "$device" ] || { echo "flash: say which device: DEVICE=/dev/sdX" >&2; exit 2; }
device=$(readlink -f "$device")
name=$(basename "$device")
sys=${SYSFS:-/sys}/class/block/$name
[ -d "$sys" ] || refuse "is no block device"
[ ! -e "$sys/partition" ] || refuse "is a partition; the image needs the whole device"
# A card in a built-in slot does not call itself removable, but its type does not lie.
removable=$(cat "$sys/removable")
kind=$(cat "$sys/device/type" 2>/dev/null || true)
[ "$removable" = 1 ] || [ "$kind" = SD ] || refuse "is not removable"
[ "$(cat "$sys/ro")" = 0 ] || refuse "is write-protected"
[ "$(($(cat "$sys/size") * 512))" -ge "$(($(stat -c %s "$image") + (256 << 20)))" ] || refuse "is too small"
for part in "$sys" "$sys"/"$name"*; do
	! grep -q "^/dev/$(basename "$part") " /proc/mounts || refuse "is mounted"
	[ -z "$(ls "$part/holders" 2>/dev/null)" ] || refuse "is in use"
done
dd if="$image" of="$device" bs=4M conv=fsync,nocreat iflag=fullblock status=progress
echo "flash: $device holds $image"
