# SPDX-License-Identifier: Apache-2.0
"""docs/limits.md cannot rot: the tests it names exist, and no limit of a pool or of the daemon is left out."""

import pathlib
import re

REPO = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs/limits.md").read_text()


def named_tests():
    return set(re.findall(r"\b(test_\w+\.(?:py|c))::(\w+)", PAGE))


def test_named_tests_exist():
    assert len(named_tests()) > 50
    missing = []
    for file, name in sorted(named_tests()):
        found = [path.read_text() for path in REPO.glob(f"tests/*/{file}")]
        pattern = rf"^def {name}\(" if file.endswith(".py") else rf"^static void {name}\("
        if not any(re.search(pattern, text, re.M) for text in found):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_row_names_a_test():
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("limit", "word", "---"):
            continue
        assert "::" in cells[-1] or cells[-1].startswith("none: "), line


def test_every_pool_limit_has_a_row():
    source = (REPO / "src/arm/session_limits.c").read_text()
    names = re.findall(r'\{\s*"(\w+)",\s*LIMIT_', source)
    assert len(names) >= 12
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_every_numeric_option_has_a_row():
    """Options that bound callers; the others are about stock, start and the daemon's own log."""
    source = (REPO / "src/daemon/options.c").read_text()
    names = set(re.findall(r'\{\s*"([\w-]+)",\s*NUMBER', source))
    names -= {"shells", "starting-max", "egress-log-max"}
    assert len(names) >= 9
    assert sorted(name for name in names if f"`--{name}`" not in PAGE) == []
