#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make abuse-long`: the attack suite with its long loops, then random system calls from inside for
# BIVOUAC_ABUSE_SECONDS (default an hour) in BIVOUAC_ABUSE_SESSIONS sessions (default: one for each 1.2 s).
set -uo pipefail

BIVOUAC_BIN_DIR=$(realpath "${BUILD:-build}")
seconds=${BIVOUAC_ABUSE_SECONDS:-3600}
sessions=${BIVOUAC_ABUSE_SESSIONS:-$((seconds * 10 / 12 + 1))}
export BIVOUAC_BIN_DIR
pytest=(/usr/bin/python3 -m pytest -q -rs -p no:cacheprovider)
status=0

BIVOUAC_ABUSE_LONG=1 "${pytest[@]}" --ignore=tests/abuse/test_random_syscalls.py tests/abuse || status=1
BIVOUAC_ABUSE_SECONDS=$seconds BIVOUAC_ABUSE_SESSIONS=$sessions "${pytest[@]}" -s tests/abuse/test_random_syscalls.py ||
	status=1
exit "$status"
