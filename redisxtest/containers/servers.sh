#!/bin/sh
# Unpacks server programs from Debian's packages, and makes container images of them, without a registry of images.
#
#	servers.sh unpack DIR [NAME…]    DIR/NAME/redis-server or DIR/NAME/valkey-server: REDISX_SERVER_BIN=DIR finds them
#	servers.sh images [NAME…]        images redisxtest/redis:7.0, redisxtest/redis:8.0, redisxtest/valkey:8.1
#
# NAME is redis-7.0 (Debian 12), redis-8.0 or valkey-8.1 (Debian 13); all three if none is given. It runs on a Debian with
# apt-get, installs nothing and leaves the system's lists of packages alone. The programs bring the libraries they were built
# with, so that they run on a Debian of another release. What is there already is kept.
set -eu

usage() {
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

[ $# -ge 1 ] || usage
what=$1
shift
case $what in
unpack)
	[ $# -ge 1 ] || usage
	mkdir -p "$1"
	dir=$(CDPATH='' cd -- "$1" && pwd)
	shift
	;;
images)
	docker info >/dev/null || { echo "servers.sh: images need docker, and an engine that it reaches" >&2; exit 1; }
	;;
*) usage ;;
esac
[ $# -gt 0 ] || set -- redis-7.0 redis-8.0 valkey-8.1

# suite, package, program and version prefix of a name.
describe() {
	case $1 in
	redis-7.0) suite=bookworm package=redis-tools kind=redis version=7.0 ;;
	redis-8.0) suite=trixie package=redis-tools kind=redis version=8.0 ;;
	valkey-8.1) suite=trixie package=valkey-tools kind=valkey version=8.1 ;;
	*)
		echo "servers.sh: no server $1; there are redis-7.0, redis-8.0 and valkey-8.1" >&2
		exit 2
		;;
	esac
}
for name in "$@"; do describe "$name"; done

command -v apt-get >/dev/null || { echo "servers.sh: needs apt-get, of a Debian" >&2; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# apt works on lists and a cache of its own, from the mirror that the system uses.
mirror=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(SUITE)|$(REPO_URI)' 2>/dev/null |
	awk -F'|' '$1 == "Debian" && $2 == "Debian" && $4 != "" {print $4; exit}')
if [ -z "$mirror" ]; then
	echo "servers.sh: apt knows of no Debian mirror here; is this a Debian, and has apt-get update been run?" >&2
	exit 1
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
own() {
	tool=$1
	shift
	"$tool" -qq -o "Dir::Etc::sourcelist=$tmp/$suite/sources" -o Dir::Etc::sourceparts=- -o "Dir::State=$tmp/$suite/state" \
		-o "Dir::State::status=$tmp/$suite/status" -o "Dir::Cache=$tmp/$suite/cache" -o APT::Sandbox::User=root \
		-o APT::Get::List-Cleanup=0 "$@"
}
update() {
	[ ! -d "$tmp/$suite" ] || return 0
	mkdir -p "$tmp/$suite/state/lists/partial" "$tmp/$suite/cache/archives/partial"
	: >"$tmp/$suite/status"
	echo "deb [signed-by=$keyring] $mirror $suite main" >"$tmp/$suite/sources"
	own apt-get update
}

