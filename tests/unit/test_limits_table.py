# SPDX-License-Identifier: Apache-2.0
"""docs/limits.md and the tables of docs/threat-model.md cannot rot: the tests they name exist, and nothing is left out."""

import pathlib
import re

REPO = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs/limits.md").read_text()
THREATS = (REPO / "docs/threat-model.md").read_text()
UNTESTED = ["`swap`"]  # rows of limits.md that may say why they have no test


def rows(text):
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def absent(text):
    """Tests and files of tests that a page names and that are not there."""
    missing = []
    for file, name in sorted(set(re.findall(r"\b(test_\w+\.(?:py|c))(?:::(\w+))?", text))):
        found = [path.read_text() for path in REPO.glob(f"tests/*/{file}")]
        pattern = rf"^def {name}\(" if file.endswith(".py") else rf"^static void {name}\("
        if not any(not name or re.search(pattern, text, re.M) for text in found):
            missing.append(f"{file}::{name}")
    return missing


def test_named_tests_exist():
    assert PAGE.count("::") > 50 and absent(PAGE) == []
    assert THREATS.count("::") > 150 and absent(THREATS) == []
    # The check sees what is not there.
    assert absent("test_limits.py::test_inodes, test_limits.py::test_nodes, test_none.c") == [
        "test_limits.py::test_nodes",
        "test_none.c::",
    ]


def test_every_row_names_a_test():
    for cells in rows(PAGE):
        if cells[0] in ("limit", "word", "---"):
            continue
        assert "::" in cells[-1] or (cells[-1].startswith("none: ") and cells[0] in UNTESTED), cells


def test_every_case_has_a_row_and_a_test():
    cases = [cells for cells in rows(THREATS.split("## Cases")[1]) if cells[0].isdigit()]
    assert [int(cells[0]) for cells in cases] == list(range(1, 63))
    for number, _, defence, test in cases:
        if defence.startswith("not applicable: "):
            assert test == "–", number
        else:
            assert "::" in test, number


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
