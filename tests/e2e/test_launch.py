# SPDX-License-Identifier: Apache-2.0
"""Kernels and terminals that are started, beside those that are forked from an interpreter.

The jailer is spoken to directly: this is the daemon, and holds the agents' ends of the sockets.
"""

import fcntl
import os
import pathlib
import pty
import re
import shutil
import socket
import struct
import tempfile
import termios

import jailer_world as world
import pytest
import test_fourth_language as fourth
from conftest import BIN_DIR, wait_for
from jailer_world import INIT, RUN, TERMINAL, JailerError, blob, frame

PYTHON = (BIN_DIR / "python.image-id").read_text().strip()
ERR_NOT_FOUND_TEXT = "is not installed"


@pytest.fixture(scope="module")
def perl():
    return fourth.build()["id"]


@pytest.fixture(scope="module")
def jailer(perl):
    jailer = world.Jailer(fourth.IMAGES)
    try:
        yield jailer
    finally:
        jailer.close()


@pytest.fixture
def sandbox(jailer, perl):
    sid = jailer.sandbox(perl)
    yield sid
    jailer.ask(world.DESTROY, sid)


def shape(jailer, kernel, sid):
    """Everything by which a process is held, as the host sees it."""
    (pid,) = jailer.processes(kernel.initialise())
    proc = pathlib.Path(f"/proc/{pid}")
    status = dict(
        line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line
    )
    init = next(p for p in jailer.processes(1) if os.stat(f"/proc/{p}").st_uid == proc.stat().st_uid
                and os.readlink(f"/proc/{p}/ns/pid") == os.readlink(proc / "ns/pid"))
    words = "Uid Gid Groups NoNewPrivs Seccomp Seccomp_filters Threads SigBlk SigIgn Umask"
    namespaces = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
    base = int(status["Uid"].split()[0])
    return {
        **{word: status[word] for word in words.split() if word not in ("Uid", "Gid")},
        **{word: status[word] for word in status if word.startswith("Cap")},
        "ids": {int(n) - base for word in ("Uid", "Gid") for n in status[word].split()},
        "limits": (proc / "limits").read_text(),
        "oom": (proc / "oom_score_adj").read_text(),
        "cgroup": (proc / "cgroup").read_text().replace(sid, "SID"),
        "own session": [status["NSsid"].split()[-1] == status["NSpid"].split()[-1],
                        status["NSpgid"].split()[-1] == status["NSpid"].split()[-1]],
        "namespaces are the agent's": [
            os.readlink(proc / "ns" / n) == os.readlink(f"/proc/{init}/ns/{n}") for n in namespaces
        ],
        "parent": status["PPid"] == str(init),
        "cwd": os.readlink(proc / "cwd"),
        "owner of /proc": proc.stat().st_uid - base,  # root's where a process is not dumpable
        "stdin": os.readlink(proc / "fd/0"),
        "kinds": sorted(re.sub(r"\W.*", "", os.readlink(proc / "fd" / n)) for n in os.listdir(proc / "fd")),
    }


def test_a_launched_kernel_is_held_as_a_forked_one(jailer, perl):
    shapes = []
    for image, language in ((PYTHON, "python"), (perl, "perl")):
        sid = jailer.sandbox(image)
        kernel = jailer.start(sid, language)
        shapes.append(shape(jailer, kernel, sid))
        kernel.close()
        jailer.ask(world.DESTROY, sid)
    forked, launched = shapes
    assert launched["kinds"] == ["", "pipe", "pipe", "socket"]
    # Python keeps copies of its outputs, for cells that close theirs.
    assert forked.pop("kinds") == ["", "pipe", "pipe", "pipe", "pipe", "socket"]
    del launched["kinds"]
    # It ignores SIGINT between cells; CPython has a handler of its own, and ignores SIGPIPE as well.
    del forked["SigIgn"], launched["SigIgn"]
    assert launched == forked
    assert launched["own session"] == [True, True] and launched["cwd"] == "/mnt/data"
    assert int(launched["CapBnd"], 16) == 0 and launched["Seccomp"] == "2"


def test_the_first_language_is_the_default(jailer, perl, sandbox):
    for language in ("", "perl"):
        kernel = jailer.start(sandbox, language)
        kernel.initialise()
        assert b"\x01\x00\x00\x007" in kernel.run(1, b"3 + 4")
        kernel.close()


def test_the_daemon_goes_while_a_kernel_waits_for_its_zygote():
    """Under LeakSanitizer the worker's exit status says whether the request was forgotten."""
    jailer = world.Jailer(fourth.IMAGES)
    try:
        # Packets are served in order, the zygote loads for longer than all of them take.
        sid = jailer.sandbox(PYTHON)
        jailer.post(world.START_KERNEL, sid)
        jailer.ask(world.DESTROY, sid)
    finally:
        jailer.close()
    assert jailer.process.returncode == 0, jailer.log


