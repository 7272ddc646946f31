# SPDX-License-Identifier: Apache-2.0
"""Cases 38 to 41: space, inodes, output, logs, the host's disk."""

import os
import subprocess

import pytest

from abuse.attack import (
    REFUSED,
    agent_pid,
    attack,
    e2e,
    memory_peak,
    outcome,
    rootfs,
    rounds,
    tree_state,
)

MIB = 1 << 20
PLACES = ["/mnt/data", "/tmp", "/home/session", "/dev/shm"]


@pytest.fixture(scope="module")
def narrow(daemon):
    """A pool with little space: 8 MiB of data, 4 MiB elsewhere, 400 inodes each."""
    limits = {"memory": "256Mi", "dataSize": "8Mi", "tmpSize": "4Mi", "inodes": 400}
    p = daemon.make_pool(maximum=40, ready=2, limits=limits)
    yield p
    p.delete()


@pytest.fixture
def cell(narrow):
    s = narrow.session()
    yield s
    s.delete()


def size(place):
    return (8 if place == "/mnt/data" else 4) * MIB


def disk_use(daemon):
    """Bytes below the daemon's directories on the host's disk."""
    return sum(state[1] for state in tree_state(daemon.dir).values())


# --- 38: space and inodes ---

FILLERS = {
    "one file": """
        with open('fill', 'wb') as f:
            while True: f.write(bytes(1 << 16)); f.flush()
        """,
    "small files": """
        for i in range(10 ** 7): open(f'f{i}', 'wb').write(b'x')
        """,
    "empty files": """
        for i in range(10 ** 7): open(f'f{i}', 'wb').close()
        """,
    "directories": """
        for i in range(10 ** 7): os.mkdir(f'd{i}')
        """,
    "deep directories": """
        for i in range(10 ** 5): os.mkdir('d'); os.chdir('d')
        """,
    "links": """
        for i in range(10 ** 7): os.symlink('x' * 4000, f'l{i}')
        """,
    "hard links": """
        open('f', 'w').close()
        for i in range(10 ** 6): os.link('f', f'h{i}')
        """,
    "long names": """
        for i in range(10 ** 7): open(f'{i:06d}' + 'n' * 249, 'w').close()
        """,
    "fallocate": """
        f = os.open('fill', os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(f, 0, 1 << 40)
        """,
    "unlinked": """
        kept = []
        while True:
            f = open('gone', 'wb'); os.unlink('gone'); f.write(bytes(1 << 20)); f.flush(); kept.append(f)
        """,
    "nameless": """
        kept = []
        while True:
            f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, bytes(1 << 20)); kept.append(f)
        """,
    "mapped": """
        f = os.open('fill', os.O_CREAT | os.O_RDWR)
        os.ftruncate(f, 64 << 20)
        for i in range(64): os.pwrite(f, b'x' * (1 << 20), i << 20)
        """,
    "attributes": """
        for i in range(10 ** 5):
            open(f'f{i % 300}', 'w').close()
            for j in range(8): os.setxattr(f'f{i % 300}', f'user.{i}.{j}', b'x' * 60000)
        """,
    "fifos": """
        for i in range(10 ** 6): os.mkfifo(f'p{i}')
        """,
    "device whiteouts": """
        for i in range(10 ** 6): os.mknod(f'w{i}', 0o020000, 0)
        """,
}


@pytest.mark.parametrize("filler", FILLERS)
def test_38_fill(cell, daemon, filler):
    """Fill every writable place with files, names, links, attributes: an error comes, nobody else's space goes."""
    before = disk_use(daemon)
    # Where the session's memory would be the limit, one place is enough.
    for place in PLACES:
        _, code, _, err = outcome(
            cell, f"os.chdir({place!r})" + FILLERS[filler].replace("\n        ", "\n"), timeoutInSeconds=30
        )
        assert code in ("CodeExecutionFailed", "ExecutionOutOfMemory"), (place, code, err)
        if code == "CodeExecutionFailed":
            assert any(w in err for w in ("No space", "Too many links", "not supported", "File too large",
                                          "File name too long", "Operation not permitted", "Permission denied")), err  # fmt: skip
        used = attack(
            cell,
            f"""
            globals().pop('kept', None)
            os.chdir('/mnt/data')
            v = os.statvfs({place!r})
            report = [(v.f_blocks - v.f_bfree) * v.f_frsize, v.f_files]
            """,
        )
        assert used[0] <= size(place) and used[1] <= 400, (place, used)
    # Stored outside the session: nothing. (The database of sessions grows by a page or two.)
    assert disk_use(daemon) - before < MIB
    # The API still answers, says what is wrong, and deleting helps.
    assert cell.call("GET", "files", timeout=20).status in (200, 413)
    assert cell.upload(("new", b"x" * 65536), timeout=20).status in (200, 507)
    cell.run("import subprocess; subprocess.run('rm -rf /mnt/data/* /tmp/* /dev/shm/*', shell=True);")
    cell.post("import os; os._exit(0)").ok()  # open files hold their space
    cell.upload(("new", b"x" * 65536)).ok()
    assert cell.download("new").ok().body == b"x" * 65536


