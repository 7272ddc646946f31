# SPDX-License-Identifier: Apache-2.0
"""Kernels and terminals that are programs of their own: what holds for forked kernels holds for them.

The cases that are imported run here a second time, from a command of a Shell session and from a
program that a Node session starts: the same attacks, below other kernels.
"""

import importlib.util
import json
import os
import pathlib
import re
import uuid

import pytest

from abuse import attack as tools
from abuse.attack import HERE, REFUSED, agent_pid, attack, bring, e2e, host_pids, hostile
from abuse.test_files import (  # noqa: F401
    test_01_root_of_proc_self_is_the_sandbox,
    test_06_procfs_takes_no_writes,
    test_06_no_way_to_settings_by_descriptor,
    test_08_mount_calls_are_refused,
    test_10_chroot_breakout,
    test_12_device_nodes,
)
from abuse.test_kernel_surface import (  # noqa: F401
    test_24_keyrings,
    test_25_no_namespaces,
    test_25_nothing_of_what_namespaces_open,
    test_26_clone_into_another_cgroup,
    test_26_no_cgroup_file_system,
    test_27_dangerous_calls,
    test_27_foreign_architecture_is_killed,
    test_27_personality,
    test_28_arguments_in_memory_cannot_be_swapped,
    test_29_terminal_injection,
    test_30_abstract_sockets_of_another_session,
    test_30_abstract_sockets_of_the_host,
    test_30_protocols,
    test_30_socket_families,
    test_own_landlock_and_rights_survive_exec,
    test_own_seccomp_cannot_be_taken_off,
)
from abuse.test_processes import (  # noqa: F401
    FORGED,
    OWN_SOCKET,
    ends,
    test_20_memory_of_the_agent,
    test_20_ptrace_and_relatives,
    test_20_traceme_of_a_setuid_program,
    test_23_huge_pages,
    test_32_agent_is_not_preferred_by_the_oom_killer,
    test_32_limits_and_priorities,
    test_33_clocks_cannot_be_set,
    test_34_no_fuse_and_no_userfaultfd,
)

_spec = importlib.util.spec_from_file_location("websocket_client", HERE.parent / "e2e" / "websocket_client.py")
websocket_client = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(websocket_client)
Terminal = websocket_client.Terminal


@pytest.fixture(scope="module")
def pools(daemon):
    limits = {"memory": "384Mi", "pids": 64}
    made = {type: daemon.make_pool(type=type, ready=1, limits=limits) for type in ("PythonLTS", "NodeLTS", "Shell")}
    yield made
    for p in made.values():
        p.delete()


class Below(e2e.Session):
    """A session of which every Python program is run by something that its kernel started."""

    def post(self, code, **properties):
        if self.kind == "shell":
            end = f"END-{uuid.uuid4().hex}"
            code = f"python3 /dev/fd/9 9<<'{end}'\n{code}\n{end}"
        else:
            code = (
                f"const done = require('child_process').spawnSync('python3', ['-c', {json.dumps(code)}],"
                " {stdio: 'inherit'})\nif (done.status) throw new Error(`status ${done.status}`)"
            )
        return super().post(code, language=self.kind, **properties)


@pytest.fixture(scope="module", params=["shell", "node"])
def session(request, pools):
    s = Below(pools["Shell" if request.param == "shell" else "NodeLTS"])
    s.kind = request.param
    yield s
    s.delete()


def command(session, text, **how):
    return session.call("POST", "executions", {"shellCommand": text, **how}).ok().json


# --- the processes themselves ---

STATUS = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
          "Seccomp_filters", "Speculation_Store_Bypass", "SpeculationIndirectBranch"]  # fmt: skip
NAMESPACES = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"]


