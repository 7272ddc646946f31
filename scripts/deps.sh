#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what building, running and testing take. Does nothing, fast, when it is all there.
set -euo pipefail

packages=(
	# build
	gcc libc6-dev make meson ninja-build pkg-config
	libuv1-dev libmicrohttpd-dev libgnutls28-dev libwslay-dev libjansson-dev libcjose-dev libssl-dev libsqlite3-dev libseccomp-dev
	libcurl4-openssl-dev libmnl-dev libsmartcols-dev libinih-dev python3-dev
	# image
	mmdebstrap arch-test
	# run and test
	curl jq ca-certificates iproute2 nftables procps util-linux python3 python3-pytest python3-pytest-xdist libcmocka-dev qemu-system-x86
	python3-aiohttp python3-httpx python3-requests
	# lint
	clang clang-format clang-tidy cppcheck shellcheck git
)

# Node.js runs published clients in tests/clients; any other one that is there will do.
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)

missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "deps: missing packages, run as root: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	echo "deps: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ "$(id -u)" = 0 ] && ! getent passwd bivouac >/dev/null; then
	useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bivouac
fi
