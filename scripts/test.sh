#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make test`: units and corpora, plain and under sanitizers; end to end against the real daemon, plain and (a part of
# it) under sanitizers; published clients; attacks from inside sessions. Closes with "N passed, N failed[, N skipped]".
set -uo pipefail

build=$(realpath "${BUILD:-build}")
asan=$(dirname "$build")/build-asan
passed=0 failed=0 skipped=0
export ASAN_OPTIONS=abort_on_error=0:exitcode=99:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

step() { printf '\n== %s\n' "$*"; }

# meson's own summary lines: "Ok: 12", "Fail: 0", "Skipped: 0", "Timeout: 0".
count_meson() {
	local log=$1
	passed=$((passed + $(sed -n 's/^Ok: *\([0-9]*\).*/\1/p' "$log" | tail -1)))
	local key n
	for key in Fail 'Unexpected Pass' Timeout; do
		n=$(sed -n "s/^$key: *\([0-9]*\).*/\1/p" "$log" | tail -1)
		failed=$((failed + ${n:-0}))
	done
	n=$(sed -n 's/^Skipped: *\([0-9]*\).*/\1/p' "$log" | tail -1)
	skipped=$((skipped + ${n:-0}))
}

# pytest's closing line: "3 failed, 120 passed, 2 skipped, 1 error in 12s".
count_pytest() {
	local line n
	line=$(grep -E '^(=+ )?[0-9]+ (passed|failed|skipped|error|deselected).* in [0-9.]+s' "$1" | tail -1)
	if [ -z "$line" ]; then
		failed=$((failed + 1))
		return
	fi
	n=$(grep -oE '[0-9]+ passed' <<<"$line" | cut -d' ' -f1); passed=$((passed + ${n:-0}))
	n=$(grep -oE '[0-9]+ failed' <<<"$line" | cut -d' ' -f1); failed=$((failed + ${n:-0}))
	n=$(grep -oE '[0-9]+ errors?' <<<"$line" | cut -d' ' -f1); failed=$((failed + ${n:-0}))
	n=$(grep -oE '[0-9]+ skipped' <<<"$line" | cut -d' ' -f1); skipped=$((skipped + ${n:-0}))
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Tests wait more than they work: more of them at once than there are processors, and none counts on
# how long anything takes.
run_meson() {
	meson test -C "$1" --print-errorlogs --num-processes 8 2>&1 | tee "$log"
	grep -q '^Ok:' "$log" && count_meson "$log" || failed=$((failed + 1))
}

run_pytest() {
	/usr/bin/python3 -m pytest -q -rs -p no:cacheprovider --durations=8 "$@" 2>&1 | tee "$log"
	count_pytest "$log"
}

# The files of a folder by twos, each with daemons of its own.
run_pytest_twice() {
	run_pytest -n 2 --dist loadfile "$@"
}

step "unit tests and fuzz corpora"
run_meson "$build"

step "the same under AddressSanitizer and UndefinedBehaviorSanitizer"
if { [ -f "$asan/build.ninja" ] ||
	meson setup "$asan" -Db_sanitize=address,undefined -Db_lundef=false >/dev/null; } &&
	ninja -C "$asan" >"$log" 2>&1; then
	run_meson "$asan"
else
	tail -30 "$log"
	failed=$((failed + 1))
fi

step "kernel drivers"
BIVOUAC_TEST_ROOTFS=$("$build/bivouac" image path)
BIVOUAC_TEST_ROOTFS_NODE=$("$build/bivouac" image path --runtime node)
export BIVOUAC_TEST_ROOTFS BIVOUAC_TEST_ROOTFS_NODE
BIVOUAC_BIN_DIR=$build run_pytest_twice tests/unit

step "cgroup layouts in a micro VM"
BIVOUAC_BIN_DIR=$build run_pytest tests/vm

step "end to end"
BIVOUAC_BIN_DIR=$build run_pytest_twice tests/e2e

step "published clients"
BIVOUAC_BIN_DIR=$build run_pytest tests/clients

step "attacks"
BIVOUAC_BIN_DIR=$build run_pytest tests/abuse

step "end to end under sanitizers"
sanitized=(execute files bad_input gateway sessions arm client_bytes identity_endpoint superset_contract superset_files
	superset_service superset_shell streaming contexts mcp terminal tls shell_commands)
sanitized=("${sanitized[@]/#/tests/e2e/test_}")
BIVOUAC_BIN_DIR=$asan run_pytest_twice "${sanitized[@]/%/.py}"
BIVOUAC_BIN_DIR=$asan run_pytest tests/e2e/test_limits.py -k memory
BIVOUAC_BIN_DIR=$asan run_pytest tests/e2e/test_launch.py -k waits_for_its_zygote

echo
if [ "$skipped" -gt 0 ]; then
	echo "$passed passed, $failed failed, $skipped skipped"
else
	echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
