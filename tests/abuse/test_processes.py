# SPDX-License-Identifier: Apache-2.0
"""Cases 19 to 23 and 31 to 34: processes, signals, memory, timers."""

import os
import pathlib
import time

import pytest

from abuse.attack import (
    CLOSED,
    REFUSED,
    agent_pid,
    attack,
    bring,
    e2e,
    host_pids,
    host_uid,
    hostile,
    memory_peak,
    outcome,
    rounds,
    run_c,
    socket_memory,
    started,
    status,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def tight(daemon):
    """A pool of small sessions: 160 MiB of memory, 64 processes."""
    p = daemon.make_pool(maximum=60, ready=2, limits={"memory": "160Mi", "pids": 64})
    yield p
    p.delete()


@pytest.fixture
def small(tight):
    s = tight.session()
    yield s
    s.delete()


def ends(uid):
    """Waits until no process of a host uid is left; how long it took."""
    began = time.monotonic()
    e2e.wait_for(lambda: not e2e.sandbox_pids(uid), 20, f"all processes of {uid} end", 0.005)
    return time.monotonic() - began


# --- 19: bombs and daemons ---

BOMBS = {
    "fork": """
        while True:
            try:
                if os.fork() == 0:
                    signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)
            except OSError:
                pass
        """,
    "threads": """
        made = 0
        while True:
            try:
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); made += 1
            except RuntimeError:
                time.sleep(0.001)
        """,
    "exec storm": """
        while True:
            try:
                subprocess.Popen(['sh', '-c', '$0 & $0 & wait', 'true'], start_new_session=True)
            except OSError:
                pass
        """,
    "multiplying": """
        code = 'import os\\nwhile 1:\\n try: os.fork()\\n except OSError: pass'
        subprocess.run(['python3', '-c', code])
        """,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_19_bombs(tight, neighbour, bomb):
    """Make processes or threads without end: the number is bounded, others work on, all die with the session."""
    session = tight.session()
    uid = host_uid(session)
    job = session.background(hostile(BOMBS[bomb]), timeoutInSeconds=rounds(1, 30))
    most = 0
    while not job.done():
        tasks = sum(len(safe_list(f"/proc/{pid}/task")) for pid in e2e.sandbox_pids(uid))
        most = max(most, tasks)
        assert neighbour.value("1 + 1") == 2
    # The agent and the kernel that is being attached stand outside of what a fork is refused for.
    assert (2 if bomb == "exec storm" else 8) < most <= 64 + 2, most
    assert job.result().ok().json["status"] == "Failed"
    session.delete().ok(204)
    ends(uid)


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def safe_list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def test_19_daemons_die_with_the_session_at_once(new_session):
    """Leave double-forked daemons in sessions of their own that ignore every signal; delete the session."""
    taken = []
    for _ in range(3):
        session = new_session()
        uid = host_uid(session)
        run_c(session, "daemons", 40)
        assert len(e2e.sandbox_pids(uid)) >= 40
        began = time.monotonic()
        session.delete().ok(204)
        ends(uid)
        taken.append(time.monotonic() - began)
    # The limit of the case is 100 ms; on a busy machine one of three must keep it.
    assert min(taken) < 0.1, taken


def test_19_daemons_that_survive_a_timeout_are_still_bounded(small):
    """Outlive the execution's timeout with a daemon: the next execution runs, the daemon ends with the session."""
    uid = host_uid(small)
    state, code, _, _ = outcome(
        small,
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True: pass
        while True: pass
        """,
        timeoutInSeconds=1,
    )
    assert (state, code) == ("Failed", "ExecutionTimeout")
    assert small.value("1 + 1") == 2
    small.delete().ok(204)
    ends(uid)


# --- 20: ptrace ---


def test_20_ptrace_and_relatives(session):
    """Trace a parent, a child and PID 1, read their memory, take their descriptors."""
    answers = attack(
        session,
        """
        child = subprocess.Popen(['sleep', '60'])
        for name, pid in (('child', child.pid), ('agent', 1), ('parent', os.getppid()), ('self', os.getpid())):
            report[f'attach {name}'] = call(101, 16, pid, 0, 0)
            report[f'seize {name}'] = call(101, 0x4206, pid, 0, 0)
            report[f'vm_readv {name}'] = call(310, pid, struct.pack('QQ', 0, 0), 1, struct.pack('QQ', 0, 0), 1, 0)
            report[f'vm_writev {name}'] = call(311, pid, struct.pack('QQ', 0, 0), 1, struct.pack('QQ', 0, 0), 1, 0)
            report[f'kcmp {name}'] = call(312, os.getpid(), pid, 0, 0, 0)
            report[f'madvise {name}'] = call(440, 0, struct.pack('QQ', 0, 0), 1, 4, 0)
            fd = call(434, pid, 0)
            report[f'getfd {name}'] = call(438, fd, 0, 0) if isinstance(fd, int) else fd
        report['traceme'] = call(101, 0, 0, 0, 0)
        child.kill(); child.wait()
        """,
    )
    assert set(answers.values()) <= REFUSED, answers


def test_20_traceme_of_a_setuid_program(session):
    """PTRACE_TRACEME before the exec of a set-uid program (CVE-2019-13272)."""
    code, text = run_c(session, "traceme")
    assert "traceme EPERM" in text or "traceme ENOSYS" in text, (code, text)


def test_20_memory_of_the_agent(session):
    """Open the agent's memory, maps and environment for reading and writing."""
    answers = attack(
        session,
        """
        for name in ('mem', 'maps', 'environ', 'auxv', 'syscall', 'stack', 'personality', 'clear_refs',
                     'oom_score_adj', 'coredump_filter', 'comm', 'timerslack_ns', 'autogroup'):
            for flags in (os.O_RDONLY, os.O_WRONLY):
                path = f'/proc/1/{name}'
                def use():
                    fd = os.open(path, flags)
                    return repr(os.read(fd, 8) if flags == os.O_RDONLY else os.write(fd, b'1'))
                report[f'{path} {flags}'] = attempt(use)
        """,
    )
    assert set(answers.values()) <= CLOSED | {"EINVAL"}, answers


# --- 21: signals ---


def test_21_signals_to_every_pid(pool, daemon, neighbour):
    """Kill every pid there can be, one by one and all at once, by pid, thread and pidfd."""
    session = pool.session()
    session.run("1")
    agent = agent_pid(session)
    ours = [p for p in e2e.descendants(daemon.pid) if comm(p).startswith("bivouac-")]
    zygotes = [p for p in ours if "zygote" in comm(p)]
    assert zygotes
    others = [daemon.pid, *zygotes, *host_pids(neighbour), agent]
    others += [p for p in ours if "jailer" in comm(p)]
    before = {pid: started(pid) for pid in others}
    killer = """
        if os.fork() == 0:
            os.setsid()
            me = os.getpid()
            for pid in [p for p in range(1, 65536) if p != me] + [0x3fffffff, 0x7fffffff]:
                for sig in (signal.SIGSTOP, signal.SIGKILL, signal.SIGHUP):
                    call(62, pid, sig); call(200, pid, sig); call(234, pid, pid, sig)
            for sig in (signal.SIGSTOP, signal.SIGKILL):
                fd = call(434, 1, 0)
                if isinstance(fd, int): call(424, fd, sig, 0, 0)
                call(129, 1, sig, bytes(128)); call(62, -1, sig)
            os._exit(0)
        os.wait()
        """
    outcome(session, killer, timeoutInSeconds=30)
    # The kernel may be among the dead; daemon, jailer, zygotes, agent and the neighbours never.
    gone = [p for p, when in before.items() if not e2e.alive(p) or started(p) != when]
    assert gone == []
    assert session.value("1 + 1") == 2
    assert agent_pid(session) == agent and status(agent, "State")[0] in "SR"
    session.delete().ok(204)


def test_21_signals_by_roundabout_ways(session):
    """Have the system itself signal PID 1: owner of a descriptor, death signal, terminal, timer."""
    agent = agent_pid(session)
    attack(
        session,
        """
        read, write = os.pipe()
        for sig in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            a, b = socket.socketpair()
            attempt(fcntl.fcntl, a, fcntl.F_SETSIG, sig)
            attempt(fcntl.fcntl, a, fcntl.F_SETOWN, 1)
            attempt(fcntl.fcntl, a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
            b.send(b'x')
            attempt(fcntl.fcntl, a, 15, struct.pack('ii', 1, 1))
            b.send(b'x')
            call(222, 0, struct.pack('QiiI', 0, sig, 4, 1) + bytes(64), ctypes.create_string_buffer(8))
        master, slave = os.openpty()
        attempt(fcntl.ioctl, slave, 0x5410, struct.pack('i', 1))
        os.write(master, b'\\x03\\x1c\\x1a')
        report['alive'] = True
        """,
    )
    assert session.value("1 + 1") == 2
    assert agent_pid(session) == agent and status(agent, "State")[0] in "SR"


def test_21_pid_reuse_while_executions_are_killed(tight):
    """Make pids go round while executions time out, so that a late kill by number would hit another."""
    session = tight.session()
    session.run(
        "import subprocess; kept = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "churn = subprocess.Popen(['sh', '-c', 'while :; do true & wait; done'], start_new_session=True)\n"
        "open('pids', 'w').write(f'{kept.pid} {churn.pid}');"
    )
    for _ in range(rounds(4, 2000)):
        session.post("while True: pass", timeoutInSeconds=0.2).ok()
    check = "import os; all(os.path.exists(f'/proc/{p}') for p in open('pids').read().split())"
    assert session.value(check) is True
    session.delete().ok(204)


# --- 22: memory ---

HOGS = ["anon", "memfd", "sysv", "pipes", "unix", "file:/tmp/hog", "file:/dev/shm/hog",
        "file:/home/session/hog", "file:/mnt/data/hog"]  # fmt: skip


@pytest.mark.parametrize("kind", HOGS)
def test_22_memory_hogs(small, neighbour, kind):
    """Take a gigabyte in a session of 160 MiB: only this session feels it, and its error says so."""
    path = bring(small, "hog")
    agent = agent_pid(small)
    _, code, out, err = outcome(
        small,
        f"""
        done = subprocess.run([{path!r}, {kind!r}, '1024'], stdout=subprocess.PIPE, text=True)
        print(done.returncode, done.stdout)
        """,
    )
    assert e2e.alive(agent), "the agent was taken instead of the hog"
    assert memory_peak(agent) <= 160 * MIB
    assert neighbour.value("1 + 1") == 2
    if code is None:
        # The child was killed, or refused by a limit of its own kind.
        result, _, text = out.partition(" ")
        assert result == "-9" or "MiB" in text and int(text.split()[0]) < 160, out
    else:
        assert code == "ExecutionOutOfMemory" and "memory" in err.lower(), (code, err)
    # Files stay and count; without them the session works again.
    small.call("DELETE", "files/hog")
    # Files outside of /mnt/data keep their memory: then no kernel stays up, and the answer says why.
    after = small.post("1 + 1")
    assert after.status == 200 or "memory may be full of files" in after.error(503)["message"]


def test_22_out_of_memory_is_called_so(small):
    """Take all memory in the kernel itself: the answer names the reason."""
    _, code, _, err = outcome(small, "hog = [bytearray(1 << 20) for _ in range(1000)]")
    assert code == "ExecutionOutOfMemory" and "memory" in err.lower(), (code, err)
    assert small.value("1 + 1") == 2


UDP_HOG = """
    kept = []
    for _ in range({sockets}):
        r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        r.bind(('127.0.0.1', 0))
        r.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.connect(r.getsockname())
        s.setblocking(False)
        try:
            for _ in range(400): s.send(bytes(60000))
        except OSError:
            pass
        s.close()
        kept.append(r)
    report = len(kept)
    """
TCP_HOG = """
    kept = []
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen(100)
    for _ in range({sockets}):
        a = socket.create_connection(listener.getsockname(), timeout=1)
        b, _ = listener.accept()
        for s in (a, b):
            s.setblocking(False)
            try:
                while True: s.send(bytes(1 << 20))
            except OSError:
                pass
        kept += [a, b]
    report = len(kept)
    """


@pytest.mark.parametrize("hog", [UDP_HOG, TCP_HOG], ids=["udp", "tcp"])
def test_22_socket_buffers(small, hog):
    """Fill the buffers of sockets on the loopback: they are the host kernel's memory and must count."""
    small.run("1")
    e2e.wait_for(lambda: socket_memory() < 16 * MIB, 20, "buffers of earlier tests are given back")
    before = socket_memory()
    outcome(small, hog.format(sockets=64), timeoutInSeconds=10)
    taken = socket_memory() - before
    # 64 sockets of 8 MiB: half a gigabyte if nothing holds it.
    assert taken < 160 * MIB, f"{taken >> 20} MiB of buffers in a session of 160 MiB"


def test_22_descriptors_in_flight(small):
    """Hide thousands of descriptors in messages that nobody receives, and make cycles of them."""
    report = attack(
        small,
        """
        made = 0
        try:
            for _ in range(3000):
                a, b = socket.socketpair()
                socket.send_fds(a, [b'x'], [a.fileno(), b.fileno()] * 100)
                a.close(); b.close()
                made += 1
        except OSError as error:
            report['error'] = errno.errorcode[error.errno]
        report['made'] = made
        """,
        timeoutInSeconds=30,
    )
    assert report.get("error", "ETOOMANYREFS") in ("ETOOMANYREFS", "ENOMEM", "ENOBUFS", "EMFILE")
    assert small.value("1 + 1") == 2


# --- 23: locked, huge and secret memory ---


@pytest.mark.parametrize("kind", ["mlock", "mlockall", "locked-map", "secret"])
def test_23_locked_memory(session, kind):
    """Lock 64 MiB against the host's reclaim, or hide it from the host."""
    path = bring(session, "hog")
    session.run(
        f"import subprocess; p = subprocess.Popen([{path!r}, {kind!r}, '64', 'stay'], stdout=subprocess.PIPE)"
    )
    text = session.value("p.stdout.readline().decode()")
    locked = [int(status(pid, "VmLck").split()[0]) for pid in host_pids(session)]
    session.run("p.kill(); p.wait();")
    assert max(locked) <= 8 * 1024, (text, locked)
    assert int(text.split()[0]) <= 8, text


@pytest.mark.parametrize("kind", ["huge-map", "huge-memfd"])
def test_23_huge_pages(session, kind):
    """Take huge pages that the host has put aside: no cgroup here counts them."""
    setting = pathlib.Path("/proc/sys/vm/nr_hugepages")
    if not setting.exists():
        pytest.skip("the host's kernel has no huge pages")
    before = setting.read_text()
    try:
        setting.write_text(str(int(before) + 4))
        code, text = run_c(session, "hog", kind, "4")
    finally:
        setting.write_text(before)
    assert code == 0 and text.startswith("0 MiB"), text


# --- 31: core dumps ---


def test_31_core_dumps(session):
    """Crash with the core limit raised, in a directory that the API serves."""
    path = bring(session, "crash")
    session.run("import resource; resource.setrlimit")
    answers = attack(
        session,
        f"""
        import resource
        report['limit'] = resource.getrlimit(resource.RLIMIT_CORE)
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
            report['raised'] = True
        except (ValueError, OSError):
            report['raised'] = False
        report['filter'] = write_to('/proc/self/coredump_filter', b'0x7f')
        done = subprocess.Popen([{path!r}]); done.wait()
        report['status'] = done.returncode
        report['files'] = sorted(os.listdir('.'))
        """,
    )
    # The kernel ignores a limit of 0 when core_pattern names a program (which it runs as root); 1 is
    # its special value for no dump at all.
    assert answers["limit"] == [1, 1] and answers["raised"] is False
    assert answers["status"] == -11 and answers["files"] == ["crash"]


# --- 32: limits and priorities ---


def test_32_limits_and_priorities(session):
    """Raise own limits, change those of others, ask for real-time scheduling, slow the agent down."""
    agent = agent_pid(session)
    nice = os.getpriority(os.PRIO_PROCESS, agent)
    where = os.sched_getaffinity(agent)
    answers = attack(
        session,
        """
        import resource
        child = subprocess.Popen(['sleep', '60'])
        rt = struct.pack('i', 50)
        attr = struct.pack('IIQiIQQQ', 48, 1, 0, 0, 50, 0, 0, 0)
        deadline = struct.pack('IIQiIQQQ', 48, 6, 0, 0, 0, 10**6, 10**7, 10**7)
        report['nice down'] = attempt(os.setpriority, os.PRIO_PROCESS, 0, -5)
        for name, pid in (('self', 0), ('child', child.pid), ('agent', 1)):
            report[f'fifo {name}'] = call(144, pid, 1, rt)
            report[f'rr {name}'] = call(144, pid, 2, rt)
            report[f'param {name}'] = call(142, pid, rt)
            report[f'attr {name}'] = call(314, pid, attr, 0)
            report[f'deadline {name}'] = call(314, pid, deadline, 0)
            report[f'ioprio {name}'] = call(251, 1, pid, 1 << 13)
            if name != 'self':
                report[f'prlimit {name}'] = call(302, pid, 7, struct.pack('QQ', 10, 10), 0)
        report['prlimit agent read'] = call(302, 1, 7, 0, ctypes.create_string_buffer(16))
        report['nice agent'] = call(141, 0, 1, 19)
        report['affinity agent'] = call(203, 1, 8, struct.pack('Q', 1))
        child.kill(); child.wait()
        for name in ('NOFILE', 'CORE', 'MEMLOCK', 'NPROC', 'SIGPENDING', 'MSGQUEUE', 'RTPRIO', 'NICE'):
            kind = getattr(resource, 'RLIMIT_' + name, None) or dict(SIGPENDING=11, MSGQUEUE=12, NICE=13, RTPRIO=14)[name]
            soft, hard = resource.getrlimit(kind)
            try:
                resource.setrlimit(kind, (hard, hard + 1 if hard >= 0 else hard))
                report[f'raise {name}'] = 'EPERM' if hard < 0 else 'raised'
            except (ValueError, OSError):
                report[f'raise {name}'] = 'EPERM'
        """,
    )
    assert os.getpriority(os.PRIO_PROCESS, agent) == nice, "the agent's priority was changed"
    assert os.sched_getaffinity(agent) == where, "the agent's processors were changed"
    assert set(answers.values()) <= REFUSED | {"EACCES"}, answers


def test_32_agent_is_not_preferred_by_the_oom_killer(session):
    """Make oneself the last and the agent the first that the out-of-memory killer takes."""
    agent = agent_pid(session)
    before = pathlib.Path(f"/proc/{agent}/oom_score_adj").read_text()
    answers = attack(
        session,
        """
        report['self'] = write_to('/proc/self/oom_score_adj', b'-1')
        report['self low'] = write_to('/proc/self/oom_score_adj', b'-1000')
        report['old'] = write_to('/proc/self/oom_adj', b'-17')
        report['agent'] = write_to('/proc/1/oom_score_adj', b'1000')
        """,
    )
    assert set(answers.values()) <= CLOSED, answers
    assert pathlib.Path(f"/proc/{agent}/oom_score_adj").read_text() == before


# --- 33: timers and clocks ---


def test_33_timers(session, neighbour):
    """Make as many timers as there can be, and sleep in nanoseconds on many threads."""
    report = attack(
        session,
        f"""
        made = 0
        spec = struct.pack('qqqq', 0, 1000, 0, 1000)
        signal.signal(signal.SIGRTMIN, signal.SIG_IGN)
        timer = ctypes.create_string_buffer(8)
        while made < 20000:
            answer = call(222, 1, struct.pack('Qii', 0, signal.SIGRTMIN, 0) + bytes(48), timer)
            if isinstance(answer, str):
                report['error'] = answer
                break
            call(223, struct.unpack('i', timer.raw[:4])[0], 0, spec, 0)
            made += 1
        report['made'] = made
        def storm():
            end = time.monotonic() + {rounds(1, 20)}
            while time.monotonic() < end:
                for _ in range(1000): call(35, struct.pack('qq', 0, 1), 0)
        threads = [threading.Thread(target=storm) for _ in range(32)]
        [t.start() for t in threads]; [t.join() for t in threads]
        """,
        timeoutInSeconds=60,
    )
    assert report["made"] <= 4096 and report["error"] == "EAGAIN", report
    assert neighbour.value("1 + 1") == 2


def test_33_clocks_cannot_be_set(session):
    """Set the time of day, tune the clock."""
    before = time.time() - time.monotonic()
    answers = attack(
        session,
        """
        stamp = struct.pack('qq', 0, 0)
        report['settimeofday'] = call(164, stamp, 0)
        report['clock_settime'] = call(227, 0, stamp)
        for name, number in (('adjtimex', 159), ('clock_adjtime', 305)):
            mode = ctypes.create_string_buffer(struct.pack('I', 0x4001) + bytes(252))
            report[name] = call(number, mode) if number == 159 else call(number, 0, mode)
        report['stime'] = attempt(time.clock_settime, time.CLOCK_REALTIME, 0)
        """,
    )
    assert set(answers.values()) <= REFUSED, answers
    assert abs(time.time() - time.monotonic() - before) < 5


# --- 34: processes that do not end ---


def test_34_everything_stopped(pool):
    """Stop the kernel and all its children: the execution still times out and the session still ends."""
    session = pool.session()
    uid = host_uid(session)
    _, code, _, _ = outcome(
        session,
        """
        for _ in range(10):
            subprocess.Popen(['sleep', '600'])
        if os.fork() == 0:
            while True: os.kill(-1, signal.SIGSTOP)
        while True: os.kill(os.getpid(), signal.SIGSTOP)
        """,
        timeoutInSeconds=1,
    )
    assert code == "ExecutionTimeout"
    session.delete().ok(204)
    ends(uid)


def test_34_stopped_kernel_does_not_stop_the_files(session):
    """Stop the kernel in the middle of an execution and use the files."""
    job = session.background("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", timeoutInSeconds=2)
    assert session.upload(("while-stopped", b"x"), timeout=10).ok()
    assert session.names() == ["while-stopped"]
    assert job.result().json["error"]["code"] == "ExecutionTimeout"


def test_34_uninterruptible_parents(pool):
    """Hang parents in vfork behind children that never exec; every ending must still be possible."""
    session = pool.session()
    uid = host_uid(session)
    path = bring(session, "vforks")
    session.run(f"import subprocess; [subprocess.Popen([{path!r}]) for _ in range(20)];")
    e2e.wait_for(lambda: len(e2e.sandbox_pids(uid)) >= 42, 10, "parents hang in vfork")
    session.delete().ok(204)
    ends(uid)


def test_34_no_fuse_and_no_userfaultfd(session):
    """Get a file system or page faults that are answered by oneself, or never."""
    answers = attack(
        session,
        """
        report['fuse'] = attempt(os.open, '/dev/fuse', os.O_RDWR)
        report['cuse'] = attempt(os.open, '/dev/cuse', os.O_RDWR)
        report['mount'] = call(165, b'x', b'/tmp', b'fuse', 0, b'fd=0,rootmode=40000,user_id=0,group_id=0')
        report['userfaultfd'] = call(323, 0)
        report['userfaultfd user'] = call(323, 1)
        report['device'] = attempt(os.open, '/dev/userfaultfd', os.O_RDWR)
        """,
    )
    assert set(answers.values()) <= CLOSED, answers


# --- own: the agent, the kernel protocol and the next kernel ---

OWN_SOCKET = """
    agent = next(fd for fd in range(3, 4096) if os.path.exists(f'/proc/self/fd/{fd}')
                 and os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'))
    def done(status=0, kind=5, value=b'forged', name=b'', text=b'', trace=b''):
        body = struct.pack('<BB', status, kind)
        for blob in (value, name, text, trace):
            body += struct.pack('<I', len(blob)) + blob
        return struct.pack('<IB', len(body), 18) + body
    def display(kind, value):
        body = struct.pack('<BI', kind, len(value)) + value
        return struct.pack('<IB', len(body), 17) + body
    def send(data):
        view = memoryview(data)
        while view:
            view = view[os.write(agent, view):]
    """

FORGED = {
    # Values whose text would become JSON if it were believed.
    "injected number": "send(done(kind=3, value=b'1,\"status\":\"Succeeded\",\"x\":2'))",
    "number nan": "send(done(kind=4, value=b'NaN'))",
    "number inf": "send(done(kind=4, value=b'1e999'))",
    "huge int": "send(done(kind=3, value=b'9' * 100000))",
    "bool 2": "send(done(kind=2, value=b'2'))",
    "invalid utf-8": "send(done(kind=5, value=b'\\xff\\xfe\\x00\\x1b'))",
    "image without a format": "send(done(kind=7, value=b''))",
    "image of a forged format": "send(done(kind=7, value=bytes([14]) + b'png\",\"a\":\"<x>' + b'x'))",
    "image with a long format": "send(done(kind=7, value=bytes([255]) + b'png'))",
    "unknown kind": "send(done(kind=200))",
    "unknown status": "send(done(status=77))",
    "cut frame": "send(struct.pack('<IB', 6, 18) + bytes(6))",
    "lengths that overflow": "send(struct.pack('<IB', 10, 18) + b'\\0\\5' + b'\\xff' * 8)",
    "frame beyond the limit": "send(struct.pack('<IB', 0xffffffff, 18))",
    "second READY": "send(struct.pack('<IBI', 4, 16, 1))",
    "unknown type": "send(struct.pack('<IB', 0, 99))",
    "displays without end": "[send(display(5, b'x' * 100)) for _ in range(50000)]; send(done())",
    "image display that lies": "send(display(7, bytes([200]) + b'x')); send(done())",
    "large error name": "send(done(status=1, name=b'N' * 5000))",
    "many results": "[send(done()) for _ in range(2000)]",
    "half a frame, then silence": "send(struct.pack('<IB', 1 << 20, 18) + b'x'); time.sleep(600)",
    "16 MiB": "send(done(value=b'A' * (16 * 1024 * 1024 - 64)))",
    "descriptors": "socket.send_fds(socket.socket(fileno=os.dup(agent)), [done()], [0, 1, 2] * 80)",
    "end of file": "os.shutdown(agent) if hasattr(os, 'shutdown') else socket.socket(fileno=os.dup(agent)).shutdown(2)",
    "end, then life": "os.close(agent); time.sleep(600)",
}


@pytest.mark.parametrize("frame", FORGED)
def test_own_forged_frames(tight, daemon, frame):
    """Speak to the agent instead of the driver, and say what the protocol does not allow."""
    session = tight.session()
    reply = session.post(
        hostile(OWN_SOCKET) + FORGED[frame] + "\ntime.sleep(0.05)", timeoutInSeconds=2
    )
    if reply.status == 200:
        document = reply.json  # it parses
        assert set(document) <= {"id", "identifier", "executionType", "status", "result", "error"}
        assert document["identifier"] == session.identifier
        value = document.get("result", {}).get("executionResult")
        assert value is None or isinstance(value, (str, int, float, bool, dict))
        if isinstance(value, dict):
            assert value["format"] in ("png", "jpeg", "svg+xml"), value
    else:
        assert reply.status in (502, 503), reply
    # Whatever it was: the session answers again, or says that it ended; nobody else notices.
    after = session.post("1 + 1", timeoutInSeconds=5, timeout=30)
    assert after.status in (200, 502, 503), after
    assert e2e.alive(daemon.pid)
    session.delete()


def test_own_next_kernel_of_the_session(tight):
    """From a process that outlived its kernel, stop, trace and write into the next kernel while it starts."""
    session = tight.session()
    uid = host_uid(session)
    session.run(
        hostile(
            """
            def hunt():
                os.setsid()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                end = time.monotonic() + 4
                me = os.getpid()
                time.sleep(0.5)
                while time.monotonic() < end:
                    for name in os.listdir('/proc'):
                        if not name.isdigit() or int(name) in (1, me):
                            continue
                        try: os.kill(int(name), signal.SIGSTOP)
                        except OSError: pass
                        for what in ('mem', 'fd/200', 'exe'):
                            try: os.write(os.open(f'/proc/{name}/{what}', os.O_RDWR), b'x' * 8)
                            except OSError: pass
                    for pid in range(me, me + 300):
                        if pid != me:
                            try: os.kill(pid, signal.SIGSTOP)
                            except OSError: pass
                os._exit(0)
            if os.fork() == 0:
                if os.fork() == 0:
                    hunt()
                os._exit(0)
            os.wait();
            """
        )
    )
    # Kill the kernel: the next one is born under fire.
    session.post("import os; os._exit(1)").ok()
    answer = session.post("1 + 1", timeoutInSeconds=8, timeout=60)
    assert answer.status in (200, 503), answer
    assert len(e2e.sandbox_pids(uid)) <= 64 + 2
    e2e.wait_for(
        lambda: session.post("2 + 2", timeoutInSeconds=8, timeout=60).json.get("status") == "Succeeded",
        40,
        "the session recovers when the fire ends",
    )
    session.delete().ok(204)
    ends(uid)


def test_own_old_descriptors_are_dead(session):
    """Keep the old kernel's socket in another process and answer for the next kernel."""
    session.run(
        hostile(OWN_SOCKET)
        + "\nif os.fork() == 0:\n    os.setsid(); signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    end = time.monotonic() + 5\n"
        "    while time.monotonic() < end:\n"
        "        try: send(done(value=b'forged'))\n"
        "        except OSError: pass\n"
        "        time.sleep(0.001)\n"
        "    os._exit(0)"
    )
    session.post("import os; os._exit(1)").ok()
    for i in range(50):
        assert session.value(f"'true answer {i}'") == f"true answer {i}"


@pytest.mark.parametrize(
    "trick",
    [
        "import sys; sys.stdout = sys.stderr = sys.__stdout__ = None",
        "import os; os.closerange(0, 3)",
        "import fcntl, os; [fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC) for fd in (1, 2)]",
        "import fcntl; [fcntl.fcntl(fd, 1031, 4096) for fd in (1, 2)]",
        "import os; os.open('/proc/self/fd/1', os.O_RDONLY)",
        "import atexit, os; atexit.register(os.abort)",
        "import sys; sys.excepthook = sys.displayhook = lambda *a: 1 / 0",
        "import sys; sys.settrace(lambda *a: 1 / 0)",
        "import sys; sys.setrecursionlimit(50)",
        "import gc; gc.callbacks.append(lambda *a: 1 / 0); gc.collect()",
        "import signal; [signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]",
        "import builtins; builtins.compile = builtins.exec = builtins.repr = builtins.print = None",
        "import sys; sys.modules.clear()",
        "import bivouac_kernel.session as s, bivouac_kernel.proto as p; p.Channel.send = s._loop = None",
        "import os\nos.fork() or os._exit(0)",
        "import threading; threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()",
        "import os; os.environ.update({f'E{i}': 'x' * 4096 for i in range(5000)})",
        "class R:\n    def __repr__(self): return repr(self)\nR()",
        "class D:\n    def __del__(self): import os; os.abort()\nx = D(); del x",
        "import ctypes; ctypes.memset(0, 0, 1)",
        "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)",
        "import signal; signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)",
        "import os; os.chdir('/proc/self/fd'); os.umask(0o777)",
        "import os; os.dup2(0, 200)",
    ],
)
def test_own_tricks_on_the_driver(tight, trick):
    """Break the driver's Python from below user code: the session answers again, at worst in a new kernel."""
    session = tight.session()
    session.post(trick, timeoutInSeconds=2, timeout=30).ok()
    for _ in range(3):
        last = session.post("40 + 2", timeoutInSeconds=3, timeout=30).ok().json
        if last["status"] == "Succeeded" and last["result"]["executionResult"] == 42:
            break
    else:
        # A kernel broken beyond use is still nobody else's trouble, and an exit replaces it.
        session.post("import os; os.kill(os.getpid(), 9)", timeoutInSeconds=3).ok()
    session.delete().ok(204)


def test_own_files_work_when_no_process_can_be_made(tight):
    """Fill the process table of the session, then use files and delete the session."""
    session = tight.session()
    uid = host_uid(session)
    session.run(
        "import os, time\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            os.setsid(); time.sleep(600); os._exit(0)\n"
        "    except OSError: break"
    )
    session.upload(("f", b"x"), timeout=10).ok()
    assert session.names() == ["f"] and session.download("f").body == b"x"
    # Even the next kernel comes: it does not need a place that the session's code could take.
    session.post("import os; os._exit(1)").ok()
    assert session.value("1 + 1") == 2
    session.delete().ok(204)
    ends(uid)


def test_own_ptys_of_others(session, neighbour):
    """Open every pseudo-terminal the machine has."""
    report = attack(
        session,
        """
        held = []
        try:
            while len(held) < 3500:
                held.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))
        except OSError as error:
            report['error'] = errno.errorcode[error.errno]
        report['held'] = len(held)
        """,
    )
    answer = neighbour.post("import os; [os.close(fd) for fd in os.openpty()];").ok().json
    session.run("[os.close(fd) for fd in held];")
    assert answer["status"] == "Succeeded", (report, answer)
    assert report["held"] <= 256, report


def test_own_exec_of_the_runtime(session):
    """Run the zygote's program oneself, with descriptors 3 and 4 made to look like the jailer's."""
    report = attack(
        session,
        """
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            for fd in (3, 4, 5): os.dup2(b.fileno(), fd, inheritable=True)
            try: os.execv('/proc/self/exe', ['python3'])
            finally: os._exit(99)
        b.close()
        a.settimeout(5)
        try: report['said'] = len(a.recv(4096))
        except OSError as error: report['said'] = str(error)
        os.kill(pid, signal.SIGKILL); report['status'] = os.waitpid(pid, 0)[1]
        """,
        timeoutInSeconds=30,
    )
    # It may start or not: it has no right that we lack.
    assert "status" in report
    assert session.value("os.getuid(), os.geteuid()") == "(1000, 1000)"


@pytest.mark.parametrize(
    "name, code",
    {
        "set_mm": "[call(157, 35, i, 4096, 0, 0) for i in range(1, 14) if i not in (12, 14)]",
        "set_mm_exe": "[call(157, 35, 13, os.open('/bin/sh', os.O_RDONLY), 0, 0)]",
        "capbset": "[call(157, 47, 2, i, 0, 0) for i in range(41)]",
        "securebits": "[call(157, 28, 0, 0, 0, 0)]",
        "nnp off": "[call(157, 38, 0, 0, 0, 0)]",
        "keepcaps": "[call(157, 8, 1, 0, 0, 0)]",
        "io flusher": "[call(157, 57, 1, 0, 0, 0)]",
        "core scheduling of the agent": "[call(157, 62, 2, 1, 0, 0), call(157, 62, 3, 1, 0, 0)]",
        "ksm": "[call(157, 67, 1, 0, 0, 0)]",
        "perf events": "[call(157, 99, 0, 0, 0, 0)]",
    }.items(),
)  # fmt: skip
def test_own_prctl(session, name, code):
    """Change the process's own rights and layout with prctl."""
    answers = attack(session, f"report = {code}")
    assert all(isinstance(a, str) for a in answers), answers


def test_own_ksm(session):
    """Have the host merge own pages with equal ones of others, whose contents the timing then tells."""
    answers = attack(
        session,
        """
        m = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(m))
        report['mergeable'] = call(28, address, 1 << 20, 12)
        report['upper bits'] = call(28, address, 1 << 20, (1 << 32) | 12)
        report['hwpoison'] = call(28, address, 4096, 100)
        """,
    )
    assert set(answers.values()) <= REFUSED | {"EINVAL"}, answers
