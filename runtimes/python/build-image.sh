#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the root file system of the Python runtime.
#
#   build-image.sh --id             print the image's id: sha256 over recipe, driver and this script
#   build-image.sh --out DIR        build DIR/<id>/rootfs unless it is there; prints its path
#                                   (packages come from DIR/base-<id>, shared by images that differ
#                                   in the driver only; beside rootfs is metadata.json)
#   --add SOURCE DEST               one more file for the image (the zygote program); part of the id
#   --sources FILE                  apt sources to use (default: the suite's from deb.debian.org)
#
# Progress goes to descriptor 3 where that is open: "BIVOUAC-PROGRESS <percent> <text>".

set -euo pipefail
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

here=$(cd "$(dirname "$0")" && pwd)
recipe=$here/recipe
out='' want_id=false sources=''
added=()

die() {
	echo "build-image: $*" >&2
	exit 1
}

progress() {
	{ echo "BIVOUAC-PROGRESS $*" >&3; } 2>/dev/null || true
	echo "build-image: $*" >&2
}

while [ $# -gt 0 ]; do
	case $1 in
	--id) want_id=true ;;
	--out) out=${2:?--out needs a directory}; shift ;;
	--sources) sources=${2:?--sources needs a file}; shift ;;
	--add) added+=("${2:?--add needs SOURCE DEST} ${3:?--add needs SOURCE DEST}"); shift 2 ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done

# All values of a key, one line of the recipe each.
values() {
	sed -n "s/^$1[[:space:]]*=[[:space:]]*//p" "$recipe"
}

words() {
	values "$1" | xargs -n 1
}

