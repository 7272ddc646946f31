# SPDX-License-Identifier: Apache-2.0
"""Terminals of sessions over WebSockets, and `bivouac session shell`."""

import base64
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import ssl
import struct
import subprocess
import termios
import threading
import time
import urllib.parse

import pytest

from conftest import BIN_DIR, Daemon, unique, wait_for
from websocket_client import BINARY, CLOSE, PROTOCOL, TEXT, Refused, Terminal, WebSocket

# What an editor does: the alternate screen, the cursor anywhere, keys without an echo, a new picture
# for each new size, and the old screen back at its end.
EDITOR = r"""
import os, select, signal, sys, termios, tty
old = termios.tcgetattr(0)
tty.setraw(0)
read_end, write_end = os.pipe()
os.set_blocking(write_end, False)
signal.set_wakeup_fd(write_end)
signal.signal(signal.SIGWINCH, lambda *_: None)
text = ""
def draw():
    columns, rows = os.get_terminal_size()
    os.write(1, b"\x1b[2J\x1b[1;1H" + f"[{columns}x{rows}]".encode()
             + f"\x1b[{rows};1H--{text}--".encode())
os.write(1, b"\x1b[?1049h")
draw()
while True:
    ready, _, _ = select.select([0, read_end], [], [])
    if read_end in ready:
        os.read(read_end, 100)
    if 0 in ready:
        keys = os.read(0, 100).decode()
        if "\x03" in keys:
            keys = keys.replace("\x03", "^C")
        if "q" in keys:
            break
        text += keys
    draw()
os.write(1, b"\x1b[?1049l")
termios.tcsetattr(0, termios.TCSADRAIN, old)
sys.exit(3)
"""


@pytest.fixture(scope="module")
def pool(daemon):
    return daemon.make_pool(unique("term"))


def shell(session, **query):
    """A plain shell without prompt games."""
    return Terminal(session, command="exec bash --norc --noprofile -i", **query)


def terminals(session):
    return session.call("GET", "terminals").ok().json["value"]


def test_a_shell(session):
    with Terminal(session) as terminal:
        assert terminal.new is True
        assert re.fullmatch("[0-9a-f]{32}", terminal.id)
        terminal.type("echo $((6*7))\r")
        terminal.until("42\r\n")
        terminal.type("pwd; tty; id -un\r")
        terminal.until("/mnt/data\r\n")
        terminal.until("/dev/pts/")
        terminal.until("session\r\n")
        terminal.type("exit 5\r")
        assert terminal.exit() == {"type": "exit", "status": 5}
        assert terminal.socket.closed == 1000


def test_files_and_processes_are_the_sessions(session):
    session.run("open('/mnt/data/seen', 'w').write('by the terminal')")
    with shell(session) as terminal:
        terminal.type("cat seen; echo\r")
        terminal.until("by the terminal")
        terminal.type("echo back > written\r")
        terminal.type("echo done-$((1+1))\r")
        terminal.until("done-2")
    assert session.value("open('/mnt/data/written').read()") == "back\n"


def test_size_and_resize(session):
    with shell(session, cols=101, rows=37) as terminal:
        terminal.type("stty size\r")
        terminal.until("37 101\r\n")
        terminal.say(type="resize", cols=64, rows=16)
        terminal.type("stty size\r")
        terminal.until("16 64\r\n")


def test_full_screen_program(session):
    session.upload(("editor.py", EDITOR.encode()))
    with Terminal(session, command="exec python3 /mnt/data/editor.py", cols=90, rows=30) as terminal:
        terminal.until(b"\x1b[?1049h\x1b[2J\x1b[1;1H[90x30]\x1b[30;1H----")
        terminal.type("hello")
        terminal.until(b"\x1b[30;1H--hello--")
        terminal.say(type="resize", cols=50, rows=10)
        terminal.until(b"[50x10]\x1b[10;1H--hello--")
        terminal.type("\x03")  # in raw mode a key as any other
        terminal.until("--hello^C--")
        terminal.type("q")
        terminal.until(b"\x1b[?1049l")
        assert terminal.exit() == {"type": "exit", "status": 3}