def test_38_sparse_files(cell, daemon):
    """Make files of 16 TB, and of the largest size there is, that take no space; list, download, overwrite."""
    cell.run("f = open('sparse', 'wb'); f.truncate(16 << 40); g = open('largest', 'wb'); g.truncate((1 << 63) - 4096)")
    entries = {e["name"]: e["sizeInBytes"] for e in cell.list()}
    assert entries == {"sparse": 16 << 40, "largest": (1 << 63) - 4096}
    daemon.reset_peak()
    before = daemon.memory("VmRSS")
    for name in ("sparse", "largest"):
        with daemon.raw() as raw:
            raw.send(
                f"GET {cell.path(f'files/{name}/content')} HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {daemon.token}\r\n\r\n"
            )
            got = 0
            while got < 20 * MIB:
                data = raw.socket.recv(1 << 20)
                if not data:
                    break
                got += len(data)
            assert got > 0
    assert daemon.memory("VmHWM") - before < 32 * MIB
    cell.upload(("sparse", b"small")).ok()
    assert cell.value("1 + 1") == 2


def test_38_space_of_uploads_is_the_sessions(cell, daemon):
    """Upload more than fits, many at a time, half of them never finished."""
    before = disk_use(daemon)
    for i in range(4):
        reply = cell.upload((f"u{i}", bytes(5 * MIB)))
        assert reply.status in (200, 507), reply
    assert reply.status == 507
    held = []
    for i in range(20):
        raw = daemon.raw()
        raw.send(
            f"POST {cell.path('files')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
            f'--b\r\nContent-Disposition: form-data; name="f"; filename="h{i}"\r\n\r\n' + "x" * 300000
        )
        held.append(raw)
    assert cell.value("1 + 1") == 2
    for raw in held:
        raw.reset()
    assert disk_use(daemon) - before < 2 * MIB
    e2e.wait_for(lambda: cell.names() == ["u0"], 20, "unfinished uploads leave nothing")


def test_38_memory_counts_the_files(daemon):
    """Put files into memory until the session's memory limit, where space alone would allow more."""
    limits = {"memory": "96Mi", "dataSize": "512Mi", "tmpSize": "256Mi"}
    pool = daemon.make_pool(maximum=3, ready=1, limits=limits)
    try:
        session = pool.session()
        session.run("1")
        agent = agent_pid(session)
        _, code, _, err = outcome(session, "open('fill', 'wb').write(bytes(64 << 20)); open('more', 'wb').write(bytes(64 << 20))", timeoutInSeconds=30)
        assert code in ("ExecutionOutOfMemory", "CodeExecutionFailed"), err
        assert memory_peak(agent) <= 96 * MIB
        # Deleting the files through the API makes room again.
        for name in ("fill", "more"):
            session.call("DELETE", f"files/{name}")
        e2e.wait_for(
            lambda: session.post("1 + 1", timeoutInSeconds=10).json.get("status") == "Succeeded",
            30,
            "the session works again",
            0.2,
        )
    finally:
        pool.delete()


# --- 39: output ---


@pytest.fixture
def flat(daemon):
    daemon.reset_peak()
    before = daemon.memory("VmRSS")
    yield
    grown = daemon.memory("VmHWM") - before
    assert grown < 48 * MIB, f"the daemon grew by {grown >> 20} MiB"


