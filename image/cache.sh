# What is taken from Debian, for scripts that build something of it: sourced, with ARCH set (boards/). It is downloaded once
# and kept in CACHE; remove that directory to take Debian's newest.
SUITE=trixie
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace-image}
mkdir -p "$cache"

# sources are this machine's own of Debian, for another suite.
sources() {
	apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(ORIGIN) $(COMPONENT)' 'Created-By: Packages' |
		awk -v suite="$SUITE" '$3 == "Debian" && $4 == "main" { sub(/^[a-z]+/, suite, $2); print "deb", $1, $2, "main" }' | sort -u
}

key() { sha256sum <<<"$SUITE $ARCH $1" | cut -c1-12; }

# fetch unpacks packages into a tar of the cache, without running anything of theirs: fetch TAR PACKAGES [mmdebstrap's
# ARGUMENT...]. Who comes while another build fetches waits.
fetch() {
	local tar=$1 packages=$2 list
	shift 2
	exec 9>"$cache/lock"
	flock 9
	if [ ! -f "$tar" ]; then
		list=$(sources)
		[ -n "$list" ] || { echo "apt knows no Debian source on this machine" >&2; exit 1; }
		mmdebstrap --quiet --arch="$ARCH" --variant=extract --aptopt='Acquire::Languages "none"' \
			--include="$packages" "$@" "$SUITE" "$tar.part.tar" - <<<"$list" 9>&-
		mv "$tar.part.tar" "$tar"
	fi
	exec 9>&-
}

# unpack unpacks the kernel of a fetched tar, and sets release: unpack TAR DIRECTORY [FILE...].
unpack() {
	local tar=$1
	kernel=$2
	shift 2
	mkdir -p "$kernel"
	tar -xf "$tar" -C "$kernel" ./boot ./usr/lib/modules "$@"
	ln -s usr/lib "$kernel/lib"
	release=$(basename "$kernel"/usr/lib/modules/*)
	depmod -b "$kernel" "$release"
}

# needed prints the files of modules of the unpacked kernel and of what they need, in the order to load them.
needed() {
	for module in "$@"; do
		modprobe -d "$kernel" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
	done | awk '!seen[$0]++'
}

# early puts modules and what they need into DIRECTORY, under names that sort as they are to be loaded: early DIRECTORY MODULE...
early() {
	local into=$1 number=10
	shift
	needed "$@" | while read -r file; do
		xz -dc "$file" >"$into/$number-$(basename "$file" .xz)"
		number=$((number + 1))
	done
}

# pack prints an initramfs of a directory.
pack() {
	find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	(cd "$1" && find . -print0 | sort -z | cpio -0 -o -H newc --quiet --reproducible -R 0:0) | zstd -q "$2"
}