def test_full_screen_program_after_reconnect(session):
    session.upload(("editor.py", EDITOR.encode()))
    with Terminal(session, command="exec python3 /mnt/data/editor.py", cols=90, rows=30) as terminal:
        terminal.until("----")
        terminal.type("kept")
        terminal.until("--kept--")
    with Terminal(session, terminal=terminal.id, cols=40, rows=12) as again:
        assert again.new is False and again.id == terminal.id
        # What was there, then a picture of the new size.
        again.until("--kept--")
        again.until(b"[40x12]\x1b[12;1H--kept--")
        again.type("!")
        again.until("--kept!--")
        again.type("q")
        assert again.exit() == {"type": "exit", "status": 3}


def run_cat(terminal):
    """A program that certainly runs: keys typed while a shell still forks may be nobody's."""
    terminal.type("sh -c 'echo started-$((1+0)); exec cat'\r")
    terminal.until("started-1")
    terminal.type("line\r")
    terminal.until("line\r\nline\r\n")


def test_ctrl_c(session):
    with shell(session) as terminal:
        run_cat(terminal)
        terminal.type("\x03")
        terminal.until("^C")
        terminal.until("$ ")
        terminal.type("echo alive-$((2+2))-$?\r")
        terminal.until("alive-4-130")


def test_signals(session):
    with shell(session) as terminal:
        terminal.type("python3 -c 'import time; print(\"started\"); time.sleep(1000)'\r")
        terminal.until("started\r\n")
        terminal.say(type="signal", signal="SIGTERM")
        terminal.until("Terminated")
    with Terminal(session, command="exec sleep 1000") as terminal:
        terminal.say(type="signal", signal="SIGKILL")
        assert terminal.exit() == {"type": "exit", "signal": 9}


def test_job_control(session):
    with shell(session) as terminal:
        run_cat(terminal)
        terminal.type("\x1a")
        terminal.until("Stopped")
        terminal.until("$ ")  # the shell has the terminal again
        terminal.type("jobs -s; echo stopped-$((1+0))\r")
        assert b"]+  Stopped" in terminal.until("stopped-1")
        terminal.until("$ ")
        terminal.type("fg\r")
        terminal.until("exec cat'\r\n")
        terminal.type("more\r")
        terminal.until("more\r\nmore\r\n")
        terminal.type("\x04")
        terminal.until("$ ")
        terminal.type("echo status-$?\r")
        terminal.until("status-0")


def test_reconnect_shows_what_happened_meanwhile(session):
    with shell(session) as terminal:
        terminal.type("PS1=; (sleep 0.5; echo while-away) & echo before-$((1+0))\r")
        terminal.until("before-1")
    time.sleep(1)
    assert terminals(session) == [{"id": terminal.id, "attached": False}]
    with Terminal(session, terminal=terminal.id) as again:
        again.until("before-1")
        again.until("while-away")
        assert terminals(session) == [{"id": terminal.id, "attached": True}]
        again.type("exit\r")
        again.exit()
    assert terminals(session) == []


def test_who_attaches_takes_over(session):
    with shell(session) as first:
        first.type("x=7; echo set-$((1+0))\r")
        first.until("set-1")
        with Terminal(session, terminal=first.id) as second:
            assert first.wait_control("replaced")
            assert first._step() == CLOSE
            assert first.socket.closed == 4001
            second.type("echo x-is-$x\r")
            second.until("x-is-7")


def race(session, id, count):
    """What each of so many clients gets that attach at the same moment: its terminal, or who refused it."""
    barrier = threading.Barrier(count)

    def attach(_):
        try:
            return Terminal(session, terminal=id, connected=barrier.wait)
        except Refused as refused:
            return refused

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        return list(threads.map(attach, range(count)))


def holds(terminal):
    """Whether it is still the one that is attached, as far as the server has said."""
    if terminal.socket.closed is None:
        terminal.quiet(0.1)
    if terminal.socket.closed is None:
        return True
    assert terminal.socket.closed == 4001 and terminal.control == [{"type": "replaced"}]
    return False