FLOODS = {
    "one line": "import os\nblock = b'x' * 65536\nfor _ in range({n}): os.write(1, block)",
    "lines": "!yes | head -c {bytes}",
    "both, binary": "import os\nblock = bytes(range(256)) * 256\nfor i in range({n}): os.write(1 + i % 2, block)",
    "children": "!for i in 1 2 3 4; do head -c {quarter} /dev/zero & done; wait",
    "tiny writes": "import os\nfor i in range(200000): os.write(1, b'x')",
    "carriage returns": "import sys\nfor i in range(200000): sys.stdout.write('\\r%d' % i)",
    "escapes": "print('\\x1b[31m' * 500000)",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_39_output_floods(session, daemon, flat, flood):
    """Write far more than anybody wants to read: the reply is cut with a mark, the daemon stays small."""
    total = rounds(256 * MIB, 10 << 30)
    code = FLOODS[flood].format(n=total // 65536, bytes=total, quarter=total // 4)
    state, _, out, err = outcome(session, code, outputStreamsMaxLength=4096, timeoutInSeconds=rounds(60, 900),
                                 timeout=rounds(90, 1000))  # fmt: skip
    assert state == "Succeeded", err
    assert len(out.encode()) < 3 * 4096 + 200 and "[stdout truncated: 4096 of " in out
    assert session.value("1 + 1") == 2


def test_39_slow_reader(session, daemon, flat):
    """Ask for megabytes of output and read them a byte at a time, while others are served."""
    held = []
    for _ in range(10):
        raw = daemon.raw()
        body = b'{"code":"print(\'x\' * 1000000)","outputStreamsMaxLength":1000000}'
        raw.send(
            f"POST {session.path('executions')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        held.append(raw)
    for raw in held:
        assert raw.socket.recv(1) == b"H"
    assert session.value("1 + 1") == 2
    for raw in held:
        raw.reset()


# --- 40: logs ---


def test_40_hostile_identifiers_and_headers_in_the_log(pool, daemon):
    """Flood with requests that fail in odd ways: the log grows by little and takes nothing over as it is."""
    before = os.path.getsize(daemon.stderr_path)
    count = rounds(400, 100_000)
    for i in range(count):
        odd = f"flood{i}\x1b[31m{'L' * 60}\x01"
        kind = i % 4
        if kind == 0:
            pool.client.request("GET", f"{pool.path}/files?identifier={e2e.urllib.parse.quote(odd)}")
        elif kind == 1:
            pool.client.request("GET", f"{pool.path}/files?identifier=flood{i}", token=f"flood{i}.{'x' * 200}.y")
        elif kind == 2:
            pool.client.request("POST", f"{pool.path}/executions?identifier=fl{i}", f'{{"code": flood{i}')
        else:
            pool.client.request(f"FLOOD{i}", f"/flood{i}/{e2e.urllib.parse.quote(odd)}")
    text = daemon.stderr()[before:]
    assert "\x1b" not in text and "\x01" not in text
    assert len(text) < 64 * 1024 + 50 * count, f"{len(text)} bytes of log for {count} requests"


def test_40_deaths_and_logs(session, daemon):
    """Make kernels die in a loop: what the daemon writes about it is bounded."""
    before = os.path.getsize(daemon.stderr_path)
    count = rounds(4, 1000)
    for _ in range(count):
        session.post("import os; os._exit(3)").ok()
    grown = os.path.getsize(daemon.stderr_path) - before
    assert grown < 8192 + 400 * count, grown
    assert session.value("1 + 1") == 2


# --- 41: the host's disk ---

DIRTY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	unsigned long range[2] = { 0, 0 }, stat[5] = { 0 };
	long rc = syscall(451, open(argv[1], O_RDONLY), range, stat, 0); /* cachestat */
	printf("%ld\n", rc < 0 ? -1 : (long)stat[1]);
	return 0;
}
"""


@pytest.mark.parametrize("call", ["os.sync()", "libc.syncfs(fd)", "os.fsync(fd)", "os.fdatasync(fd)",
                                  "call(277, fd, 0, 0, 7)"])  # fmt: skip
def test_41_sync_does_not_reach_the_hosts_disk(session, tmp_path, call):
    """Make the host write back its dirty pages: a storm of these takes the disk from everybody."""
    (tmp_path / "dirty.c").write_text(DIRTY)
    subprocess.run(["gcc", "-o", tmp_path / "dirty", tmp_path / "dirty.c"], check=True)
    # On the file system of the image, whose files a session can open.
    victim = rootfs().parent / f"abuse-{e2e.unique()}"

    def dirty_pages():
        return int(subprocess.run([tmp_path / "dirty", victim], capture_output=True, check=True).stdout)

    try:
        session.run("1")
        victim.write_bytes(bytes(4 * MIB))
        before = dirty_pages()
        if before <= 0:
            pytest.skip("the host writes at once, or its kernel has no cachestat (Linux 6.5)")
        attack(session, f"fd = os.open('/usr/bin/python3.11', os.O_RDONLY)\nfor _ in range(20): attempt(lambda: {call})")
        assert dirty_pages() > 0, "the session flushed the host's dirty pages"
    finally:
        victim.unlink()


def test_41_neighbour_during_a_storm(session, neighbour):
    """Read the image around the page cache, drop its pages and sync without pause: others go on working."""
    job = session.background(
        "import os, glob, mmap, time\n"
        "end = time.monotonic() + 3\n"
        "buffer = mmap.mmap(-1, 1 << 20)\n"
        "files = [f for f in glob.glob('/usr/lib/x86_64-linux-gnu/*.so*') if os.path.isfile(f)][:200]\n"
        "while time.monotonic() < end:\n"
        "    for path in files:\n"
        "        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)\n"
        "        try: os.readv(fd, [buffer])\n"
        "        except OSError: pass\n"
        "        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "        os.sync(); os.fsync(fd); os.close(fd)\n"
    )
    done = 0
    while not job.done():
        assert neighbour.value("sum(range(100))", timeoutInSeconds=5) == 4950
        done += 1
    assert done >= 10
    job.result()


def test_41_io_controls_of_others(session):
    """Raise the own I/O priority, use asynchronous I/O queues that are the whole host's."""
    answers = attack(
        session,
        """
        report['realtime'] = call(251, 1, 0, (1 << 13) | 0)
        context = ctypes.create_string_buffer(8)
        report['io_setup'] = call(206, 65536, context)
        report['io_uring'] = call(425, 4096, ctypes.create_string_buffer(120))
        """,
    )
    assert set(answers.values()) <= REFUSED, answers
