#!/usr/bin/env bash
# Packs a program for Debian: build.sh ARCH PROGRAM DIRECTORY, with Debian's name of the architecture, leaves
# millrace_VERSION_ARCH.deb in the directory and prints its name. VERSION is that of git where it is not given. The same
# program and commit give the same bytes. PACK is how dpkg-deb compresses it (-Zxz).
set -euo pipefail
umask 022
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
arch=$1 program=$2 out=$3
declare -A machines=([armhf]=arm [arm64]=arm64 [amd64]=amd64) # Go's names
goarch=${machines[$arch]:-}
[ "$goarch" ] || { echo "no package for $arch; there are: ${!machines[*]}" >&2; exit 2; }
command -v dpkg-deb >/dev/null || { echo "dpkg-deb is missing: it comes with Debian" >&2; exit 1; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || stat -c %Y "$here/../../../go.mod")}
export SOURCE_DATE_EPOCH
version=${VERSION:-$(sh "$here/version.sh" "$(git -C "$here" describe --long --always --dirty --match 'v[0-9]*' 2>/dev/null || echo unknown)" "$SOURCE_DATE_EPOCH")}

work=$(mktemp -d "${TMPDIR:-/tmp}/millrace-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/millrace
mkdir -p "$root/DEBIAN" "$doc"

# notices prints the terms of everything that is linked in, as they ask for.
notices() {
	cat "$here/copyright"
	printf '\n== Go\n\n'
	cat "$(go env GOROOT)/LICENSE"
	(cd "$here/../../.." && GOOS=linux GOARCH=$goarch GOARM=7 CGO_ENABLED=0 go list -deps \
		-f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./platform/cmd/millrace) | sort -u |
		while read -r path module dir; do
			printf '\n== %s %s\n\n' "$path" "$module"
			terms=$(find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) | sort)
			[ "$terms" ] || { echo "$path comes without its terms" >&2; exit 1; }
			xargs -d '\n' cat <<<"$terms"
		done
}

install -D -m 755 "$program" "$root/usr/bin/millrace"
install -D -m 644 "$here/../millrace.service" "$root/usr/lib/systemd/system/millrace.service"
install -D -m 644 "$here/millrace.sysusers" "$root/usr/lib/sysusers.d/millrace.conf"
install -D -m 644 "$here/millrace.toml" "$root/etc/millrace/millrace.toml"
install -D -m 644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/millrace"
mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/man/man1"
(cd "$here/../../.." && go run -trimpath ./platform/cmd/millrace completion bash) >"$root/usr/share/bash-completion/completions/millrace"
gzip -9n <"$here/millrace.1" >"$root/usr/share/man/man1/millrace.1.gz"
notices >"$doc/copyright"
maintainer=$(sed -n 's/^Maintainer: //p' "$here/control")
printf 'millrace (%s) unstable; urgency=medium\n\n  * Built from its commit; the history is that of the repository.\n\n -- %s  %s\n' \
	"$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"

install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"
echo /etc/millrace/millrace.toml >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
size=$(du -k --apparent-size -s "$root" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" "$here/control" >"$root/DEBIAN/control"
chmod -R u=rwX,go=rX "$root" # whatever this checkout was made with
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
file=$out/millrace_${version}_$arch.deb
dpkg-deb --root-owner-group ${PACK:--Zxz} --build "$root" "$file" >/dev/null
echo "$file"
