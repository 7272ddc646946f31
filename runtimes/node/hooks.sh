# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Steps of the Node image; sourced by build-image.sh, whose functions it uses.

# Each of these would otherwise fail in the first session: the native part, the driver's scripts, the
# modules of the packages that the recipe names.
hook_check() {
	local modules
	modules=$(words package | sed -n 's/^node-//p' | paste -sd' ')
	# shellcheck disable=SC2016,SC2086 # JavaScript; words
	chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin /usr/bin/node -e '
const native = require("/opt/bivouac/node/native.node");
if (typeof native.evaluate !== "function") throw new Error("native.node has no evaluate");
for (const file of require("fs").readdirSync("/opt/bivouac/node")) {
	if (file.endsWith(".js") && file !== "kernel.js") require(`/opt/bivouac/node/${file}`);
}
const named = { fetch: "node-fetch", bignumber: "bignumber.js" };
for (const name of process.argv.slice(1)) require(named[name] ?? name);
' -- $modules >&2 || die "the kernel driver or a module does not load in the image"
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
	printf '],"jupyterKernel":{"name":"javascript","version":"%s",' "$version"
	printf '"projectUrl":"https://nodejs.org","description":"Bivouac'"'"'s Node kernel"}}\n'
}