def confinement(pid):
    """What the host's kernel says of a process's rights."""
    proc = pathlib.Path(f"/proc/{pid}")
    fields = [line.split(":", 1) for line in (proc / "status").read_text().splitlines()]
    fields = [(name, value.strip()) for name, value in fields]
    return {
        **{name: value for name, value in fields if name in STATUS},
        **{name: os.readlink(proc / "ns" / name) for name in NAMESPACES},
        "limits": (proc / "limits").read_text(),
        "cgroups": (proc / "cgroup").read_text(),
        "oom": (proc / "oom_score_adj").read_text(),
        "root": os.readlink(proc / "root"),
        "sid": os.getsid(pid) == pid,
    }


DRIVERS = {
    "PythonLTS": {"shell": "bivouac-kernel-shell"},
    "NodeLTS": {"node": "node/kernel.js", "shell": "bivouac-kernel-shell"},
    "Shell": {"shell": "bivouac-kernel-shell", "python": "bivouac_kernel", "node": "node/kernel.js"},
}


@pytest.fixture(params=DRIVERS)
def every_kind(request, pools):
    """A session with a kernel of each language and a terminal: their names and host pids."""
    s = pools[request.param].session()
    for language in DRIVERS[request.param]:
        s.post("1" if language != "shell" else "true", language=language).ok()
    s.kind = request.param
    if request.param == "PythonLTS":
        s.run("1")
    with Terminal(s, command="exec -a terminal-here sleep 1000"):
        e2e.wait_for(lambda: b"terminal-here" in b" ".join(
            pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in host_uid_pids(s)), 20, "a terminal")
        pids = {name: named_of(s, pattern) for name, pattern in DRIVERS[request.param].items()}
        pids["terminal"] = named_of(s, "terminal-here")
        yield s, pids
    s.delete()


def uid_of(session):
    """The session user's uid on the host, asked by a command: any of these pools has a shell."""
    lines = command(session, "cat /proc/self/uid_map")["result"]["stdout"].splitlines()
    return next(int(words[1]) for words in map(str.split, lines) if words[0] == "1000")


def host_uid_pids(session):
    return e2e.sandbox_pids(uid_of(session))


def named_of(session, pattern):
    found = []
    for pid in host_uid_pids(session):
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        if re.search(pattern, line):
            found.append((tools.started(pid), pid))
    assert found, pattern
    return min(found)[1]


def test_own_launched_processes_have_the_rights_of_forked_ones(every_kind, pool):
    """Compare ids, capabilities, filters, namespaces, limits and cgroups of all kinds of first processes."""
    session, pids = every_kind
    found = {name: confinement(pid) for name, pid in pids.items()}
    first = next(iter(found))
    for name, rights in found.items():
        assert rights == found[first], name
    # With those of a kernel that was forked from Python, but for what is each session's own.
    other = pool.session()
    forked = confinement(next(p for p in host_pids(other) if p != agent_pid(other)))
    own = {"Uid", "Gid", "Groups", "limits", "cgroups", "root", *NAMESPACES}
    assert {k: v for k, v in found[first].items() if k not in own} == {k: v for k, v in forked.items() if k not in own}
    for name in NAMESPACES:
        if name != "time":
            assert found[first][name] != forked[name], name
            assert found[first][name] != os.readlink(f"/proc/self/ns/{name}"), name
    assert re.search(r"^Max core file size +1 +1 ", found[first]["limits"], re.M)
    assert found[first]["CapBnd"] == found[first]["CapPrm"] == "0" * 16
    assert found[first]["Seccomp"] == "2" and found[first]["NoNewPrivs"] == "1"
    other.delete()


