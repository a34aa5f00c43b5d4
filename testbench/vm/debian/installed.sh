#!/usr/bin/env bash
# Enters the packages that lie unpacked under ROOT, and in the cache of its apt, into its dpkg database: installed.sh ROOT.
set -euo pipefail
for deb in "$1"/var/cache/apt/archives/*.deb; do
	name=$(dpkg-deb -f "$deb" Package)
	[ "$(dpkg-deb -f "$deb" Multi-Arch)" != same ] || name+=:$(dpkg-deb -f "$deb" Architecture)
	{ dpkg-deb -f "$deb" && printf 'Status: install ok installed\n\n'; } >>"$1/var/lib/dpkg/status"
	dpkg-deb --info "$deb" md5sums >"$1/var/lib/dpkg/info/$name.md5sums"
	dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's,^\./,/,; s,/$,,; s,^$,/.,' >"$1/var/lib/dpkg/info/$name.list"
done
