#!/usr/bin/env bash
# Runs a built image in the foreground: run.sh DIRECTORY, as build.sh left it. The first run copies the disk to a card of
# 1 GiB, which later runs go on with until the image is built again. KAFKA and MQTT say where its doors are on this machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
card=$dir/card.img
if [ ! -f "$card" ] || [ "$dir/disk.img" -nt "$card" ]; then
	cp --sparse=always "$dir/disk.img" "$card"
	truncate -s 1G "$card"
fi
# Kafka clients come back to the address they are told, which is one of this machine.
settings=$(mktemp)
trap 'rm -f "$settings"' EXIT
sed "s,^listeners = \[\"PLAINTEXT.*,&\nadvertised.listeners = [\"PLAINTEXT://$KAFKA\"]," "$here/millrace.toml" >"$settings"
mcopy -o -i "$card@@1M" "$settings" ::millrace.toml
echo "kafka $KAFKA, mqtt $MQTT; to end it: Ctrl-A X"
sh "$here/qemu.sh" "$dir/u-boot.bin" "$card" -serial mon:stdio
