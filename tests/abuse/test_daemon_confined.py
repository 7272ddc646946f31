# SPDX-License-Identifier: Apache-2.0
"""What a taken-over bivouacd would find it has: of the running process, by the kernel's word."""

import os
import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from daemon_target import e2e, target, unharmed  # noqa: E402, F401

ASAN = "build-asan" in str(e2e.BIN_DIR)


def status(target, field):
    text = pathlib.Path(f"/proc/{target.daemon.pid}/status").read_text()
    return re.search(rf"^{field}:[ \t]*(.*)$", text, re.M).group(1).split()


def test_no_rights(target):
    """Rights are looked for: no user id 0, no group, no capability in any set, none to be had."""
    assert "0" not in status(target, "Uid") + status(target, "Gid")
    assert status(target, "Groups") == []
    for which in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert status(target, which) == ["0000000000000000"]
    assert status(target, "NoNewPrivs") == ["1"]


@pytest.mark.skipif(ASAN, reason="sanitizer builds have no filter: their runtime could not live")
def test_under_its_own_filter(target):
    """System calls are tried: the process is under a filter, all its threads are."""
    for task in os.listdir(f"/proc/{target.daemon.pid}/task"):
        text = pathlib.Path(f"/proc/{target.daemon.pid}/task/{task}/status").read_text()
        assert re.search(r"^Seccomp:\s+2$", text, re.M)


def test_not_dumpable(target):
    """Another process of the daemon's user looks at its memory: files of /proc are root's."""
    for name in ("mem", "maps", "environ", "fd"):
        assert os.stat(f"/proc/{target.daemon.pid}/{name}").st_uid == 0
    limits = pathlib.Path(f"/proc/{target.daemon.pid}/limits").read_text()
    assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.M)


@pytest.mark.skipif(ASAN, reason="sanitizer builds keep the host's root: their runtime reads /proc")
def test_empty_root(target):
    """Files of the host are looked for: the root has the daemon's two directories and nothing else."""
    root = pathlib.Path(f"/proc/{target.daemon.pid}/root")
    assert sorted(os.listdir(root)) == ["run", "state"]
    mounts = pathlib.Path(f"/proc/{target.daemon.pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 3
    for line in mounts:
        options = line.split()[5].split(",")
        assert {"nosuid", "nodev", "noexec"} <= set(options), line


@pytest.mark.skipif(ASAN, reason="a sanitizer's runtime maps what it likes")
def test_no_memory_to_write_code_to(target):
    """Code is written to memory: nothing is writable and executable at once."""
    maps = pathlib.Path(f"/proc/{target.daemon.pid}/maps").read_text()
    assert not re.search(r"^\S+ .wx", maps, re.M)


def test_network_sockets(target):
    """The network is looked for: one listening socket, and connections that came through it."""
    inodes = set()
    for fd in os.listdir(f"/proc/{target.daemon.pid}/fd"):
        try:
            link = os.readlink(f"/proc/{target.daemon.pid}/fd/{fd}")
        except OSError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    port = target.address[1]
    listening = 0
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                assert table.startswith("tcp")
                assert int(words[1].split(":")[1], 16) == port
                listening += words[3] == "0A"
    assert listening == 1
    packet = pathlib.Path("/proc/net/packet").read_text().split()
    assert not inodes & set(packet)
