# SPDX-License-Identifier: Apache-2.0
"""Attacks against a real bivouacd, with the helpers and fixtures of the end-to-end tests."""

import pathlib
import sys

END_TO_END = pathlib.Path(__file__).resolve().parents[1] / "e2e"

# One conftest takes the place of the other: same fixtures, same hooks, same helpers.
sys.path.append(str(END_TO_END))
exec(compile((END_TO_END / "conftest.py").read_text(), str(END_TO_END / "conftest.py"), "exec"))
