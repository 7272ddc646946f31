# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Steps of the Shell image; sourced by build-image.sh, whose functions it uses.

# Unchecked: nothing can change a source file, so nothing needs to compare it at each import.
hook_finish() {
	chroot "$1" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/bivouac >&2
}

hook_check() {
	chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c '
import sys
sys.path.insert(0, "/opt/bivouac")
import bivouac_kernel.session
' >&2 || die "the Python driver does not load in the image"
	chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin /usr/bin/node -e \
		'require("/opt/bivouac/node/native.node")' >&2 || die "the Node driver does not load in the image"
}

hook_metadata() {
	# shellcheck disable=SC2016 # for the shell in there
	chroot "$1" /bin/bash -c 'printf "{\"runtimes\":[{\"name\":\"bash\",\"version\":\"%s\"}," "${BASH_VERSION%%(*}"'
	printf '{"name":"python","version":"%s"},' "$(chroot "$1" /usr/bin/python3 -c 'import platform; print(platform.python_version())')"
	printf '{"name":"node","version":"%s"}],"preInstalledPackages":[' "$(chroot "$1" /usr/bin/node -p process.versions.node)"
	packages "$1" | sed '$!s/$/,/'
	echo ']}'
}
