#!/bin/sh
# Fetches Apache Kafka's jars from Maven Central into the directory $1, or where kafka.Dir looks for them, for the test
# lanes that run Kafka's own tools and clients. A second run with everything in place does nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace-test/kafka}
if [ -e "$dir/complete" ] && cmp -s "$here/pom.xml" "$dir/complete"; then
	exit 0
fi
for tool in java mvn; do
	command -v "$tool" >/dev/null || { echo "install.sh: $tool is missing (Debian: apt-get install default-jre-headless maven)" >&2; exit 1; }
done
rm -rf "$dir.part"
mkdir -p "$dir.part"
mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir.part"
mkdir "$dir.part/log"
mv "$dir.part"/slf4j-simple-*.jar "$dir.part/log"
# The marker goes in last: a fetch that was cut short is not taken for a whole one.
cp "$here/pom.xml" "$dir.part/complete"
rm -rf "$dir"
mv "$dir.part" "$dir"
