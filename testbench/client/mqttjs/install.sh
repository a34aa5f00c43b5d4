#!/usr/bin/env bash
# Puts MQTT.js, as package-lock.json has it, into millrace-test/mqttjs in the user's cache directory. `make
# test-deps` runs it; with everything in place it does nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/millrace-test/mqttjs
if cmp -s "$here/package-lock.json" "$dir/complete"; then
	exit 0
fi
rm -rf "$dir"
mkdir -p "$dir"
cp "$here/package.json" "$here/package-lock.json" "$dir"
npm ci --prefix "$dir" --silent --ignore-scripts --no-audit --no-fund
# The marker goes in last: an install that was cut short is not taken for a whole one.
cp "$here/package-lock.json" "$dir/complete"
