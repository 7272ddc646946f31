# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Steps of the Node image; sourced by build-image.sh, whose functions it uses.

hook_check() {
	chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin /usr/bin/node -e '
const native = require("/opt/bivouac/node/native.node");
if (typeof native.send !== "function") throw new Error("native.node has no send");
' >&2 || die "the native part of the kernel driver does not load in the image"
}

hook_metadata() {
	local version
	version=$(chroot "$1" /usr/bin/node -p process.versions.node)
	printf '{"runtimes":[{"name":"node","version":"%s"}],"preInstalledPackages":[' "$version"
	# Node's own packages, by the names that require() knows.
	find "$1"/usr/*/nodejs -mindepth 2 -maxdepth 3 -name package.json |
		sed "s|^$1||" | sort | chroot "$1" /usr/bin/node -e '
const fs = require("fs");
const found = new Map();
for (const file of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
	const name = file.replace(/^\/usr\/(share|lib)\/nodejs\//, "").replace(/\/package\.json$/, "");
	const { version } = JSON.parse(fs.readFileSync(file, "utf8"));
	if (version && (name.startsWith("@") || !name.includes("/")) && !found.has(name)) {
		found.set(name, { name, version });
	}
}
process.stdout.write([...found.values()].map((entry) => JSON.stringify(entry)).join(","));
'
	echo ']}'
}
