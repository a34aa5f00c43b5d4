#!/usr/bin/env bash
# Puts confluent-kafka, which brings its own librdkafka, into a Python environment of its own: millrace-test/confluent in the
# user's cache directory. `make test-deps` runs it.
set -euo pipefail
version=2.16.1
dir=${XDG_CACHE_HOME:-$HOME/.cache}/millrace-test/confluent
[ "$(cat "$dir/complete" 2>/dev/null)" = "$version" ] && exit 0
python3 -m venv --clear "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check "confluent-kafka==$version"
echo "$version" >"$dir/complete"
