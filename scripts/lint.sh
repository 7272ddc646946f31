#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make lint`: format, layering, shell scripts, cppcheck, clang-tidy.
set -uo pipefail
build=${BUILD:-build}
status=0
mapfile -t c_files < <(git ls-files 'src/*.c' 'runtimes/*.c')
mapfile -t all_c < <(git ls-files 'src/*.[ch]' 'runtimes/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]')
mapfile -t shells < <(git ls-files 'scripts/*.sh' 'runtimes/*.sh' .ci/run)

echo "== format"
clang-format --dry-run --Werror "${all_c[@]}" || status=1
echo "== layering"
/usr/bin/python3 scripts/layering.py || status=1
echo "== shellcheck"
shellcheck "${shells[@]}" || status=1
echo "== cppcheck"
cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
	--suppressions-list=.cppcheck-suppressions -D_GNU_SOURCE --include=scripts/cppcheck-macros.h \
	-Isrc -Iruntimes -Iruntimes/python -j 2 "${c_files[@]}" || status=1
echo "== clang-tidy"
printf '%s\n' "${c_files[@]}" | xargs -P 2 -n 8 clang-tidy -p "$build" --quiet 2>/dev/null | grep -E 'warning:|error:' && status=1
[ $status = 0 ] && echo "lint: clean"
exit $status
