# SPDX-License-Identifier: Apache-2.0
"""Clients that hold connections, descriptors and buffers: bounded, and others are served meanwhile."""

import os
import pathlib
import select
import socket
import struct
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from daemon_target import HEAD_TIMEOUT, MIB, PLACES, growth, receive, status_of, target, unharmed  # noqa: E402, F401


def descriptors(target):
    return len(os.listdir(f"/proc/{target.daemon.pid}/fd"))


def settled(target, least, timeout=15):
    """Waits until the daemon has no more descriptors than that."""
    end = time.monotonic() + timeout
    while descriptors(target) > least:
        assert time.monotonic() < end, f"{descriptors(target)} descriptors, {least} before"
        time.sleep(0.05)


@growth(128 * MIB)
def test_ten_thousand_idle_connections(target):
    """Ten thousand connections are opened and say nothing."""
    before = descriptors(target) + 20
    sockets = [target.connect() for _ in range(10_000)]
    assert descriptors(target) >= 10_000
    for _ in range(5):
        target.serves()
    target.hang_up()
    settled(target, before)


@growth(128 * MIB)
def test_more_connections_than_places(target):
    """More connections are opened than the daemon has places for; newcomers take the oldest's."""
    before = descriptors(target) + 20
    sockets = [target.connect() for _ in range(PLACES + 500)]
    target.serves()
    assert descriptors(target) <= PLACES + before
    poll = select.poll()
    for s in sockets:
        poll.register(s, select.POLLIN)
    ended = {fd for fd, _ in poll.poll(0)}
    # The longest wait goes first; those that came last are still there.
    assert 400 <= len(ended) <= 700
    assert not ended & {s.fileno() for s in sockets[-1000:]}
    target.hang_up()
    settled(target, before)


def test_slowloris_heads(target):
    """Hundreds of clients send a head one byte at a time and never finish it."""
    sockets = [target.connect(b"GET /health HTTP/1.1\r\nHost: h\r\nX-") for _ in range(500)]
    deadline = time.monotonic() + 20 * HEAD_TIMEOUT
    left = set(sockets)
    answers = []
    while left:
        assert time.monotonic() < deadline, f"{len(left)} are still there"
        target.serves()
        for s in list(left):
            ready = select.select([s], [], [], 0)[0]
            try:
                if ready:
                    answers.append(receive(s))
                    left.remove(s)
                else:
                    s.send(b"a")
            except (BrokenPipeError, ConnectionResetError):
                left.remove(s)
    target.hang_up()
    assert sum(status_of(a) == 408 for a in answers) > 250, answers[:2]
    assert all(status_of(a) in (408, None) for a in answers)


def test_slow_first_lines(target):
    """Clients drip the first line of a request."""
    sockets = [target.connect(b"G") for _ in range(50)]
    deadline = time.monotonic() + 20 * HEAD_TIMEOUT
    for s in sockets:
        while not select.select([s], [], [], 0.01)[0]:
            assert time.monotonic() < deadline
            s.send(b"E")
        assert status_of(receive(s)) in (408, None)
    target.hang_up()
    target.serves()


def test_slow_bodies(target):
    """Hundreds of authorized clients send their bodies a byte at a time; others do not wait for them."""
    head = target.head("POST", target.bystander.path("executions"), Content_Length="4000")
    sockets = [target.connect(head + b"{") for _ in range(300)]
    for _ in range(5):
        for s in sockets:
            s.send(b" ")
        target.serves()
    target.hang_up()


def test_connection_churn(target):
    """Connections are opened and reset as fast as possible."""
    before = descriptors(target) + 20
    linger = struct.pack("ii", 1, 0)
    for i in range(5000):
        s = target.connect(b"GET /hea" if i % 2 else b"")
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        s.close()
    target.serves()
    settled(target, before)


def test_half_closed_connections(target):
    """Hundreds of clients close their half in the middle of a head or a body and keep the rest open."""
    before = descriptors(target) + 20
    head = target.head("POST", target.bystander.path("executions"), Content_Length="1000")
    sockets = []
    for i in range(600):
        s = target.connect((b"", b"GET /health HT", head, head + b"{")[i % 4])
        s.shutdown(socket.SHUT_WR)
        sockets.append(s)
    target.serves()
    settled(target, before)
    target.hang_up()


def test_slow_readers_of_a_large_file(target):
    """A hundred clients ask for a file of 16 MiB and do not read it."""
    target.bystander.upload(("big.bin", os.urandom(16 * MIB)))
    head = target.head("GET", target.bystander.path("files/big.bin/content"))
    sockets = [target.connect(head, receive_buffer=4096) for _ in range(100)]
    # A session serves so many downloads at once; the others are told so.
    statuses = [s.recv(12) for s in sockets]
    assert set(statuses) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
    assert statuses.count(b"HTTP/1.1 200") >= 10
    target.serves()
    target.hang_up()


def test_slow_readers_of_large_answers(target):
    """Clients ask for an execution's megabyte of output and do not read it."""
    reply = target.bystander.post(
        "print('x' * 1000000)", executionType="Asynchronous", outputStreamsMaxLength=1000000
    ).ok(202)
    target.bystander.finished(reply.json["id"])
    head = target.head("GET", target.bystander.path(f"executions/{reply.json['id']}"))
    sockets = [target.connect(head) for _ in range(16)]
    for s in sockets:
        assert s.recv(12) == b"HTTP/1.1 200"
    target.serves()
    target.hang_up()


def test_pipelining_flood(target):
    """Clients send thousands of requests without reading an answer."""
    limit = 64 * MIB
    one = target.head("GET", "/health", token=False)
    sent = []

    def flood(s):
        total = 0
        s.settimeout(2)
        try:
            while total < limit:
                total += s.send(one * 2000)
        except TimeoutError:
            pass  # back-pressure
        sent.append(total)

    sockets = [target.connect() for _ in range(8)]
    threads = [threading.Thread(target=flood, args=(s,)) for s in sockets]
    for t in threads:
        t.start()
    target.serves()
    for t in threads:
        t.join()
    target.serves()
    assert len(sent) == 8 and max(sent) < limit
    # Those that do read get their answers in order.
    s = sockets[0]
    s.settimeout(20)
    answers = s.recv(65536)
    assert answers.startswith(b"HTTP/1.1 200") and answers.count(b"healthy") > 10
    target.hang_up()
