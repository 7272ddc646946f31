# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Steps of the Python image; sourced by build-image.sh, whose functions (words, die, progress) it uses.

# The image is read-only at run time: what Python and matplotlib would cache is made here.
hook_base() {
	compile_python "$1"
	progress 85 "caching fonts"
	cache_fonts "$1"
}

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

hook_finish() {
	chroot "$1" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/bivouac >&2
}

hook_check() {
	chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c '
import sys
sys.path.insert(0, "/opt/bivouac")
import bivouac_kernel
problems = bivouac_kernel.prepare()
sys.__stderr__.write("".join(f"build-image: prepare: {p}\n" for p in problems))
sys.exit(bool(problems))
' >&2 || die "the kernel driver does not start in the image"
}

hook_metadata() {
	chroot "$1" /usr/bin/python3 -I - <<-'EOF_PY'
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