def test_languages_that_are_not_there(jailer, perl, sandbox):
    python = jailer.sandbox(PYTHON)
    try:
        for sid in (sandbox, python):
            with pytest.raises(JailerError, match="starts no program for language 'cobol'"):
                jailer.start(sid, "cobol")
        # What the interpreter serves, it alone serves.
        jailer.start(python, "python").close()
        with pytest.raises(JailerError, match="starts no program for language 'python'"):
            jailer.start(sandbox, "python")
    finally:
        jailer.ask(world.DESTROY, python)


@pytest.mark.parametrize("name", [b"Perl", b"../perl", b"pe rl", b"@zygote", b"a" * 16, b"a\0b", b"\xff"])
def test_names_that_are_not_clean(jailer, sandbox, name):
    with pytest.raises(JailerError, match="lower-case letters"):
        jailer.ask(world.START_KERNEL, sandbox, language=name)


def test_the_python_image_launches_what_is_no_python(jailer):
    sid = jailer.sandbox(PYTHON)
    terminal = Terminal(jailer, sid, b"xterm", b"echo $PIP_BREAK_SYSTEM_PACKAGES; exec cat /proc/self/comm")
    assert terminal.output().split() == [b"1", b"cat"]
    # And still forks what is.
    kernel = jailer.start(sid)
    kernel.initialise()
    assert b"\x01\x00\x00\x007" in kernel.run(1, b"3 + 4")
    kernel.close()
    jailer.ask(world.DESTROY, sid)


# Who speaks first


def test_an_agent_that_never_speaks(jailer, perl):
    sid = jailer.sandbox(perl)
    silent = [jailer.start(sid) for _ in range(5)]
    jailer.ask(world.DESTROY, sid)
    for kernel in silent:
        assert kernel.sock.recv(1) == b""
        kernel.close()


def test_an_agent_that_hangs_up(jailer, sandbox):
    before = len(jailer.processes(1))
    for part in (b"", frame(INIT, blob(b"x" * 32))[:3], frame(INIT, blob(b"x" * 32))[:-1]):
        kernel = jailer.start(sandbox)
        kernel.sock.sendall(part)
        kernel.sock.shutdown(socket.SHUT_WR)
        assert kernel.sock.recv(1) == b"", part
        kernel.close()
    assert len(jailer.processes(1)) == before


def null(count):
    return [os.open("/dev/null", os.O_RDWR) for _ in range(count)]


@pytest.mark.parametrize(
    "language, kind, payload, fds",
    [
        ("", RUN, struct.pack("<IB", 1, 0) + blob(b"1"), 2),
        ("", INIT, blob(b"x" * 32), 0),
        ("", INIT, blob(b"x" * 32), 1),
        ("", INIT, blob(b"x" * 32), 3),
        ("", INIT, blob(b"x" * 32), 100),
        ("", INIT, blob(b"x" * 32) + b"more", 2),
        ("", INIT, struct.pack("<I", 99) + b"short", 2),
        ("", INIT, b"", 2),
        ("", TERMINAL, blob(b"xterm") + blob(b""), 1),
        ("terminal", INIT, blob(b"x" * 32), 2),
        ("terminal", TERMINAL, blob(b"xterm") + blob(b""), 1),  # not a terminal
        ("terminal", TERMINAL, blob(b"x" * 65) + blob(b""), 1),
        ("terminal", TERMINAL, blob(b"a b") + blob(b""), 1),
        ("terminal", TERMINAL, blob(b"a\n") + blob(b""), 1),
        ("terminal", TERMINAL, blob(b"\xc3\xa9") + blob(b""), 1),
        ("terminal", TERMINAL, blob(b"xterm") + blob(b"a\0b"), 1),
        ("terminal", TERMINAL, blob(b"xterm"), 1),
    ],
)
def test_first_frames_that_are_none(jailer, sandbox, language, kind, payload, fds):
    kernel = jailer.start(sandbox, language)
    passed = null(fds)
    kernel.send(kind, payload, passed)
    for fd in passed:
        os.close(fd)
    assert kernel.ended()
    kernel.close()


@pytest.mark.parametrize("language", ["", "terminal"])
def test_first_frames_that_are_too_large(jailer, sandbox, language):
    kernel = jailer.start(sandbox, language)
    kernel.sock.sendall(struct.pack("<IB", 0xFFFFFFFF, TERMINAL if language else INIT))
    assert kernel.ended()
    kernel.close()
    kernel = jailer.start(sandbox, language)
    kernel.sock.sendall(struct.pack("<IB", 1 << 20, TERMINAL if language else INIT))
    assert kernel.ended()
    kernel.close()


# Terminals


class Terminal:
    def __init__(self, jailer, sid, term=b"xterm-256color", command=b""):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        self.kernel = jailer.start(sid, "terminal")
        self.kernel.send(TERMINAL, blob(term) + blob(command), [slave])
        os.close(slave)
        self.pid = self.kernel.ready()

    def output(self):
        data = self.kernel.output(self.master)
        os.close(self.master)
        self.kernel.close()
        return data

    def until(self, text):
        data = b""
        while text not in data:
            data += os.read(self.master, 65536)
        return data


