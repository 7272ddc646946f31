#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzz target under libFuzzer for the given number of seconds.
set -euo pipefail
seconds=${1:-60}
build="build-fuzz"
[ -f $build/build.ninja ] ||
	CC=clang meson setup $build -Dfuzzers=true -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
ninja -C $build >/dev/null
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	corpus=tests/fuzz/corpus/${name#fuzz_}
	work=$(mktemp -d)
	echo "== $name"
	"$build/tests/$name" -max_total_time="$seconds" -max_len=65536 -print_final_stats=1 "$work" "$corpus" 2>&1 | tail -4
	rm -rf "$work"
done
