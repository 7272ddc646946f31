#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the root file system of a runtime from its folder: a recipe, what the recipe copies in, and, where a runtime
# needs steps of its own, hooks.sh. docs/runtimes.md has the page.
#
#   build-image.sh FOLDER --name         print the runtime's name
#   build-image.sh FOLDER --id           print the image's id: sha256 over everything that makes it
#   build-image.sh FOLDER --out DIR      build DIR/<id>/rootfs unless it is there; prints its path. Packages come from
#                                        DIR/base-<id>, shared by images that differ in other things only. Beside
#                                        rootfs: recipe, metadata.json, zygote (one word)
#   --programs DIR                       where Bivouac's built programs are: bivouac-zygote-exec, which checks the
#                                        recipe, and those that the recipe names (default: the folder)
#   --sources FILE                       apt sources to use (default: the suite's from deb.debian.org)
#
# Progress goes to descriptor 3 where that is open: "BIVOUAC-PROGRESS <percent> <text>".

set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

self=$(realpath "$0")
folder='' out='' want='' programs='' sources=''

die() {
	echo "build-image: $*" >&2
	exit 1
}

progress() {
	{ echo "BIVOUAC-PROGRESS $*" >&3; } 2>/dev/null || true
	echo "build-image: $*" >&2
}

usage="usage: $0 FOLDER --name | --id | --out DIR [--programs DIR] [--sources FILE]"
while [ $# -gt 0 ]; do
	case $1 in
	--name | --id) want=$1 ;;
	--out) want=--out out=${2:?--out needs a directory}; shift ;;
	--programs) programs=${2:?--programs needs a directory}; shift ;;
	--sources) sources=${2:?--sources needs a file}; shift ;;
	-*) die "unknown argument $1" ;;
	*) [ -z "$folder" ] || die "$usage"; folder=$1 ;;
	esac
	shift
done
[[ -n $folder && -n $want ]] || die "$usage"
[ -f "$folder/recipe" ] || die "$folder: there is no recipe"
folder=$(realpath "$folder")
recipe=$folder/recipe
programs=$(realpath "${programs:-$folder}")

# All values of a key, one line of the recipe each.
values() {
	sed -n "s/^$1[[:space:]]*=[[:space:]]*//p" "$recipe"
}

words() {
	values "$1" | xargs -n 1
}

# Keys that change nothing in the base layer: what is copied on top of it, and what is only read at run time.
late_keys='name|container_type|kernel|terminal|environment|zygote|import|file|program'
base_keys='variant|suite|components|package|user|directory|link|remove|remove_named|remove_suffix|font_cache'