def test_many_attach_at_once(session):
    """Each is attached, replaced, or told that another one was faster; one has it in the end."""
    with shell(session) as first:
        first.type("x=7; echo set-$((1+0))\r")
        first.until("set-1")
        for turn in range(10):
            with contextlib.ExitStack() as stack:
                outcomes = race(session, first.id, 8)
                refusals = [o for o in outcomes if isinstance(o, Refused)]
                attached = [stack.enter_context(o) for o in outcomes if not isinstance(o, Refused)]
                for refused in refusals:
                    assert (refused.status, refused.code) == (409, "Conflict"), refused
                    assert refused.headers["x-ms-error-code"] == "Conflict"
                    assert "attach again" in json.loads(refused.body)["error"]["message"].lower()
                wait_for(lambda: sum(map(holds, attached)) == 1, what="all but one have heard of their end")
                (holder,) = (t for t in attached if t.socket.closed is None)
                holder.type(f"\x15echo turn-{turn}-is-$x\r")
                holder.until(f"turn-{turn}-is-7")
                assert terminals(session) == [{"id": first.id, "attached": True}]
        assert first.wait_control("replaced")


def test_close_ends_the_program(session):
    with shell(session) as terminal:
        terminal.type("trap '' HUP; sleep 1000 & echo pid-$!\r")
        pid = int(re.search(rb"pid-(\d+)", terminal.until("\r\npid-") + terminal.until("\r\n")).group(1))
        terminal.say(type="close")
        terminal.wait_control("exit")
    code = f"import os\ntry:\n    os.kill({pid}, 0)\n    r = 'alive'\nexcept OSError as e:\n    r = e.errno\nr"
    wait_for(lambda: session.value(code) == 3, what="the terminal's background process is gone")


def test_delete_hangs_up(session):
    """As the message close does, whether somebody is attached or not."""
    with shell(session) as terminal, shell(session) as left:
        left.type("trap '' HUP; sleep 1000 & echo pid-$!\r")
        pid = int(re.search(rb"pid-(\d+)", left.until("\r\npid-") + left.until("\r\n")).group(1))
        left.socket.drop()
        wait_for(lambda: {"id": left.id, "attached": False} in terminals(session), what="nobody is attached")
        for id in (left.id, terminal.id):
            assert session.call("DELETE", f"terminals/{id}").ok(204).body == b""
        terminal.wait_control("exit")
        assert terminal._step() == CLOSE
        assert terminal.socket.closed == 1000
        wait_for(lambda: terminals(session) == [], what="their places are free")
    code = f"import os\ntry:\n    os.kill({pid}, 0)\n    r = 'alive'\nexcept OSError as e:\n    r = e.errno\nr"
    wait_for(lambda: session.value(code) == 3, what="the terminal's background process is gone")
    for id in (left.id, terminal.id):
        session.call("DELETE", f"terminals/{id}").error(404, "SessionTerminalNotFound")


def test_delete_makes_room(session):
    held = [shell(session) for _ in range(4)]
    with pytest.raises(Refused) as refused:
        shell(session)
    assert b"DELETE .../terminals/{id}" in refused.value.body
    session.call("DELETE", f"terminals/{held[0].id}").ok(204)
    wait_for(lambda: len(terminals(session)) == 3, what="one has ended")
    with shell(session) as another:
        another.type("echo in-$((1+0))\r")
        another.until("in-1")
    for terminal in held:
        terminal.socket.drop()


@pytest.mark.parametrize("id", ["0" * 32, "x", "..%2f..%2fetc", "0" * 16, "%C3%A9", "0" * 31 + "%00"])
def test_delete_unknown_terminal(session, pool, id):
    with shell(session) as terminal:
        reply = session.call("DELETE", f"terminals/{id}")
        assert reply.status in (400, 404), reply
        assert id != "0" * 32 or reply.error(404, "SessionTerminalNotFound")
        # Nor of another session, nor of one that there is not.
        other = pool.session()
        other.call("DELETE", f"terminals/{terminal.id}").error(404, "SessionTerminalNotFound")
        assert other.value("1") == 1
        other.call("DELETE", f"terminals/{terminal.id}").error(404, "SessionTerminalNotFound")
        other.delete()
        terminal.type("echo alive-$((1+0))\r")
        terminal.until("alive-1")


