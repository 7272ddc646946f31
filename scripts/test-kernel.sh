#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a Linux kernel for the tests that boot a micro VM. It is the image of Debian's cloud kernel,
# unpacked into a cache of its own: nothing is installed into the system. Newest cached one first; apt is asked only
# when there is none.
set -euo pipefail

cache=${BIVOUAC_TEST_KERNELS:-/var/cache/bivouac/test-kernel}
meta=linux-image-cloud-$(dpkg --print-architecture)

mkdir -p "$cache"

newest() { find "$cache" -mindepth 2 -maxdepth 2 -name vmlinuz 2>/dev/null | sort -V | tail -1; }

# The package that the meta package stands for; its name carries the version.
resolve() { apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1; }

found=$(newest)
if [ -z "$found" ]; then
	package=$(resolve)
	if [ -z "$package" ]; then
		apt-get -qq update >&2
		package=$(resolve)
	fi
	[ -n "$package" ] || { echo "test-kernel: apt knows no $meta" >&2; exit 1; }
	work=$(mktemp -d)
	new=
	trap 'rm -rf "$work" ${new:+"$new"}' EXIT
	# As root: apt's own user may not enter the directory.
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") >&2
	mkdir -p "$cache/$package"
	new=$(mktemp "$cache/$package/new.XXXXXX")
	dpkg-deb --fsys-tarfile "$work"/*.deb |
		tar -x -O --wildcards './boot/vmlinuz-*' >"$new"
	chmod 644 "$new"
	# Two runs at once: the last rename wins, both are whole.
	mv "$new" "$cache/$package/vmlinuz"
	found=$(newest)
fi
echo "$found"
