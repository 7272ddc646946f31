# SPDX-License-Identifier: Apache-2.0
"""A language that Bivouac does not know, from one folder (docs/runtimes.md): tests/runtimes/perl."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest
from jailer_world import Kernel, blob

from conftest import BIN_DIR, REPO, Daemon

SHARED = pathlib.Path("/var/cache/bivouac/images")
IMAGES = pathlib.Path("/var/cache/bivouac/test-images")  # kept: building takes half a minute
FOLDER = REPO / "tests/runtimes/perl"


def build():
    """Builds the runtime as an administrator would, beside the Python image of this build."""
    done = subprocess.run(
        [BIN_DIR / "bivouac", "image", "build", "--from", FOLDER, "--image-dir", IMAGES],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    python = (BIN_DIR / "python.image-id").read_text().strip()
    link = IMAGES / python
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(SHARED / python)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def image():
    return build()


@pytest.fixture(scope="module")
def perl(image):
    daemon = Daemon("--images", str(IMAGES))
    try:
        yield daemon.make_pool(type="perllts")
    finally:
        daemon.stop()
        daemon.remove()


@pytest.fixture
def session(perl):
    session = perl.session()
    yield session
    session.delete()


def test_its_image_is_found_by_name(image):
    assert image["runtime"] == "perl"
    assert (IMAGES / "perl.image-id").read_text().strip() == image["id"]
    assert (IMAGES / image["id"] / "zygote").read_text() == "exec\n"
    assert (IMAGES / image["id"] / "recipe").read_bytes() == (FOLDER / "recipe").read_bytes()
    # The second build is none.
    before = os.stat(IMAGES / image["id"]).st_mtime_ns
    build()
    assert os.stat(IMAGES / image["id"]).st_mtime_ns == before


def test_containers_are_spelled_as_in_its_recipe(perl):
    assert perl.arm("GET").ok().json["properties"]["containerType"] == "PerlLTS"


def test_state_stays_from_cell_to_cell(session):
    assert session.result("$x = 20; sub add { $_[0] + 1 }")["stdout"] == ""
    assert session.value("add($x + 1)") == 22
    assert session.stdout('print "x is $x\\n"; undef') == "x is 20\n"
    assert session.value('"caf\\x{e9} \\x{263a}"') == "café ☺"
    assert session.value("1.5") == 1.5
    assert session.value("undef") == ""  # nothing to show
    assert "HASH" in session.value("{ a => 1 }")
    assert session.result('warn "careful\\n"; undef')["stderr"] == "careful\n"


def test_errors(session):
    error, _ = session.fails('die "no luck\\n"')
    assert "no luck" in json.dumps(error)
    error, _ = session.fails("1 +")
    assert "syntax error" in json.dumps(error)
    error, _ = session.fails('die { code => 5 }')
    assert session.value("6 * 7") == 42


@pytest.mark.parametrize("code", ["1 while 1", "sleep 60"])
def test_a_timeout_interrupts_and_the_state_stays(session, code):
    session.value("$kept = 7")
    document = session.post(code, timeoutInSeconds=1).ok().json
    assert document["status"] == "Failed", document
    assert "time" in json.dumps(document["error"]).lower()
    assert session.value("$kept") == 7


def test_a_kernel_that_ends_is_replaced(session):
    session.value("$x = 1")
    session.fails("exit 3")
    assert session.value("defined $x ? 1 : 0") == 0


def test_files(session):
    session.upload(("in.txt", b"seven\n")).ok()
    got = session.stdout('open F, "<", "/mnt/data/in.txt"; print uc <F>; undef')
    assert got == "SEVEN\n"
    session.result('open F, ">", "out.txt"; print F "made here"; close F')
    assert session.download("out.txt").ok().body == b"made here"


def test_the_driver_in_the_documentation_is_one(tmp_path):
    """docs/runtimes.md shows one in its bare bones; what is shown runs."""
    (driver,) = re.findall(r"```perl\n(.*?)```", (REPO / "docs/runtimes.md").read_text(), re.S)
    (tmp_path / "kernel.pl").write_text(driver)
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    out = tmp_path / "out"
    process = subprocess.Popen(
        ["bash", "-c", 'exec 3<&"$0" perl "$1"', str(theirs.fileno()), tmp_path / "kernel.pl"],
        pass_fds=[theirs.fileno()],
        stdout=open(out, "wb"),
        start_new_session=True,
    )
    theirs.close()
    kernel = Kernel(ours.detach())
    assert kernel.ready() == process.pid
    assert kernel.run(0, b"")[0] == 0
    assert kernel.run(1, b"$x = 20; print qq(hello\\n); 7") == bytes([0, 6]) + blob(b"7") + blob(b"") * 3
    assert kernel.run(2, b"$x + 1") == bytes([0, 6]) + blob(b"21") + blob(b"") * 3
    assert kernel.run(3, b"die qq(no\\n)")[0] == 1
    assert kernel.run(4, b"kill INT => $$; sleep 60")[0] == 2
    os.kill(process.pid, signal.SIGINT)
    assert kernel.run(5, b"$x")[:7] == bytes([0, 6]) + blob(b"20")[:5]
    kernel.close()
    assert process.wait(20) == 0
    assert out.read_text() == "hello\n"


def test_its_programs_are_confined_as_every_kernel_is(session):
    """The shape of a launched kernel: descriptors, environment, identity, walls."""
    status = session.stdout('open F, "<", "/proc/self/status"; print <F>; undef')
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["1000"] * 4 and fields["Gid"].split() == ["1000"] * 4
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[field], 16) == 0, field
    assert session.stdout("print join ' ', map { readlink \"/proc/self/fd/$_\" } 0; undef") == (
        "/dev/null"
    )
    # A program that a cell starts has its three, and what ls itself opens.
    assert session.stdout("system 'ls', '/proc/self/fd'; undef").split() == ["0", "1", "2", "3"]
    environment = session.stdout("print map { qq($_=$ENV{$_}\\n) } sort keys %ENV; undef")
    assert environment.splitlines() == [
        "GIT_PAGER=cat",
        "HOME=/home/session",
        "LANG=C.UTF-8",
        "LOGNAME=session",
        "PAGER=cat",
        "PATH=/home/session/.local/bin:/usr/local/bin:/usr/bin:/bin",
        "SHELL=/bin/bash",
        "TERM=dumb",
        "USER=session",
    ]
    assert session.stdout("use POSIX (); print POSIX::getcwd(); undef") == "/mnt/data"
    assert session.value("getpgrp() == $$ ? 1 : 0") == 1
    assert session.stdout('print -w "/opt/bivouac/kernel.pl" ? 1 : 0; undef') == "0"
    # A device may be written to below /dev; a new file is refused there.
    assert session.value('open(F, ">", "/dev/null") ? 1 : 0') == 1
    assert session.value('open(F, ">", "/dev/new") ? 1 : 0') == 0
    assert session.value("chroot('/') ? 1 : 0") == 0