def test_own_descriptors_of_launched_processes(every_kind):
    """Look for descriptors that a launched program was born with: only its own four, a terminal's three."""
    session, pids = every_kind
    for name, pid in pids.items():
        fds = {int(n): os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
        if name == "terminal":
            assert set(fds) == {0, 1, 2} and all(re.fullmatch(r"/(?:dev/)?pts/\d+|/\d+", t) for t in fds.values()), fds
            continue
        assert fds[0] == "/dev/null" and fds[1].startswith("pipe:") and fds[2].startswith("pipe:"), (name, fds)
        # The agent's; that of the shell has one to its bash as well.
        sockets = [n for n, target in fds.items() if target.startswith("socket:")]
        assert len(sockets) == (2 if name == "shell" else 1), (name, fds)
        # None of them goes to the programs that it starts.
        info = {n: pathlib.Path(f"/proc/{pid}/fdinfo/{n}").read_text() for n in fds if n > 2}
        flags = {n: int(re.search(r"^flags:\s*(\d+)", text, re.M).group(1), 8) for n, text in info.items()}
        assert all(value & os.O_CLOEXEC for value in flags.values()), (name, fds, flags)
        # The rest are what the program made for itself: nothing of a file system but its own image.
        for n, target in fds.items():
            kind = target.partition(":")[0]
            assert n < 4 or kind in ("pipe", "socket", "anon_inode", "/memfd", "/dev/null", "/dev/urandom") or (
                target.startswith(("/usr/", "/opt/", "/memfd:"))), (name, fds)


CHILD_SEES = "ls -l /proc/self/fd | awk 'NF > 9 {print $9, $11}'"


@pytest.mark.parametrize("language", ["shell", "node", "python"])
def test_own_children_of_launched_kernels_inherit_three_descriptors(pools, language):
    """Start a program from each launched kernel without closing anything: it has no way to the agent."""
    s = pools["Shell"].session()
    code = {
        "shell": CHILD_SEES,
        "node": f"require('child_process').spawnSync('sh', ['-c', {json.dumps(CHILD_SEES)}], {{stdio: 'inherit'}}); 0",
        "python": f"import subprocess\nsubprocess.run({CHILD_SEES!r}, shell=True, close_fds=False);",
    }[language]
    stdout = s.result(code, language=language)["stdout"]
    fds = dict(line.split() for line in stdout.splitlines())
    assert "socket" not in stdout
    # ls reads the directory by a descriptor of its own.
    assert {n: t for n, t in fds.items() if not t.startswith("/proc/")}.keys() == {"0", "1", "2"}, fds
    s.delete()


# --- the kernel's socket and driver, from user code ---


# One of each kind of trouble; the agent is the same for every kernel.
LAUNCHED_FORGES = ["injected number", "image of a forged format", "unknown kind", "frame beyond the limit",
                   "second READY", "displays without end", "many results", "half a frame, then silence",
                   "descriptors", "end of file"]  # fmt: skip


@pytest.mark.parametrize("frame", LAUNCHED_FORGES)
def test_own_forged_frames_of_a_launched_kernel(pools, daemon, frame):
    """Write frames to the agent instead of the driver, which is a program of its own."""
    session = pools["Shell"].session()
    code = hostile(OWN_SOCKET) + FORGED[frame] + "\ntime.sleep(0.05)"
    reply = session.post(code, language="python", timeoutInSeconds=2)
    if reply.status == 200:
        document = reply.json
        assert set(document) <= {"id", "identifier", "executionType", "status", "result", "error"}
        assert document["identifier"] == session.identifier
        value = document.get("result", {}).get("executionResult")
        assert value is None or isinstance(value, (str, int, float, bool, dict))
        if isinstance(value, dict):
            assert value["format"] in ("png", "jpeg", "svg+xml"), value
    else:
        assert reply.status in (502, 503), reply
    after = session.post("1 + 1", language="python", timeoutInSeconds=5, timeout=30)
    assert after.status in (200, 502, 503), after
    # The session's other kernel never noticed.
    if after.status == 200:
        assert command(session, "echo on")["result"]["stdout"] == "on\n"
    session.delete()


NODE_FORGES = """
const fs = require('fs')
function blob(text) {
    const b = Buffer.from(text), n = Buffer.alloc(4)
    n.writeUInt32LE(b.length)
    return Buffer.concat([n, b])
}
function frame(type, body) {
    const head = Buffer.alloc(5)
    head.writeUInt32LE(body.length)
    head[4] = type
    return Buffer.concat([head, body])
}
const done = (kind, value, status = 0) => frame(18, Buffer.concat(
    [Buffer.from([status, kind]), blob(value), blob(''), blob(''), blob('')]))
"""
NODE_FORGED = {
    "a result of its own": "fs.writeSync(3, done(5, 'forged'))",
    "json in a number": "fs.writeSync(3, done(3, '1,\\\"status\\\":2'))",
    "many results": "for (let i = 0; i < 1000; i++) fs.writeSync(3, done(5, 'forged'))",
    "half a frame": "fs.writeSync(3, done(5, 'forged').subarray(0, 9)); while (true);",
    "beyond the limit": "fs.writeSync(3, Buffer.from([255, 255, 255, 255, 18]))",
    "second READY": "fs.writeSync(3, frame(16, Buffer.alloc(4)))",
    "unknown type": "fs.writeSync(3, frame(99, Buffer.alloc(0)))",
    "closed": "fs.closeSync(3)",
    "read": "for (let i = 0; i < 100; i++) try { fs.readSync(3, Buffer.alloc(100)) } catch { break }",
}


@pytest.mark.parametrize("frame", NODE_FORGED)
def test_own_forged_frames_of_node(pools, frame):
    """Write to and read from the driver's socket in Node: it fools its own session at most."""
    session = pools["NodeLTS"].session()
    reply = session.post(NODE_FORGES + NODE_FORGED[frame], timeoutInSeconds=2)
    assert reply.status in (200, 502, 503), reply
    if reply.status == 200:
        document = reply.json
        assert set(document) <= {"id", "identifier", "executionType", "status", "result", "error"}
        assert document["status"] in ("Succeeded", "Failed")
        value = document["result"].get("executionResult")
        assert value is None or isinstance(value, (str, int, float, bool))
    for _ in range(3):
        after = session.post("40 + 2", timeoutInSeconds=5, timeout=30)
        if after.status == 200 and after.json["result"].get("executionResult") == 42:
            break
    assert command(session, "echo on")["result"]["stdout"] == "on\n"
    session.delete()


def test_own_socket_of_the_shell_driver_is_out_of_reach(pools):
    """From a command: reopen, take or duplicate the descriptors of the driver, and write into its memory."""
    session = Below(pools["Shell"])
    session.kind = "shell"
    report = attack(
        session,
        """
        driver = int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])
        report['parent of bash'] = driver
        for fd in range(16):
            for flags in (os.O_RDWR, os.O_WRONLY | os.O_NONBLOCK):
                answer = attempt(os.open, f'/proc/{driver}/fd/{fd}', flags)
                report[f'{fd} {flags}'] = answer if isinstance(answer, str) else os.readlink(f'/proc/self/fd/{answer}')
        pidfd = call(434, driver, 0)
        report['getfd'] = call(438, pidfd, 3, 0) if isinstance(pidfd, int) else pidfd
        report['attach'] = call(101, 16, driver, 0, 0)
        """,
    )
    assert report.pop("parent of bash") > 1
    assert report.pop("getfd") in REFUSED | {"EBADF"} and report.pop("attach") in REFUSED
    # Output pipes are bash's too; a socket cannot be opened by its name.
    assert not [v for v in report.values() if v.startswith("socket:")], report
    session.delete()


DRIVER_TRICKS = {
    "stopped": "kill -STOP $PPID; while :; do :; done",
    "killed": "kill -9 $PPID; sleep 60",
    "every signal": "for s in $(seq 1 64); do [ $s = 19 ] || kill -$s $PPID; done; sleep 60",
    "all of its group": "kill -9 0",
    "everybody": "kill -9 -1",
    "everybody stopped": "kill -STOP -1; kill -STOP $$",
    "descriptors closed": "for n in $(seq 0 255); do eval \"exec $n>&-\"; done 2>/dev/null; eval 'exec 1>&- 2>&-'",
    "output to nobody": "exec >/dev/full 2>&1; echo x",
    "builtins gone": "builtin() { :; }; eval() { :; }; source() { :; }; trap 'echo trap' DEBUG; set -eu",
    "restricted": "set -r",
    "written into": "printf xxxxxxxx | dd of=/proc/$PPID/mem bs=8 seek=1 conv=notrunc 2>/dev/null; sleep 0.1",
    "no memory": "ulimit -v 1000; ulimit -n 4",
    "no processes": "for i in $(seq 200); do sleep 600 & done 2>/dev/null",
    "no directory": "mkdir gone; cd gone; rmdir ../gone; export PWD=/proc/1/root HOME=/nowhere PATH=",
}


@pytest.mark.parametrize("trick", DRIVER_TRICKS)
def test_own_tricks_on_the_shell_driver(pools, trick):
    """End, stop and break the driver from below: the session answers again, at worst from a new kernel."""
    session = pools["Shell"].session()
    command(session, DRIVER_TRICKS[trick], timeoutInSeconds=2)
    for _ in range(4):
        last = command(session, "builtin echo on", timeoutInSeconds=5)
        if last["status"] == "0" and last["result"]["stdout"] == "on\n":
            break
    else:
        # A shell broken beyond use is its own trouble; another context is not of it.
        session.call("POST", "contexts/default/restart").ok()
        assert command(session, "builtin echo on")["result"]["stdout"] == "on\n", last
    session.delete().ok(204)


# --- limits below terminals and commands ---

@pytest.mark.parametrize("where", ["command", "terminal"])
def test_19_bombs_below_launched_processes(pools, neighbour, where):
    """Fork without end from a command or a terminal: bounded, others work on, all die with the session."""
    session = pools["Shell"].session()
    uid = uid_of(session)
    bomb = "b() { b | b & }; b; while :; do sleep 600 & done"
    if where == "command":
        command(session, bomb, timeoutInSeconds=2)
    else:
        with Terminal(session, command=f"{bomb}"):
            e2e.wait_for(lambda: len(e2e.sandbox_pids(uid)) > 30, 20, "the bomb goes off")
            most = 0
            for _ in range(5):
                most = max(most, len(e2e.sandbox_pids(uid)))
                assert neighbour.value("1 + 1") == 2
            assert 30 < most <= 64 + 2, most
            # Files and the end of the session need no process.
            session.upload(("f", b"x"), timeout=20).ok()
            assert session.names() == ["f"]
    session.delete().ok(204)
    ends(uid)


@pytest.mark.parametrize("language", ["node", "shell", "terminal"])
def test_22_memory_below_launched_processes(pools, neighbour, language):
    """Take memory without end in Node, a command and a terminal: bounded, and the session serves on."""
    session = pools["Shell"].session()
    session.upload(("kept", b"x")).ok()
    uid = uid_of(session)
    pids = e2e.sandbox_pids(uid)
    hoard = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done"
    if language == "terminal":
        with Terminal(session, command=hoard) as terminal:
            assert terminal.exit()["signal"] == 9
    elif language == "shell":
        assert command(session, hoard)["error"]["code"] == "ExecutionOutOfMemory"
    else:
        error, _ = session.fails("const a = []; while (true) a.push(Buffer.alloc(1 << 20, 1))", language="node")
        assert error["code"] == "ExecutionOutOfMemory"
    assert tools.memory_peak(pids[0]) <= 384 << 20
    assert neighbour.value("1 + 1") == 2
    assert session.names() == ["kept"] and command(session, "echo on")["result"]["stdout"] == "on\n"
    session.delete()


def test_own_terminal_cannot_answer_for_a_kernel(pools):
    """From a terminal, look for and hurt the kernels beside it: what runs in them is not its business."""
    session = pools["Shell"].session()
    job = e2e.Background(command, session, "until [ -e go ]; do sleep 0.02; done; echo true answer")
    e2e.wait_for(lambda: session.call("GET", "contexts").ok().json["value"][0]["state"] == "busy", 20, "it runs")
    look = "for p in /proc/[0-9]*; do readlink $p/fd/3; done 2>/dev/null | grep -c socket; stty size; echo looked-$((1+0)); read x"
    with Terminal(session, command=look) as terminal:
        seen = terminal.until("looked-1")
    session.upload(("go", b"")).ok()
    assert job.result()["result"]["stdout"] == "true answer\n"
    assert b"\n0\r" in b"\n" + seen or seen.startswith(b"0"), seen
    session.delete()


def test_29_escapes_of_a_terminal_reach_no_log(pools, daemon):
    """Write every escape sequence to a terminal: they go to its client as they are, and nowhere else."""
    session = pools["Shell"].session()
    mark = uuid.uuid4().hex
    text = f"printf '\\033]0;{mark}\\007\\033[c\\033[6n\\033P\\033\\\\%s' done-{mark}; read x"
    with Terminal(session, command=text) as terminal:
        assert terminal.until(f"done-{mark}").startswith(b"\x1b]0;")
        terminal.type("\n")
        assert terminal.exit()["status"] == 0
    assert mark not in daemon.stderr() and "\x1b" not in daemon.stderr()
    session.delete()


def test_36_planted_files_do_not_reach_the_next_launched_kernel(pools):
    """Plant start-up files, preloads and variables, end every kernel: the next ones begin clean."""
    session = pools["Shell"].session()
    mark = "touch /tmp/hostile-was-here"
    command(
        session,
        "cd ~; mkdir -p .local/bin .local/lib\n"
        f"for f in .bashrc .bash_profile .profile .bash_env .bash_logout; do echo '{mark}' >$f; done\n"
        f"for f in bash sh node python3 env; do printf '#!/bin/sh\\n{mark}\\n' >.local/bin/$f; chmod 755 .local/bin/$f; done\n"
        "echo x >.local/evil.so; export LD_PRELOAD=$HOME/.local/evil.so BASH_ENV=$HOME/.bash_env ENV=$HOME/.bash_env\n"
        "export NODE_OPTIONS='--require /mnt/data/x.js' PYTHONPATH=/mnt/data LD_LIBRARY_PATH=/mnt/data\n"
        "echo 'require(\"fs\").writeFileSync(\"/tmp/hostile-was-here\", \"\")' >/mnt/data/x.js\n"
        "echo 'open(\"/tmp/hostile-was-here\", \"w\")' | tee /mnt/data/json.py >/mnt/data/struct.py\n"
        "cp /mnt/data/x.js /mnt/data/fs.js; kill -9 $PPID",
    )  # fmt: skip
    for code, language in (("[ -z \"$LD_PRELOAD$BASH_ENV$PYTHONPATH$NODE_OPTIONS\" ] && echo clean", "shell"),
                           ("console.log(process.env.NODE_OPTIONS ? 'bad' : 'clean')", "node"),
                           ("import os; print('bad' if 'PYTHONPATH' in os.environ else 'clean')", "python")):  # fmt: skip
        assert session.result(code, language=language)["stdout"] == "clean\n", language
    # A file without a word in the way of a program of that name is what the user asked for with PATH.
    assert command(session, "/usr/bin/test -e /tmp/hostile-was-here && echo there")["result"]["stdout"] == ""
    session.delete()


def test_11_uploaded_program_below_a_launched_kernel(session):
    """Bring a program that says who it is: the session's user, without any right."""
    path = bring(session, "ids")
    text = attack(session, f"report = subprocess.run([{path!r}], capture_output=True, text=True).stdout")
    assert text.startswith("uid 1000 1000 1000 gid 1000 1000 1000 caps 0 0 0 setuid(0) E"), text