def test_delete_needs_permission(session, daemon):
    with shell(session) as terminal:
        assert session.call("DELETE", f"terminals/{terminal.id}", token="nonsense").status == 401
        assert terminals(session) == [{"id": terminal.id, "attached": True}]


def test_slow_reader_makes_the_program_wait(session, daemon):
    """Constant memory: what nobody reads is not produced."""
    with shell(session) as terminal:
        terminal.type("PS1=; stty -echo; echo ready-$((1+0))\r")
        terminal.until("ready-1")
        before = daemon.memory("VmRSS")
        terminal.type("yes 0123456789abcdef | head -c 67108864; echo; echo end-$((1+0))\r")
        time.sleep(2)
        assert daemon.memory("VmRSS") < before + 8 * 1024 * 1024
        # Others are served meanwhile, also in this session.
        assert session.value("1+1") == 2
        total = 0
        while b"end-1" not in terminal.screen[-64:]:
            terminal._step()
            total += max(0, len(terminal.screen) - 64)
            del terminal.screen[: max(0, len(terminal.screen) - 64)]
        # Each line break is two bytes on a terminal.
        assert total >= 67108864


def test_input_that_nobody_reads_waits(session, daemon):
    with Terminal(session, command="stty raw -echo; echo ready; sleep 3; exec wc -c") as terminal:
        terminal.until("ready")
        before = daemon.memory("VmRSS")
        terminal.socket.socket.settimeout(30)
        for _ in range(64):
            terminal.type(b"x" * 32768)
        assert daemon.memory("VmRSS") < before + 8 * 1024 * 1024
        # wc ends at the end of its input, which a raw terminal has not; a hang-up ends it.
        terminal.say(type="close")
        terminal.wait_control("exit")


def test_replay_is_bounded(session):
    with shell(session) as terminal:
        terminal.type("PS1=; stty -echo; echo ready-$((1+0))\r")
        terminal.until("ready-1")
        terminal.type("(sleep 0.3; seq 1 100000; echo over-$((1+0))) &\r")
        time.sleep(0.1)
    time.sleep(2)
    with Terminal(session, terminal=terminal.id) as again:
        again.until("over-1", timeout=10)
        again.type("echo more-$((1+0))\r")
        seen = again.until("more-1")
        assert len(seen) < 1000
    with Terminal(session, terminal=terminal.id) as again:
        replayed = again.until("more-1")
        assert 60_000 < len(replayed) <= 128 * 1024
        assert b"99999\r\n100000\r\n" in replayed


def test_environment(session):
    with shell(session, term="vt100") as terminal:
        terminal.type('echo "[$TERM] [$HOME] [$USER] [$LANG]"\r')
        terminal.until("[vt100] [/home/session] [session] [C.UTF-8]")


def test_two_at_once(session):
    with shell(session) as one, shell(session) as two:
        assert one.id != two.id
        one.type("echo one-$((1+0))\r")
        two.type("echo two-$((1+0))\r")
        one.until("one-1")
        two.until("two-1")
        assert len(terminals(session)) == 2


def test_limit(session):
    held = [shell(session) for _ in range(4)]
    with pytest.raises(Refused) as refused:
        shell(session)
    assert refused.value.status == 400 and refused.value.code == "QuotaExceeded"
    assert b"--terminals-max" in refused.value.body
    held.pop().type("exit\r")
    wait_for(lambda: len(terminals(session)) == 3, what="one has ended")
    held.append(shell(session))
    for terminal in held:
        terminal.socket.drop()


def test_session_that_ends(session):
    with shell(session) as terminal:
        session.delete()
        message = terminal.wait_control("error")
        assert message["code"]
        assert "deleted before the request was done" in message["message"]
        assert terminal._step() == CLOSE
        assert terminal.socket.closed == 1011


