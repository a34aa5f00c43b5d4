#!/usr/bin/env bash
# Runs a built image in the foreground: run.sh DIRECTORY, as build.sh left it. The first run copies the disk to a card of
# 1 GiB, which later runs go on with until the image is built again. KAFKA and MQTT say where its doors are on this machine,
# SETTINGS a millrace.toml in place of the image's.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
card=$dir/card.img
if [ ! -f "$card" ] || [ "$dir/disk.img" -nt "$card" ]; then
	cp --sparse=always "$dir/disk.img" "$card"
	truncate -s 1G "$card"
fi
[ -f "$dir/admin.secret" ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$dir/admin.secret"
secret=$(cat "$dir/admin.secret")
boot=$(mktemp -d)
trap 'rm -rf "$boot"' EXIT
if [ -n "${SETTINGS:-}" ]; then
	cp "$SETTINGS" "$boot/millrace.toml"
else
	# Kafka clients come back to the address they are told, which is one of this machine. The admin is one this machine knows.
	sed -e "s,^listeners = \[\"SASL_SSL.*,&\nadvertised.listeners = [\"SASL_SSL://$KAFKA\"]," \
		-e "s,^# admin.scram.file,admin.scram.file," "$here/millrace.toml" >"$boot/millrace.toml"
fi
echo "SCRAM-SHA-512=[name=admin,password=\"$secret\"]" >"$boot/admin.scram"
mcopy -o -i "$card@@1M" "$boot/millrace.toml" "$boot/admin.scram" ::
# PLAIN, inside TLS: librdkafka 2.0, which kcat 1.7 of Debian has, cannot log in with SCRAM.
printf '%s\n' "bootstrap.servers=$KAFKA" security.protocol=SASL_SSL "ssl.ca.location=$dir/board.pem" \
	sasl.mechanisms=PLAIN sasl.username=admin "sasl.password=$secret" >"$dir/kafka.properties"
cat <<EOF
The board's user is admin, its secret in $dir/admin.secret. When it is up, in another terminal, its certificate first, of
which the console says the fingerprint ("openssl x509 -fingerprint -sha256 -in $dir/board.pem"):

    openssl s_client -connect $MQTT </dev/null 2>/dev/null | openssl x509 >$dir/board.pem
    mosquitto_pub -L "mqtts://admin:\$(cat $dir/admin.secret)@$MQTT/hello/world" --cafile $dir/board.pem -q 1 -m hi
    kcat -F $dir/kafka.properties -C -t mqtt -e

To end it: Ctrl-A X
EOF
sh "$here/qemu.sh" "$dir/u-boot.bin" "$card" -serial mon:stdio
