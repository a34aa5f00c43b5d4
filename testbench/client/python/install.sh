#!/usr/bin/env bash
# Puts the Python clients of requirements.txt, with the librdkafka confluent-kafka brings, into a Python environment of their
# own: millrace-test/python in the user's cache directory. `make test-deps` runs it; with everything in place it does nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/millrace-test/python
if cmp -s "$here/requirements.txt" "$dir/complete"; then
	exit 0
fi
python3 -m venv --clear "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$here/requirements.txt"
# The marker goes in last: an install that was cut short is not taken for a whole one.
cp "$here/requirements.txt" "$dir/complete"