# unpack puts a server and its libraries into $1/root, with a program beside it that starts it through its own loader.
unpack() {
	update
	rm -rf "$1.part" # of a run that was killed
	mkdir -p "$1.part/root" "$1.part/deb"
	libs=$(own apt-cache depends --recurse -i "$package" | grep -E '^(lib|lua-|zlib)[^:]*$' | sort -u)
	# shellcheck disable=SC2086
	(cd "$1.part/deb" && own apt-get download "$package" busybox-static $libs)
	for deb in "$1.part"/deb/*.deb; do dpkg-deb -x "$deb" "$1.part/root"; done
	rm -rf "$1.part/deb"
	# Packages of before and after the merge of /lib into /usr end up in one place.
	for d in bin lib lib64; do
		if [ -d "$1.part/root/$d" ]; then
			mkdir -p "$1.part/root/usr/$d"
			cp -a "$1.part/root/$d/." "$1.part/root/usr/$d/"
			rm -rf "${1:?}.part/root/$d"
		fi
	done
	loader=$(cd "$1.part/root" && ls usr/lib/*/ld-linux*.so.* | head -n 1)
	# The package keeps the server under the name of a tool: it looks at what it is called.
	server=usr/bin/$kind-check-rdb
	cat >"$1.part/$kind-server" <<-SCRIPT
		#!/bin/sh
		r=\${0%/*}/root
		exec "\$r/$loader" --argv0 $kind-server --library-path "\$r/${loader%/*}" "\$r/$server" "\$@"
	SCRIPT
	chmod +x "$1.part/$kind-server"
	case $("$1.part/$kind-server" --version) in
	*" v=$version"*) ;;
	*)
		echo "servers.sh: $1 says $("$1.part/$kind-server" --version)" >&2
		exit 1
		;;
	esac
	rm -rf "$1"
	mv "$1.part" "$1"
}

# image makes an image of what unpack left in $1: the server, its command line client, what these two load, and a shell.
image() {
	root=$1/root
	mkdir -p "$1/image/usr/bin" "$1/image/data" "$1/image/tmp"
	chmod 1777 "$1/image/data" "$1/image/tmp"
	for d in bin lib lib64; do
		mkdir -p "$1/image/usr/$d"
		ln -s "usr/$d" "$1/image/$d"
	done
	loader=$(cd "$root" && ls usr/lib/*/ld-linux*.so.* | head -n 1)
	libs=${loader%/*}
	cp "$root/usr/bin/$kind-check-rdb" "$1/image/usr/bin/$kind-server"
	cp "$root/usr/bin/$kind-cli" "$1/image/usr/bin/"
	cp "$root/usr/bin/busybox" "$1/image/usr/bin/"
	mkdir -p "$1/image/$libs"
	cp -L "$root/$loader" "$1/image/$libs/"
	cp -a "$root/usr/lib64/." "$1/image/usr/lib64/" 2>/dev/null || ln -s "/$loader" "$1/image/usr/lib64/"
	for program in "$kind-server" "$kind-cli"; do
		"$root/$loader" --library-path "$root/$libs" --list "$1/image/usr/bin/$program" | awk '$2 == "=>" {print $3}' |
			while read -r lib; do cp -L "$lib" "$1/image/$libs/"; done
	done
	for tool in sh ls cat sleep nc grep awk; do ln -s busybox "$1/image/usr/bin/$tool"; done
	# As in the images of registries: options alone are for the server, and it accepts connections from other machines.
	cat >"$1/image/usr/bin/entrypoint" <<-SCRIPT
		#!/bin/sh
		case "\${1:-}" in
		"" | -*) set -- $kind-server --protected-mode no "\$@" ;;
		*.conf)
			conf=\$1
			shift
			set -- $kind-server "\$conf" --protected-mode no "\$@"
			;;
		*-server)
			shift
			set -- $kind-server "\$@" --protected-mode no
			;;
		esac
		exec "\$@"
	SCRIPT
	chmod +x "$1/image/usr/bin/entrypoint"
	tar -C "$1/image" --owner=0 --group=0 -cf - . | docker import --change 'ENTRYPOINT ["/usr/bin/entrypoint"]' \
		--change "CMD [\"$kind-server\"]" --change 'EXPOSE 6379/tcp' --change 'WORKDIR /data' \
		--change 'ENV PATH=/usr/bin:/bin' - "redisxtest/$kind:$version" >/dev/null
}

for name in "$@"; do
	describe "$name"
	if [ "$what" = unpack ]; then
		[ -x "$dir/$name/$kind-server" ] || unpack "$dir/$name"
		"$dir/$name/$kind-server" --version
	else
		if ! docker image inspect "redisxtest/$kind:$version" >/dev/null 2>&1; then
			unpack "$tmp/$name"
			image "$tmp/$name"
		fi
		docker image inspect --format '{{index .RepoTags 0}} {{.Size}} bytes' "redisxtest/$kind:$version"
	fi
done