def test_a_terminal(jailer, sandbox):
    terminal = Terminal(
        jailer,
        sandbox,
        b"screen",
        b"trap 'echo interrupted' INT; stty size; echo $TERM $PWD $USER $SHELL $$;"
        b" ls /proc/self/fd | tr '\\n' ' '; sh -c 'echo waiting; exec cat'; exit 3",
    )
    words = terminal.until(b"waiting").split()
    assert words[:7] == [b"33", b"111", b"screen", b"/mnt/data", b"session", b"/bin/bash", b"%d" % terminal.pid]
    # ls has its three and the directory: nothing else came through.
    assert words[7:11] == [b"0", b"1", b"2", b"3"]
    # After READY the launcher's socket is closed: the terminal is all there is to speak to.
    assert terminal.kernel.sock.recv(1) == b""
    # It is the controlling terminal, its first process in the foreground. The shell says so when
    # what it waits for has ended. One key: another would throw away the output on its way.
    os.write(terminal.master, b"\x03")
    assert b"interrupted" in terminal.output()


def test_a_login_shell_without_a_command(jailer, sandbox):
    terminal = Terminal(jailer, sandbox, b"")
    os.write(terminal.master, b"shopt -q login_shell && echo login:$TERM:$((6*7))\nexit\n")
    assert b"login:xterm-256color:42" in terminal.output()


def test_hanging_up_ends_it(jailer, sandbox):
    terminal = Terminal(jailer, sandbox, b"xterm", b"echo here; sleep 1000")
    terminal.until(b"here")
    pids = jailer.processes(terminal.pid)
    os.close(terminal.master)
    wait_for(lambda: not any(map(alive_in_sandbox, pids)), 10, "its end")
    terminal.kernel.close()


def alive_in_sandbox(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_long_command(jailer, sandbox):
    word = b"x" * 60000
    terminal = Terminal(jailer, sandbox, b"xterm", b"stty -onlcr; word=" + word + b"; echo ${#word}")
    assert terminal.output().split() == [b"60000"]


# Images that are not as they should be


@pytest.mark.parametrize(
    "files, text",
    [
        ({}, "does not say what its zygote is; build it again"),
        ({"zygote": "ruby\n"}, "zygote is neither 'exec' nor 'python'"),
        ({"zygote": "exec" * 20}, "does not say what its zygote is"),
        ({"zygote": "python\n"}, "recipe"),
        ({"zygote": "python\n", "recipe": "kernel = perl /usr/bin/perl\n"}, "has no kernel @zygote"),
        ({"zygote": "exec\n"}, ERR_NOT_FOUND_TEXT),
    ],
)
def test_images_that_were_not_built_well(files, text):
    images = pathlib.Path(tempfile.mkdtemp(prefix="bivouac-images-"))
    image = "ab" * 32
    (images / image).mkdir()
    for name, content in files.items():
        (images / image / name).write_text(content)
    jailer = world.Jailer(images)
    try:
        with pytest.raises(JailerError, match=re.escape(text)):
            jailer.ask(world.IMAGE, image=image)
        with pytest.raises(JailerError, match="not installed"):
            jailer.ask(world.IMAGE, image="cd" * 32)
        jailer.ask(world.PING)
    finally:
        jailer.close()
        shutil.rmtree(images)


@pytest.mark.parametrize(
    "recipe, text",
    [
        ("name = x\n", "recipe: no kernel"),
        ("kernel = Perl /usr/bin/perl\n", "'Perl' cannot be a language"),
        ("kernel = perl perl\n", "recipe:1: kernel: 'perl' is not an absolute path"),
        ("kernel = perl /bin/true\nenvironment = 1A=2\n", "recipe:2: environment is NAME=value"),
        ("kernel = perl /bin/true\nterminal =\n", "terminal names no program"),
        ("#" * 70000, "more than 65536 bytes"),
        (None, "/opt/bivouac/recipe"),
    ],
)
def test_recipes_that_no_zygote_takes(recipe, text, perl):
    images = pathlib.Path(tempfile.mkdtemp(prefix="bivouac-images-"))
    image = "ab" * 32
    root = images / image / "rootfs"
    for name in "opt/bivouac dev proc tmp home/session mnt/data".split():
        (root / name).mkdir(parents=True)
    (images / image / "zygote").write_text("exec\n")
    if recipe is not None:
        (root / "opt/bivouac/recipe").write_text(recipe)
    jailer = world.Jailer(images)
    try:
        with pytest.raises(JailerError):
            jailer.ask(world.IMAGE, image=image)
        assert text in jailer.stderr()
    finally:
        jailer.close()
        shutil.rmtree(images)