def test_kernel_death_leaves_the_terminal(session):
    with shell(session) as terminal:
        terminal.type("x=kept\r")
        session.post("import os; os.kill(os.getpid(), 9)")
        terminal.type("echo x-is-$x\r")
        terminal.until("x-is-kept")
    assert session.value("1+1") == 2


@pytest.mark.parametrize(
    "query, words",
    [
        ({"cols": 0}, "cols"),
        ({"cols": 1001}, "cols"),
        ({"rows": "x"}, "rows"),
        ({"terminal": "nothing", "command": "sh"}, "command"),
        ({"term": "x" * 65}, "TERM"),
        ({"term": "a\nb"}, "TERM"),
        ({"identifier": "abc"}, "identifier"),
    ],
)
def test_bad_query(session, query, words):
    with pytest.raises(Refused) as refused:
        Terminal(session, **query)
    assert refused.value.status == 400
    assert words.lower() in refused.value.body.decode().lower()


@pytest.mark.parametrize("id", ["0" * 32, "x", "../../etc", "0" * 16, "é"])
def test_unknown_terminal(session, id):
    with pytest.raises(Refused) as refused:
        Terminal(session, terminal=id)
    assert refused.value.status == 404 and refused.value.code == "SessionTerminalNotFound"


def test_terminal_of_another_session(session, pool):
    with shell(session) as terminal:
        other = pool.session()
        with pytest.raises(Refused) as refused:
            Terminal(other, terminal=terminal.id)
        assert refused.value.code == "SessionTerminalNotFound"
        other.delete()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "resize", "cols": 0, "rows": 5},
        {"type": "resize", "cols": 5},
        {"type": "resize", "cols": "x", "rows": 5},
        {"type": "signal", "signal": "SIGSEGV"},
        {"type": "signal"},
        {"type": "nothing"},
        {},
        [],
        "text",
    ],
)
def test_bad_control_is_said_and_nothing_else(session, message):
    with shell(session) as terminal:
        terminal.socket.frame(TEXT, json.dumps(message).encode())
        error = terminal.wait_control("error")
        assert error["code"] and error["message"]
        terminal.type("echo alive-$((1+0))\r")
        terminal.until("alive-1")


def test_message_too_large(session):
    with shell(session) as terminal:
        terminal.socket.frame(BINARY, b"x" * (64 * 1024 + 1))
        while terminal._step() != CLOSE:
            pass
        assert terminal.socket.closed == 1009
    with Terminal(session, terminal=terminal.id, cols=80, rows=24) as again:
        again.type(b"\x15echo still-$((1+0))\r")
        again.until("still-1")


def test_without_websocket(session):
    reply = session.call("GET", "terminal")
    reply.error(426, "UpgradeRequired")
    assert "WebSocket" in reply.text


def test_authorization(session, daemon):
    for token in (None, "nonsense", daemon.arm_token):
        with pytest.raises(Refused) as refused:
            Terminal(session, token=token)
        assert refused.value.status == 401
    # What browsers can do.
    offer = "base64url.bearer.authorization.bivouac."
    bearer = offer + base64.urlsafe_b64encode(daemon.token.encode()).decode().rstrip("=")
    with Terminal(session, token=None, protocols=(PROTOCOL, bearer)) as terminal:
        assert terminal.socket.headers["sec-websocket-protocol"] == PROTOCOL
        terminal.type("echo in-$((1+0))\r")
        terminal.until("in-1")


def test_terminal_survives_the_daemon():
    daemon = Daemon()
    try:
        pool = daemon.default_pool()
        session = pool.session()
        with shell(session) as terminal:
            terminal.type("x=before\r")
            terminal.type("echo set-$((1+0))\r")
            terminal.until("set-1")
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
        daemon.start()
        session = daemon.default_pool().session(session.identifier)
        assert terminals(session) == [{"id": terminal.id, "attached": False}]
        with Terminal(session, terminal=terminal.id) as again:
            again.type("echo x-is-$x\r")
            again.until("x-is-before")
        session.delete()
    finally:
        daemon.stop()
        daemon.remove()


