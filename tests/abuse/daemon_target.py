# SPDX-License-Identifier: Apache-2.0
"""The daemon as a target: one of its own for these attacks, and what must hold after each of them."""

import importlib.util
import os
import pathlib
import resource
import socket

import pytest

_path = pathlib.Path(__file__).resolve().parents[1] / "e2e" / "conftest.py"
_spec = importlib.util.spec_from_file_location("daemon_target_e2e", _path)
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)

MIB = 1 << 20
PLACES = 10_200
HEAD_TIMEOUT = 2


def raise_open_files():
    """Ten thousand connections are ten thousand descriptors on this side too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Target:
    """A daemon under attack, and a bystander: a caller with a session of its own."""

    def __init__(self):
        self.daemon = e2e.Daemon(
            "--connections-max", str(PLACES), "--head-timeout", str(HEAD_TIMEOUT)
        )
        self.address = self.daemon.address
        self.sockets = []  # of connect(), until hang_up()
        try:
            self.pool = self.daemon.make_pool(maximum=20)
            self.victim = self.daemon.make_pool(maximum=3, ready=0)  # attacks may change this one
            self.bystander = self.pool.session()
            self.bystander.run("secret = 42")
        except BaseException:
            self.stop()
            raise

    def stop(self):
        try:
            self.daemon.stop()
        finally:
            self.daemon.remove()

    def hang_up(self):
        for s in self.sockets:
            s.close()
        self.sockets.clear()

    def serves(self):
        """The bystander's session answers, and remembers."""
        assert self.bystander.value("secret") == 42

    def connect(self, data=b"", timeout=20, receive_buffer=0):
        s = socket.socket()
        self.sockets.append(s)
        s.settimeout(timeout)
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.connect(self.address)
        if data:
            s.sendall(data)
        return s

    def head(self, method, path, token=True, **headers):
        """A request's head, as bytes."""
        lines = [f"{method} {path} HTTP/1.1", "Host: h"]
        if token:
            token = self.daemon.token if token is True else token
            lines.append(f"Authorization: Bearer {token}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def talk(self, data):
        """What comes back to these bytes until the end of the connection or of the client's half."""
        with self.connect() as s:
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has been refused already
            return receive(s)


def receive(s):
    """Everything up to the end of the connection; a reset is an end."""
    out = bytearray()
    try:
        while chunk := s.recv(65536):
            out += chunk
    except ConnectionResetError:
        pass
    return bytes(out)


def status_of(answer):
    """The status of the first answer in these bytes; None if there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None


def growth(size):
    """Says how much the daemon may grow at its peak during this attack; others have 48 MiB."""

    def mark(test):
        test.growth = size
        return test

    return mark


_shared = []  # each module that imports the fixture has one of its own; the daemon is the same


@pytest.fixture(scope="session")
def target():
    if os.geteuid() != 0:
        pytest.skip("bivouacd must be started as root")
    if raise_open_files() < 2 * PLACES - 1000:
        pytest.skip("the limit of open files is too low for ten thousand connections")
    if not _shared:
        _shared.append(Target())
    yield _shared[0]
    _shared[0].stop()


@pytest.fixture(autouse=True)
def unharmed(request, target):
    """After every attack: the same process serves the bystander, and it has not grown beyond bounds."""
    bound = getattr(request.function, "growth", 48 * MIB)
    target.serves()
    before = target.daemon.memory("VmRSS")
    target.daemon.reset_peak()
    try:
        yield
    finally:
        target.hang_up()
    target.serves()
    assert target.daemon.process.poll() is None, target.daemon.stderr()
    peak = target.daemon.memory("VmHWM")
    print(f"growth {(peak - before) / MIB:.1f} MiB")
    assert peak - before <= bound, f"grew by {(peak - before) / MIB:.1f} MiB"
