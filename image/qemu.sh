#!/bin/sh
# Runs an image as a board: qemu.sh UBOOT DISK [QEMU ARGUMENT...]. The ports of the board are at KAFKA and MQTT
# (host:port) of this machine: 9092 and 8883 there. The disk is written to.
set -eu
uboot=$1 disk=$2
shift 2
exec qemu-system-aarch64 -M virt -cpu cortex-a53 -m "${MEMORY:-128M}" -nodefaults -display none \
	-bios "$uboot" \
	-drive "if=none,id=disk,format=raw,file=$disk" -device virtio-blk-pci,drive=disk,bootindex=0 \
	-netdev "user,id=net,hostfwd=tcp:${KAFKA:-127.0.0.1:9092}-:9092,hostfwd=tcp:${MQTT:-127.0.0.1:8883}-:8883" \
	-device virtio-net-pci,netdev=net,romfile= \
	-device virtio-rng-pci -device virtio-balloon-pci,id=balloon \
	-device i6300esb -action watchdog=reset "$@"
