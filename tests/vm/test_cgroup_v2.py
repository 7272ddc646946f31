# SPDX-License-Identifier: Apache-2.0
"""The jailer's cgroup driver on layouts that the building machine may not have, in a micro VM.

The guest's program is cgroup_guest.c; its table of checks is the list of tests here. One boot per layout.
"""

import re

import pytest

import guest

SOURCE = (guest.REPO / "tests" / "vm" / "cgroup_guest.c").read_text()
CHECKS = re.findall(r'^\t\{ "(\w+)", "([^"]+)", \w+ \},$', SOURCE, re.M)
ARGUMENTS = {"disabled": "cgroup_disable=pids cgroup_disable=cpu"}
_reports = {}


@pytest.fixture(scope="session")
def ramdisk(tmp_path_factory):
    path = tmp_path_factory.mktemp("guest") / "initrd"
    cpio = guest.Cpio()
    cpio.directory("dev")
    cpio.program("init", guest.BIN_DIR / "tests" / "vm" / "cgroup_guest")
    cpio.write(path)
    return path


def report(layout, ramdisk):
    if layout not in _reports:
        # An exception is remembered, too: a guest that hangs is waited for once.
        try:
            output = guest.boot(ramdisk, f"bivouac.layout={layout} {ARGUMENTS.get(layout, '')}")
            _reports[layout] = guest.parse(output)
        except AssertionError as e:
            _reports[layout] = e
    if isinstance(_reports[layout], AssertionError):
        raise _reports[layout]
    return _reports[layout]


@pytest.mark.parametrize("layout, name", CHECKS, ids=[name.replace(" ", "-") for _, name in CHECKS])
def test_guest(layout, name, ramdisk):
    passed, comments = report(layout, ramdisk)[name]
    assert passed, "\n".join(comments)


def test_every_check_is_listed():
    table = SOURCE[SOURCE.index("checks[] = {") : SOURCE.index("static void mount_layout")]
    assert len(CHECKS) == table.count("check_") and len(CHECKS) > 20
