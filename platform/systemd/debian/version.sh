#!/bin/sh
# Prints a version for Debian, that upgrades sort by: version.sh DESCRIBED SECONDS, what `git describe --long --always --dirty`
# says and when the commit was made.
#
#	v1.2.0-0-gabcdef1       1.2.0
#	v1.2.0-5-gabcdef1       1.2.0+5.gabcdef1
#	v1.3.0-rc1-0-gabcdef1   1.3.0~rc1, which is before 1.3.0
#	abcdef1                 0~git20260102030405.abcdef1, which is before every release
set -eu
described=${1%-dirty}
case $described in
v[0-9]*-*-g*)
	commit=${described##*-}
	rest=${described%-*}
	after=${rest##*-}
	version=$(echo "${rest%-*}" | sed 's/^v//; s/-/~/; s/[^A-Za-z0-9.~]/./g')
	[ "$after" = 0 ] && [ "$described" = "$1" ] || version=$version+$after.$commit
	;;
*)
	version=0~git$(date -u -d "@$2" +%Y%m%d%H%M%S).$described
	;;
esac
[ "$described" = "$1" ] || version=$version.dirty
echo "$version"
