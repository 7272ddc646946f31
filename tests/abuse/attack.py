# SPDX-License-Identifier: Apache-2.0
"""What attacks need: code that reports from inside, C programs, and the host's view of a session."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import uuid

HERE = pathlib.Path(__file__).resolve().parent


def _load(name, file):
    """A module of tests/e2e under a name of its own: `conftest` is this folder's."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE.parent / "e2e" / file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


e2e = _load("e2e_conftest", "conftest.py")
survival = _load("survival", "survival.py")

LONG = os.environ.get("BIVOUAC_ABUSE_LONG", "") not in ("", "0")
CANARY_NAME = "BIVOUAC_ABUSE_CANARY"
CANARY = f"canary-{uuid.uuid4().hex}"
PRELUDE = """
import ctypes, errno, fcntl, json, mmap, os, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *args):
    "A raw system call: its value, or the name of the error."
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    value = libc.syscall(ctypes.c_long(number), *words)
    return errno.errorcode[ctypes.get_errno()] if value == -1 else value

def attempt(action, *args, **kw):
    "The value of a call, or the name of the error."
    try:
        return action(*args, **kw)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def write_to(path, data, flags=os.O_WRONLY):
    "What the system says to opening and writing; 'written' if it gives way."
    try:
        fd = os.open(path, flags)
    except OSError as error:
        return errno.errorcode[error.errno]
    try:
        os.write(fd, data)
        return 'written'
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(fd)

report = {}
"""

# What a call that does not exist here may say.
REFUSED = {"EPERM", "ENOSYS"}
# What a path or object that is closed to a session may say.
CLOSED = REFUSED | {"EACCES", "ENOENT", "EROFS", "ENXIO", "ENODEV", "ENOTDIR"}


def rounds(short, long):
    """How often: a few times in `make test`, many in `make abuse-long`."""
    return long if LONG else short


def hostile(code):
    """Code with the tools of PRELUDE."""
    return PRELUDE + textwrap.dedent(code)


def attack(session, code, **kw):
    """Runs hostile code that fills `report`; returns it."""
    source = hostile(code) + "\nprint('\\nREPORT' + json.dumps(report))"
    stdout = session.result(source, outputStreamsMaxLength=1 << 20, **kw)["stdout"]
    return json.loads(stdout.rpartition("\nREPORT")[2])


def outcome(session, code, **kw):
    """Runs hostile code that may end in any way: (status, error code, stdout, stderr)."""
    kw.setdefault("outputStreamsMaxLength", 1 << 16)
    document = session.post(hostile(code), **kw).ok().json
    result = document.get("result") or {}
    code = (document.get("error") or {}).get("code")
    return document["status"], code, result.get("stdout", ""), result.get("stderr", "")


@functools.cache
def program(name):
    """tests/abuse/c/NAME.c as a static program."""
    with tempfile.TemporaryDirectory(prefix="bivouac-abuse-") as directory:
        binary = pathlib.Path(directory) / name
        source = HERE / "c" / f"{name}.c"
        subprocess.run(
            ["gcc", "-O1", "-static", "-pthread", "-Wall", "-Werror", "-o", binary, source],
            check=True,
        )
        return binary.read_bytes()


def bring(session, name):
    """Uploads a C program; its path inside."""
    session.upload((name, program(name))).ok()
    session.run(f"import os; os.chmod('/mnt/data/{name}', 0o755)")
    return f"/mnt/data/{name}"


def run_c(session, name, *args, timeout=60):
    """Runs a C program inside: (exit status or -signal, stdout)."""
    path = bring(session, name)
    report = attack(
        session,
        f"""
        done = subprocess.run({[path, *map(str, args)]!r}, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout={timeout})
        report = [done.returncode, done.stdout.decode()]
        """,
    )
    return tuple(report)


# --- the host's view ---


def host_uid(session):
    """The session user's uid on the host."""
    text = session.result("print(open('/proc/self/uid_map').read())")["stdout"]
    return next(int(words[1]) for words in map(str.split, text.splitlines()) if words[0] == "1000")


def host_pids(session):
    return e2e.sandbox_pids(host_uid(session))


def status(pid, field):
    """A field of /proc/PID/status."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return re.search(rf"^{field}:\s*(.*)$", text, re.M).group(1)


def started(pid):
    """When a process started: with its pid, its identity."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[19])


def agent_pid(session):
    """The host pid of a session's PID 1."""
    for pid in host_pids(session):
        if status(pid, "NSpid").split()[-1] == "1":
            return pid
    raise AssertionError("no agent")


def cgroup_files(pid, *names):
    """Paths of the first existing of the named files in each hierarchy of a process."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for root in (f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            hits = [p for p in (pathlib.Path(f"{root}{path}/{name}") for name in names)]
            hits = [p for p in hits if p.exists()]
            if hits:
                found.append(hits[0])
                break
    return found


def memory_peak(pid):
    """The most memory that a session's cgroup held, in bytes."""
    (path,) = cgroup_files(pid, "memory.max_usage_in_bytes", "memory.peak")
    return int(path.read_text())


def socket_memory():
    """Bytes that the host's kernel holds for TCP and UDP buffers of all namespaces."""
    text = pathlib.Path("/proc/net/sockstat").read_text()
    pages = re.findall(r"^(?:TCP|UDP): .*\bmem (\d+)", text, re.M)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def rootfs():
    """The image's tree on the host."""
    command = [e2e.BIN_DIR / "bivouac", "image", "path"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return pathlib.Path(done.stdout.strip())


def tree_state(*directories):
    """Identity, size, mode and times of every file below directories of the host."""
    state = {}
    for top in directories:
        for where, _, files in os.walk(top):
            for name in files:
                path = os.path.join(where, name)
                try:
                    st = os.lstat(path)
                except FileNotFoundError:
                    continue  # somebody's temporary file
                state[path] = (st.st_ino, st.st_size, st.st_mode, st.st_uid, st.st_mtime_ns)
    return state