check_recipe() {
	local line key number=0
	[ "$(wc -c <"$recipe")" -le 65536 ] || die "$recipe: more than 65536 bytes"
	while IFS= read -r line || [ -n "$line" ]; do
		number=$((number + 1))
		[[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
		[[ $line =~ ^([a-z_]+)[[:space:]]*=[[:space:]]*[^[:space:]] ]] ||
			die "$recipe:$number: not 'key = value'"
		key=${BASH_REMATCH[1]}
		[[ $key =~ ^($late_keys|$base_keys)$ ]] || die "$recipe:$number: there is no key '$key'"
	done <"$recipe"
	[[ $(values name) =~ ^[a-z0-9-]{1,32}$ ]] ||
		die "$recipe: name is one word of lower-case letters, digits and '-'"
	[[ $(values container_type) =~ ^[A-Za-z0-9]{1,23}$ ]] ||
		die "$recipe: container_type is one word of 1 to 23 letters and digits"
	# What zygotes read of it, in the words of the program that will.
	[ -x "$programs/bivouac-zygote-exec" ] ||
		die "$programs/bivouac-zygote-exec: not built (ninja, or --programs)"
	line=$("$programs/bivouac-zygote-exec" --check-recipe "$recipe" 2>&1) || die "$folder/$line"
	while read -r key line; do
		[ "$line" != @zygote ] || [ "$(zygote)" != exec ] ||
			die "$recipe: kernel $key: @zygote needs a zygote with an interpreter"
	done < <(values kernel)
}

zygote() {
	local word
	word=$(values zygote)
	[[ ${word:-exec} =~ ^(exec|python)$ ]] || die "$recipe: zygote is 'exec' or 'python'"
	echo "${word:-exec}"
}

# "SOURCE DEST" lines of everything that is copied in.
files() {
	local from to
	while read -r from to; do
		[ -n "$to" ] || die "$recipe: file is SOURCE DESTINATION"
		echo "$folder/$from $to"
	done < <(values file)
}

# The same of built programs: DEST is below /opt/bivouac unless it is said.
program_files() {
	local name to
	while read -r name to; do
		[[ $name =~ ^[A-Za-z0-9._-]+$ ]] || die "$recipe: program is a file's name, not '$name'"
		echo "$programs/$name ${to:-/opt/bivouac/$name}"
	done < <(values program)
}

# Without what differs from build directory to build directory and nobody needs at run time.
stripped() {
	strip --strip-all --remove-section=.note.gnu.build-id -o "$2" "$1" || die "$1: cannot be stripped"
}

# SECURITY: the id names the content: an image built from other sources is never taken for this one.
image_id() {
	local from to copy
	copy=$(mktemp)
	{
		sha256sum <"$self"
		sha256sum <"$recipe"
		[ ! -f "$folder/hooks.sh" ] || sha256sum <"$folder/hooks.sh"
		files | while read -r from to; do
			[ -e "$from" ] || die "$from: no such file"
			find -L "$from" -name __pycache__ -prune -o -type f -printf '%m %P\n' | sort |
				while read -r mode name; do
					echo "$to/$name $mode $(sha256sum <"$from${name:+/$name}")"
				done
		done
		program_files | while read -r from to; do
			[ -e "$from" ] || die "$from: not built (ninja, or --programs)"
			stripped "$from" "$copy"
			echo "$to $(sha256sum <"$copy")"
		done
	} | sha256sum | cut -c1-64
	rm -f "$copy"
}

# Of what makes the base layer alone: what takes minutes is done once for many drivers.
base_id() {
	{
		# shellcheck disable=SC2046 # names of functions
		declare -f install_packages lay_out shrink build_base seal $(base_hooks)
		grep -E "^($base_keys)[[:space:]]*=" "$recipe"
	} | sha256sum | cut -c1-64
}

# Functions of hooks.sh that the base layer may depend on: all but those that run on top of it.
base_hooks() {
	[ -f "$folder/hooks.sh" ] || return 0
	comm -13 <(echo "$own_functions") <(compgen -A function | sort) |
		grep -vxE 'hook_(finish|check|metadata)' || true
}

hook() {
	local name=$1
	shift
	if declare -F "$name" >/dev/null; then
		"$name" "$@"
	fi
}

install_packages() {
	local root=$1 packages
	packages=$(words package | paste -sd,)
	# No set of package recommendations, no documentation unpacked at all.
	mmdebstrap --variant="$(values variant | grep . || echo minbase)" --mode=root --format=directory \
		${packages:+--include="$packages"} \
		--components="$(words components | grep . | paste -sd, || echo main)" \
		--aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		"$(values suite | grep . || echo bookworm)" "$root" ${sources:+"$sources"} >&2
}

copy_files() {
	local root=$1 from to
	{ files && program_files; } | while read -r from to; do
		mkdir -p "$root$(dirname "$to")"
		rm -rf "${root:?}$to" # a hard link into the base
		if [ "${from#"$programs/"}" != "$from" ] && grep -qE "^program[[:space:]]*=[[:space:]]*${from##*/}\b" "$recipe"; then
			stripped "$from" "$root$to"
		else
			cp -RL --preserve=mode "$from" "$root$to"
		fi
	done
	cp "$recipe" "$root/opt/bivouac/recipe"
	find "$root/opt/bivouac" -name __pycache__ -prune -exec rm -rf {} +
}

lay_out() {
	local root=$1 path target name uid home shell
	while read -r path; do
		mkdir -p "$root$path"
	done < <(printf '%s\n' /opt/bivouac /mnt/data /home/session /tmp /run; words directory)
	while read -r path target; do
		ln -sfn "$target" "$root$path"
	done < <(values link)
	while read -r name uid home shell; do
		echo "$name:x:$uid:$uid::$home:$shell" >>"$root/etc/passwd"
		echo "$name:x:$uid:" >>"$root/etc/group"
	done < <(values user | grep . || echo session 1000 /home/session /bin/bash)
	echo localhost >"$root/etc/hostname"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
	# Where the gateway of connected sessions answers; without egress nothing routes there, and a
	# lookup fails at once.
	printf 'nameserver 169.254.1.1\noptions timeout:2 attempts:2\n' >"$root/etc/resolv.conf"
	[ ! -f "$root/etc/nsswitch.conf" ] ||
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

# SECURITY: the same for what came on top of the base; new files all of them.
seal_files() {
	local root=$1 from to
	{ files && program_files; } | while read -r from to; do
		echo "$root$to"
	done | { cat && echo "$root/opt/bivouac"; } | while read -r to; do
		chown -hR 0:0 "$to"
		chmod -R u=rwX,go=rX "$to"
	done
}

# Fails the build rather than the first session.
check() {
	local root=$1 language program
	while read -r language program _; do
		[ "$program" = @zygote ] || chroot "$root" /usr/bin/test -x "$program" ||
			die "kernel $language: $program is not an executable file in the image"
	done < <(values kernel; values terminal | sed 's/^/terminal /')
	hook hook_check "$root"
}

# What GET …/metadata answers, where no hook says more.
write_metadata() {
	local root=$1 file=$2
	if declare -F hook_metadata >/dev/null; then
		hook_metadata "$root" >"$file"
		return
	fi
	{
		printf '{"runtimes":[{"name":"%s","version":""}],"preInstalledPackages":[' "$(values name)"
		packages "$root" | sed '$!s/$/,/'
		echo ']}'
	} >"$file"
}

# One JSON object a line for each installed Debian package.
packages() {
	# shellcheck disable=SC2016 # dpkg-query's own variables
	dpkg-query --admindir="$1/var/lib/dpkg" -W -f '{"name":"${Package}","version":"${Version}"}\n'
}

build_base() {
	local root=$1
	progress 5 "installing packages"
	install_packages "$root"
	lay_out "$root"
	shrink "$root"
	progress 60 "preparing what was installed"
	hook hook_base "$root"
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
	progress 90 "copying the kernel drivers"
	# Hard links: the base is never written again, and nothing below writes into an existing file.
	cp -al "$base" "$root"
	copy_files "$root"
	hook hook_finish "$root"
	seal_files "$root"
	progress 95 "checking the kernel drivers"
	check "$root"
	write_metadata "$root" "${root%/rootfs}/metadata.json"
}

check_recipe
own_functions=$(compgen -A function | sort)
if [ -f "$folder/hooks.sh" ]; then
	# shellcheck source=/dev/null
	. "$folder/hooks.sh"
fi
if [ "$want" = --name ]; then
	values name
	exit 0
fi
id=$(image_id)
[ ${#id} = 64 ] || exit 1
if [ "$want" = --id ]; then
	echo "$id"
	exit 0
fi
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
	zygote >"$work/zygote"
	mv -T "$work" "$out/$id"
	trap - EXIT
fi
progress 100 "ready"
echo "$out/$id/rootfs"