def test_over_tls():
    daemon = Daemon("--tls-listen", "127.0.0.1:0")
    try:
        url = urllib.parse.urlsplit(daemon.ready["tlsEndpoint"])
        context = ssl.create_default_context(cafile=daemon.ready["caFile"])
        session = daemon.default_pool().session()
        with Terminal(
            session,
            address=(url.hostname, url.port),
            wrap=lambda s: context.wrap_socket(s, server_hostname="localhost"),
        ) as terminal:
            terminal.type("seq 1 20000; echo end-$((1+0))\r")
            terminal.until("\r\n20000\r\n")
            terminal.until("end-1")
            terminal.type("exit 4\r")
            assert terminal.exit() == {"type": "exit", "status": 4}
    finally:
        daemon.stop()
        daemon.remove()


# --- bivouac session shell ---


def heed_signals():
    """Whoever started the tests in the background ignores some of them, and so would the command."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Cli:
    """The command on a terminal of its own."""

    def __init__(self, daemon, *arguments, size=(24, 80)):
        self.output = bytearray()
        environment = {
            **os.environ,
            "BIVOUAC_ENDPOINT": daemon.endpoint,
            "BIVOUAC_TOKEN": daemon.token,
            "TERM": "xterm",
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            heed_signals()
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            command = [str(BIN_DIR / "bivouac"), "session", "shell", *arguments]
            os.execve(command[0], command, environment)

    def until(self, text, timeout=30):
        end = time.monotonic() + timeout
        while text.encode() not in self.output:
            assert time.monotonic() < end, f"no {text!r} in {bytes(self.output)!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.output += os.read(self.fd, 65536)
                except OSError:
                    break
        assert text.encode() in self.output, bytes(self.output)
        at = self.output.index(text.encode()) + len(text)
        seen = self.output[:at].decode(errors="replace")
        del self.output[:at]
        return seen

    def type(self, text):
        os.write(self.fd, text.encode())

    def status(self):
        """Once it has ended and all that it wrote is read."""
        end = time.monotonic() + 30
        while True:
            assert time.monotonic() < end, bytes(self.output)
            if not select.select([self.fd], [], [], 0.2)[0]:
                continue
            try:
                self.output += os.read(self.fd, 65536)
            except OSError:
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_cli_shell(daemon, session):
    # The pool of the daemon's own endpoint.
    identifier = unique("cli")
    cli = Cli(daemon, "-i", identifier, size=(33, 99))
    cli.type("stty size; echo $TERM\r")
    cli.until("33 99")
    cli.until("xterm")
    fcntl.ioctl(cli.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    cli.type("until stty size | grep '20 60'; do sleep 0.1; done; echo resized-$((1+0))\r")
    cli.until("resized-1")
    run_cat(cli)
    cli.type("\x03")
    cli.until("^C")
    cli.until("$ ")
    cli.type("echo alive-$((1+0))\r")
    cli.until("alive-1")
    cli.type("exit 6\r")
    assert cli.status() == 6


def test_cli_shell_left_and_found_again(daemon):
    identifier = unique("cli")
    cli = Cli(daemon, "-i", identifier)
    cli.type("x=kept; echo set-$((1+0))\r")
    cli.until("set-1")
    cli.type("\r~.")
    assert cli.status() == 0
    found = re.search(r"--terminal ([0-9a-f]{32})", cli.output.decode())
    again = Cli(daemon, "-i", identifier, "--terminal", found.group(1))
    again.type("echo x-is-$x\r")
    again.until("x-is-kept")
    again.type("\r~~\r")
    again.until("~")
    again.type("exit\r")
    again.status()


def run_cli(daemon, *arguments, stdin=b"", token=None):
    environment = {**os.environ, "BIVOUAC_ENDPOINT": daemon.endpoint}
    environment["BIVOUAC_TOKEN"] = token or daemon.token
    return subprocess.run(
        [BIN_DIR / "bivouac", "session", "shell", *arguments],
        input=stdin,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
    )


def test_cli_shell_with_a_command(daemon):
    done = run_cli(daemon, "-i", unique("cli"), "--command", "echo out; exit 9")
    assert b"out\r\n" in done.stdout and done.returncode == 9


def test_cli_shell_from_a_pipe(daemon):
    done = run_cli(daemon, "-i", unique("cli"), stdin=b"echo $((40+2))\nexit 3\n")
    assert b"42\r\n" in done.stdout and done.returncode == 3


@pytest.mark.parametrize(
    "stdin, shown",
    [
        (b"echo $((40+2))\n", b"42\r\n"),
        (b"echo $((40+2))", b"42\r\n"),  # the last line has no end
        (b"sleep 2\necho $((40+2))\n", b"42\r\n"),
        (b"cat >f; od -c f; echo $((40+2))\nabc\n", b"a   b   c  \\n\r\n0000004\r\n42\r\n"),
        (b"", b""),
    ],
)
def test_cli_shell_ends_with_its_input(daemon, stdin, shown):
    identifier = unique("cli")
    done = run_cli(daemon, "-i", identifier, stdin=stdin)
    assert done.returncode == 0, done
    assert shown in done.stdout
    assert terminals(daemon.default_pool().session(identifier)) == []


@pytest.mark.parametrize(
    "command, stdin, shown",
    [
        ("cat", b"abc", b"abcabc"),
        ("cat", b"abc\n", b"abc\r\nabc\r\n"),
        ("cat", b"", b""),
        ("cat; sleep 8; echo late", b"abc", b"abcabclate\r\n"),
        ("cat; cat; echo two", b"a\n", b"a\r\na\r\ntwo\r\n"),
        ("wc -c", b"x" * 60 + b"\n" + b"y" * 3000 + b"\n", b"3062\r\n"),
    ],
)
def test_cli_shell_command_ends_with_its_input(daemon, command, stdin, shown):
    identifier = unique("cli")
    done = run_cli(daemon, "-i", identifier, "--command", command, stdin=stdin)
    assert done.returncode == 0, done
    assert done.stdout.endswith(shown), done
    assert terminals(daemon.default_pool().session(identifier)) == []


def way_back(said):
    return re.search(r"--terminal ([0-9a-f]{32})", said).group(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_cli_shell_ended_by_a_signal(daemon, number):
    """The terminal here is as before, that of the session goes on."""
    identifier = unique("cli")
    cli = Cli(daemon, "-i", identifier)
    cli.type("x=kept; echo set-$((1+0))\r")
    cli.until("set-1")
    line = os.open(f"/proc/{cli.pid}/fd/0", os.O_RDWR | os.O_NOCTTY)
    raw = termios.tcgetattr(line)[3]
    assert not raw & (termios.ECHO | termios.ICANON)
    os.kill(cli.pid, number)
    cli.until("--terminal ")
    cli.until("\n")
    wait_for(lambda: os.waitid(os.P_PID, cli.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), what="it has ended")
    now = termios.tcgetattr(line)[3]
    assert now & termios.ECHO and now & termios.ICANON and now & termios.ISIG
    os.close(line)
    assert cli.status() == 128 + number
    (listed,) = terminals(daemon.default_pool().session(identifier))
    again = Cli(daemon, "-i", identifier, "--terminal", listed["id"])
    again.type("echo x-is-$x\r")
    again.until("x-is-kept")
    again.type("exit\r")
    assert again.status() == 0


def start_cli(daemon, *arguments):
    return subprocess.Popen(
        [BIN_DIR / "bivouac", "session", "shell", *arguments],
        env={**os.environ, "BIVOUAC_ENDPOINT": daemon.endpoint, "BIVOUAC_TOKEN": daemon.token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_signals,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_cli_shell_ended_by_a_signal_while_nobody_reads(daemon, number):
    """It is in the middle of a write; there is no terminal here."""
    identifier = unique("cli")
    with start_cli(daemon, "-i", identifier, "--command", "echo ready; exec yes") as cli:
        assert cli.stdout.read(5) == b"ready"
        waits = pathlib.Path(f"/proc/{cli.pid}/wchan")
        wait_for(lambda: "pipe" in waits.read_text(), what="it waits for a reader")
        cli.send_signal(number)
        assert cli.wait(30) == 128 + number
        said = cli.stderr.read().decode()
    (listed,) = terminals(daemon.default_pool().session(identifier))
    assert way_back(said) == listed["id"]
    daemon.default_pool().session(identifier).delete()


def test_cli_shell_replaced(daemon):
    session = daemon.default_pool().session(unique("cli"))
    with start_cli(daemon, "-i", session.identifier, "--command", "echo ready; exec cat") as cli:
        assert cli.stdout.read(5) == b"ready"
        (listed,) = terminals(session)
        with Terminal(session, terminal=listed["id"]):
            assert cli.wait(30) == 69
            said = cli.stderr.read().decode()
    assert "attached elsewhere" in said and way_back(said) == listed["id"]
    session.delete()


def test_cli_shell_whose_connection_ends():
    daemon = Daemon()
    try:
        session = daemon.default_pool().session(unique("cli"))
        with start_cli(daemon, "-i", session.identifier, "--command", "echo ready; exec cat") as cli:
            assert cli.stdout.read(5) == b"ready"
            (listed,) = terminals(session)
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
            assert cli.wait(30) == 69
            said = cli.stderr.read().decode()
        assert "the connection ended" in said and way_back(said) == listed["id"]
    finally:
        daemon.stop()
        daemon.remove()


def test_cli_shell_whose_output_is_not_taken(daemon):
    session = daemon.default_pool().session(unique("cli"))
    with start_cli(daemon, "-i", session.identifier, "--command", "exec yes") as cli:
        cli.stdout.read(5)
        cli.stdout.close()
        assert cli.wait(30) == 69
        said = cli.stderr.read().decode()
    (listed,) = terminals(session)
    assert "standard output" in said and way_back(said) == listed["id"]
    session.delete()


def test_cli_terminal_list_and_delete(daemon):
    session = daemon.default_pool().session(unique("cli"))
    with start_cli(daemon, "-i", session.identifier, "--command", "echo ready; exec cat") as cli:
        assert cli.stdout.read(5) == b"ready"

        def run(*arguments):
            return subprocess.run(
                [BIN_DIR / "bivouac", "session", "terminal", *arguments, "-i", session.identifier],
                env={**os.environ, "BIVOUAC_ENDPOINT": daemon.endpoint, "BIVOUAC_TOKEN": daemon.token},
                capture_output=True,
                timeout=60,
            )

        (listed,) = json.loads(run("list").stdout)
        assert listed == {"id": terminals(session)[0]["id"], "attached": True}
        done = run("delete", "--terminal", listed["id"])
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert cli.wait(30) == 128 + signal.SIGHUP
        wait_for(lambda: json.loads(run("list").stdout) == [], what="it is gone")
        done = run("delete", "--terminal", listed["id"])
        assert done.returncode == 66 and b"SessionTerminalNotFound" in done.stderr
    session.delete()


def test_cli_shell_hangs_up_what_does_not_end(daemon):
    """A raw terminal has no end of input."""
    identifier = unique("cli")
    command = ["--command", "stty raw -echo; echo ready; exec sleep 1000", "--hang-up-after", "3"]
    done = run_cli(daemon, "-i", identifier, *command)
    assert done.returncode != 0 and b"ready" in done.stdout
    assert b"--hang-up-after" in done.stderr
    assert terminals(daemon.default_pool().session(identifier)) == []


def test_cli_shell_errors(daemon):
    done = run_cli(daemon, "-i", "abc")
    assert done.returncode == 64 and b"identifier" in done.stderr
    done = run_cli(daemon, "-i", unique("cli"), "--terminal", "0" * 32)
    assert done.returncode == 66 and b"SessionTerminalNotFound" in done.stderr
    done = run_cli(daemon, "-i", unique("cli"), token="nonsense")
    assert done.returncode == 77