# "SOURCE DEST" lines of everything that is copied in.
files() {
	local from to
	while read -r from to; do
		echo "$here/$from $to"
	done < <(values file)
	[ ${#added[@]} -eq 0 ] || printf '%s\n' "${added[@]}"
}

# SECURITY: the id names the content: an image built from other sources is never taken for this one.
image_id() {
	local from to
	{
		sha256sum <"$here/build-image.sh"
		files | while read -r from to; do
			[ -e "$from" ] || die "$from: no such file"
			find "$from" -name __pycache__ -prune -o -type f -printf '%P\n' | sort |
				while read -r name; do
					echo "$to/$name $(sha256sum <"$from${name:+/$name}")"
				done
		done
	} | sha256sum | cut -c1-64
}

# Of everything but the driver's files: what takes minutes is done once for many drivers.
base_id() {
	{
		sha256sum <"$here/build-image.sh"
		sha256sum <"$recipe"
	} | sha256sum | cut -c1-64
}

install_packages() {
	local root=$1 packages
	packages=$(words package | paste -sd,)
	# No set of package recommendations, no documentation unpacked at all.
	mmdebstrap --variant=minbase --mode=root --format=directory \
		--include="$packages" --components="$(words components | paste -sd,)" \
		--aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		"$(words suite)" "$root" ${sources:+"$sources"} >&2
}

copy_files() {
	local root=$1 from to
	files | while read -r from to; do
		mkdir -p "$root$(dirname "$to")"
		cp -RL --preserve=mode "$from" "$root$to"
	done
	find "$root/opt/bivouac" -name __pycache__ -prune -exec rm -rf {} +
}

lay_out() {
	local root=$1 path target name uid home shell
	while read -r path; do
		mkdir -p "$root$path"
	done < <(words directory)
	while read -r path target; do
		ln -sfn "$target" "$root$path"
	done < <(values link)
	while read -r name uid home shell; do
		echo "$name:x:$uid:$uid::$home:$shell" >>"$root/etc/passwd"
		echo "$name:x:$uid:" >>"$root/etc/group"
	done < <(values user)
	echo localhost >"$root/etc/hostname"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
	# Where the gateway of connected sessions answers; without egress nothing routes there, and a
	# lookup fails at once.
	printf 'nameserver 169.254.1.1\noptions timeout:2 attempts:2\n' >"$root/etc/resolv.conf"
	sed -i 's/^hosts:.*/hosts:          files dns/' "$root/etc/nsswitch.conf"
	: >"$root/etc/machine-id"
}

shrink() {
	local root=$1 path name
	while read -r path; do
		rm -rf "${root:?}$path"
	done < <(words remove)
	while read -r path name; do
		find "$root$path" -depth -type d -name "$name" -exec rm -rf {} +
	done < <(values remove_named)
	while read -r path name; do
		find "$root$path" -type f -name "*$name" -delete
	done < <(values remove_suffix)
	rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/tmp/* \
		"$root"/root/.[a-z]* "$root"/var/lib/dpkg/*-old
}

# The image is read-only at run time: what Python and matplotlib would cache is made here.
# Unchecked: nothing can change a source file, so nothing needs to compare it at each import.
compile_python() {
	local root=$1 code=0
	find "$root/usr/lib/python3" "$root/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +
	# Some packages ship files for other Python versions, which do not compile.
	chroot "$root" /usr/bin/python3 -m compileall -q -q -j 0 --invalidation-mode unchecked-hash \
		/usr/lib/python3.11 /usr/lib/python3/dist-packages >&2 || code=$?
	[ "$code" -le 1 ] || die "compileall failed"
}

cache_fonts() {
	local root=$1 dir
	dir=$(words font_cache)
	mkdir -p "$root$dir"
	chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin MPLCONFIGDIR="$dir" PYTHONDONTWRITEBYTECODE=1 \
		/usr/bin/python3 -c 'import matplotlib.font_manager' >&2
	ls "$root$dir"/fontlist-*.json >/dev/null || die "no font cache was made"
}

# SECURITY: nothing in the image may raise privileges or belongs to the session's user.
seal() {
	local root=$1
	find "$root/dev" -mindepth 1 -delete
	rm -rf "$root"/tmp/* "$root"/root/.[a-z]*
	find "$root" -xdev -type f -perm /6000 -exec chmod ug-s {} +
	find "$root" -xdev \( -type b -o -type c -o -type p -o -type s \) -delete
	find "$root" -xdev -exec chown -h 0:0 {} +
	find "$root" -xdev -type d -perm /7000 -exec chmod a-s,-t {} +
	find "$root" -xdev ! -type l -perm /022 -exec chmod go-w {} +
	find "$root" -xdev -type f -exec setfattr -x security.capability {} + 2>/dev/null || true
	# The session's user must be able to read the image; /tmp and the like are mounts at run time.
	chmod 755 "$root" "$root/mnt/data" "$root/home/session" "$root/tmp"
	[ -z "$(find "$root" -xdev -perm /6000 ! -type l -print -quit)" ] || die "setuid files left"
}

# Fails the build rather than the first session.
check() {
	local root=$1
	chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c '
import sys
sys.path.insert(0, "/opt/bivouac")
import bivouac_kernel
problems = bivouac_kernel.prepare()
sys.__stderr__.write("".join(f"build-image: prepare: {p}\n" for p in problems))
sys.exit(bool(problems))
' >&2 || die "the kernel driver does not start in the image"
}

# What GET …/metadata answers.
write_metadata() {
	local root=$1 file=$2
	chroot "$root" /usr/bin/python3 -I - >"$file" <<-'EOF_PY'
		import importlib.metadata, json, platform
		names = {}
		for dist in importlib.metadata.distributions():
		    name = dist.metadata["Name"]
		    if name:
		        names.setdefault(name, dist.version)
		packages = [{"name": n, "version": names[n]} for n in sorted(names, key=str.lower)]
		print(json.dumps({
		    "runtimes": [{"name": "python", "version": platform.python_version()}],
		    "preInstalledPackages": packages,
		    "jupyterKernel": {
		        "name": "python3",
		        "version": names.get("ipython", ""),
		        "projectUrl": "https://ipython.org",
		        "description": "Bivouac's Python kernel, with IPython for magics and rich display",
		    },
		}))
	EOF_PY
}

build_base() {
	local root=$1
	progress 5 "installing packages"
	install_packages "$root"
	lay_out "$root"
	shrink "$root"
	progress 60 "compiling Python files"
	compile_python "$root"
	progress 85 "caching fonts"
	cache_fonts "$root"
	seal "$root"
}

build() {
	local root=$1 base
	base=$out/base-$(base_id)
	if [ ! -d "$base" ]; then
		rm -rf --one-file-system "$base.tmp"
		build_base "$base.tmp"
		mv -T "$base.tmp" "$base"
	fi
	progress 90 "copying the kernel driver"
	# Hard links: the base is never written again, and nothing below writes into an existing file.
	cp -al "$base" "$root"
	copy_files "$root"
	chroot "$root" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash \
		/opt/bivouac >&2
	chown -R 0:0 "$root/opt/bivouac"
	chmod -R go-w "$root/opt/bivouac"
	progress 95 "checking the kernel driver"
	check "$root"
	write_metadata "$root" "${root%/rootfs}/metadata.json"
}

id=$(image_id)
if $want_id; then
	echo "$id"
	exit 0
fi
[ -n "$out" ] || die "usage: $0 --id | --out DIR [--add SOURCE DEST]... [--sources FILE]"
[ "$(id -u)" = 0 ] || die "must run as root"
command -v mmdebstrap >/dev/null || die "mmdebstrap is not installed"

mkdir -p "$out"
exec 9>"$out/.lock"
if ! flock -n 9; then
	progress 0 "waiting for another builder"
	flock 9
fi
if [ ! -d "$out/$id" ]; then
	work=$out/$id.tmp
	rm -rf --one-file-system "$work"
	trap 'rm -rf --one-file-system "$work"' EXIT
	mkdir -p "$work"
	# mmdebstrap's helpers must not inherit the lock.
	build "$work/rootfs" 9>&-
	[ "$(image_id)" = "$id" ] || die "the sources changed while the image was built"
	cp "$recipe" "$work/recipe"
	mv -T "$work" "$out/$id"
	trap - EXIT
fi
progress 100 "ready"
echo "$out/$id/rootfs"
