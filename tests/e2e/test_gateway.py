# SPDX-License-Identifier: Apache-2.0
"""bivouac-gateway, started as the jailer starts it, in a network namespace of the test's own.

The kernel's packet filter, its connection log and its connection tracking are the real ones; the
sandboxes, the resolvers and the daemon are sockets of the test.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import namedtuple

import pytest

from conftest import BIN_DIR, REPO, SANITIZER

GATEWAY = ("169.254.1.1", 53)
RESOLVERS = ["127.0.1.1", "127.0.1.2"]
SOCKETS_EACH = 4
UID = 64123
CLONE_NEWNET = 0x40000000
A, MX, TXT, AAAA, HTTPS, ANY, NULL = 1, 15, 16, 28, 65, 255, 10
NOERROR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 2, 3, 4
NEW, REFUSED, END, DNS, LOST = 1, 2, 3, 4, 5
REASON_ADDRESS, REASON_RATE, REASON_QUERY = 1, 4, 7

RULES = """
table inet sandboxes {
	chain output {
		type filter hook output priority 0
		ip saddr 198.18.0.0/16 ip daddr 10.0.0.0/8 log prefix "address" group 1 drop
		ip saddr 198.18.0.0/16 tcp dport 81 log prefix "rate" group 1 drop
		ip saddr 198.18.0.0/16 ct state new log prefix "new" group 1
	}
}
"""


# ---- DNS messages ----


def wire_name(text):
    return b"".join(bytes([len(p)]) + p.encode() for p in text.split(".") if p) + b"\0"


def question(name, kind):
    return wire_name(name) + struct.pack(">HH", kind, 1)


def query(name, kind=A, ident=0x4242, edns=None):
    message = struct.pack(">6H", ident, 0x0100, 1, 0, 0, 1 if edns else 0) + question(name, kind)
    if edns:
        message += b"\0" + struct.pack(">HHIH", 41, edns, 0, 0)
    return message


class Message:
    """Header, question and what comes after it, as bytes."""

    def __init__(self, data):
        self.ident, self.flags, self.questions, self.answers, _, self.additional = struct.unpack(
            ">6H", data[:12]
        )
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        self.name = ".".join(labels)
        self.kind = struct.unpack(">H", data[at + 1 : at + 3])[0]
        self.question = data[12 : at + 5]
        self.rest = data[at + 5 :]
        self.rcode = self.flags & 15
        self.truncated = bool(self.flags & 0x0200)

    @property
    def udp_size(self):
        """What its OPT record, the last, allows."""
        assert self.additional == 1 and self.rest[-11:-8] == b"\0\0\x29"
        return struct.unpack(">H", self.rest[-8:-6])[0]


def record(address):
    return b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + socket.inet_aton(address)


def answer(asked, addresses=("93.184.216.34",), ident=None, other_question=None):
    """A resolver's answer to the message `asked`."""
    return (
        struct.pack(
            ">6H", asked.ident if ident is None else ident, 0x8180, 1, len(addresses), 0, 0
        )
        + (other_question or asked.question)
        + b"".join(record(a) for a in addresses)
    )


# ---- the world ----

Flow = namedtuple("Flow", "event reason protocol port session address out back count name")


def parse_flow(data):
    version, event, reason, protocol, port, session, address, out, back, count, name = (
        struct.unpack("=HHBBHIIQQQ256s", data)
    )
    assert version == 1
    text = [socket.inet_ntoa(struct.pack(">I", a)) for a in (session, address)]
    return Flow(event, reason, protocol, port, *text, out, back, count, name.split(b"\0")[0])


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def netlink(sock, kind, family, resource, attributes):
    """One nfnetlink request; raises if the kernel refuses it."""
    body = struct.pack("=BB", family, 0) + struct.pack(">H", resource) + attributes
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
    error = struct.unpack("=i", sock.recv(4096)[16:20])[0]
    assert error == 0, os.strerror(-error)


class Namespace:
    """A network namespace; `run` calls a function in it. Sockets stay where they were made."""

    def __init__(self):
        self.fd = -1
        self.libc = ctypes.CDLL(None, use_errno=True)
        self._thread(self._make)

    def _make(self):
        assert self.libc.unshare(CLONE_NEWNET) == 0
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _thread(self, function):
        result = []

        def call():
            try:
                result.append((function(), None))
            except BaseException as e:
                result.append((None, e))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        value, error = result[0]
        if error:
            raise error
        return value

    def run(self, function):
        def enter():
            assert self.libc.setns(self.fd, CLONE_NEWNET) == 0
            return function()

        return self._thread(enter)

    def close(self):
        os.close(self.fd)


class World:
    def __init__(self):
        self.sockets = []
        self.process = None
        self.namespace = Namespace()
        self.namespace.run(self._make)

    def socket(self, *args):
        s = socket.socket(*args)
        s.settimeout(10)
        self.sockets.append(s)
        return s

    def _udp(self, address, port):
        s = self.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((address, port))
        return s

    def _make(self):
        for command in [
            "ip link set lo up",
            "ip addr add 198.18.0.0/16 dev lo",
            "ip addr add 203.0.113.5/32 dev lo",
            "ip addr add 169.254.1.1/32 dev lo",
            "ip route add 10.0.0.0/8 dev lo",
            "sysctl -qw net.netfilter.nf_conntrack_acct=1",
        ]:
            subprocess.run(command.split(), check=True)
        subprocess.run(["nft", "-f", "-"], input=RULES.encode(), check=True)
        self.log = self.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        netlink(self.log, 4 << 8 | 1, 0, 1, attribute(1, b"\1"))  # bind the group
        netlink(self.log, 4 << 8 | 1, 0, 1, attribute(2, struct.pack(">IBB", 64, 2, 0)))
        netlink(self.log, 4 << 8 | 1, 0, 1, attribute(5, struct.pack(">I", 1)))  # at once
        self.conntrack = self.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.conntrack.bind((0, 1 << 2))
        self.control = self.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.udp = self._udp(*GATEWAY)
        self.tcp = self.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.tcp.bind(GATEWAY)
        self.tcp.listen(128)
        self.resolvers = [self._udp(address, 53) for address in RESOLVERS]
        self.upstream = []
        for address in RESOLVERS:
            for _ in range(SOCKETS_EACH):
                self.upstream.append(self.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self.upstream[-1].connect((address, 53))

    def start(self, resolvers=len(RESOLVERS)):
        self.records, records = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.records.settimeout(10)
        self.sockets.append(self.records)
        given = [self.log, self.conntrack, self.udp, self.tcp, records]
        given += self.upstream[: resolvers * SOCKETS_EACH]
        high = [fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 100) for s in given]
        moves = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(high))
        self.process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$0" "$@" {moves}',
                BIN_DIR / "bivouac-gateway",
                f"--uid={UID}",
                f"--resolvers={resolvers}",
                f"--sockets-each={SOCKETS_EACH}",
            ],
            pass_fds=high,
            stderr=subprocess.PIPE,
        )
        for fd in high:
            os.close(fd)
        records.close()

    # what sandboxes do

    def client(self, address="198.18.0.2"):
        return self.namespace.run(lambda: self._udp(address, 0))

    def ask(self, client, *args, **kwargs):
        client.sendto(query(*args, **kwargs), GATEWAY)

    def stream(self, address="198.18.0.2"):
        def connect():
            s = self.socket(socket.AF_INET, socket.SOCK_STREAM)
            s.bind((address, 0))
            s.connect(GATEWAY)
            return s

        return self.namespace.run(connect)

    # what resolvers do

    def asked(self, resolver=0):
        data, self.asker = self.resolvers[resolver].recvfrom(4096)
        return Message(data)

    def answer(self, data, resolver=0, to=None):
        self.resolvers[resolver].sendto(data, to or self.asker)

    # what the daemon gets

    def flow(self):
        return parse_flow(self.records.recv(4096))

    def flow_of(self, event, limit=50):
        for _ in range(limit):
            flow = self.flow()
            if flow.event == event:
                return flow
        raise AssertionError(f"no record of event {event}")

    def close(self):
        if self.process:
            self.process.kill()
            output = self.process.communicate()[1].decode()
            assert not SANITIZER.search(output), output
        for s in self.sockets:
            s.close()
        self.namespace.close()


@pytest.fixture
def world():
    w = World()
    w.start()
    yield w
    w.close()


def silent(*sockets):
    """Whether nothing has come, once everything that was on its way has been dealt with."""
    return not select.select(sockets, [], [], 0)[0]


def settled(world, client=None):
    """The gateway has worked through what was sent to it before: two turns of its loop are over."""
    other = client or world.client("198.18.250.250")
    for ident in (0x7777, 0x7778):
        world.ask(other, "settled.example.com", AAAA, ident=ident)
        while Message(other.recv(4096)).ident != ident:
            pass


# ---- DNS over UDP ----


def test_answer_is_forwarded(world):
    client = world.client()
    world.ask(client, "www.Example.com", edns=1400, ident=0x4242)
    asked = world.asked()
    assert asked.name.lower() == "www.example.com" and asked.kind == A
    assert asked.flags == 0x0100 and asked.udp_size == 1232
    world.answer(answer(asked, ["93.184.216.34", "1.2.3.4"]))
    data = client.recv(4096)
    reply = Message(data)
    assert reply.ident == 0x4242 and reply.rcode == NOERROR and not reply.truncated
    assert reply.question == question("www.Example.com", A)
    assert reply.rest.startswith(record("93.184.216.34") + record("1.2.3.4"))
    assert reply.answers == 2
    flow = world.flow_of(DNS)
    assert flow[:5] == (DNS, 0, socket.IPPROTO_UDP, 53, "198.18.0.2")
    assert flow.name == b"www.Example.com"


def test_private_addresses_in_answers_are_left_to_the_packet_filter(world):
    client = world.client()
    world.ask(client, "rebind.example.com")
    world.answer(answer(world.asked(), ["10.0.0.1"]))
    assert Message(client.recv(4096)).rest == record("10.0.0.1")


def test_ids_sockets_and_case_vary(world):
    client = world.client()
    idents, ports, names = set(), set(), set()
    for i in range(100):
        world.ask(client, "abcdefghijklmnopqrstuvwxyz.example.com", ident=i)
        asked = world.asked()
        idents.add(asked.ident)
        ports.add(world.asker[1])
        names.add(asked.name)
        world.answer(answer(asked))
        assert Message(client.recv(4096)).ident == i
    assert len(idents) > 90 and len(ports) == SOCKETS_EACH and len(names) > 90


def test_forged_answers_are_ignored(world):
    client = world.client()
    world.ask(client, "www.example.com")
    asked = world.asked()
    right_port = world.asker
    forged = [
        answer(asked, ["6.6.6.6"], ident=asked.ident ^ 1),
        answer(asked, ["6.6.6.6"], other_question=question("evil.example.com", A)),
        answer(asked, ["6.6.6.6"], other_question=question(asked.name, MX)),
        answer(asked, ["6.6.6.6"])[:-3],
        answer(asked, ["6.6.6.6"])[:12],
        query("www.example.com", ident=asked.ident),
        b"",
        b"\0",
    ]
    for data in forged:
        world.answer(data)
    # The right answer from the other resolver, and on the wrong one of the sockets.
    world.answer(answer(asked, ["6.6.6.6"]), resolver=1)
    for s in world.upstream:
        if s.getsockname() != right_port:
            world.answer(answer(asked, ["6.6.6.6"]), to=s.getsockname())
    settled(world)
    assert silent(client)
    world.answer(answer(asked, ["1.1.1.1"]), to=right_port)
    assert Message(client.recv(4096)).rest == record("1.1.1.1")
    world.answer(answer(asked, ["6.6.6.6"]), to=right_port)
    settled(world)
    assert silent(client)


def test_resolver_that_changes_the_case_is_asked_again(world):
    client = world.client()
    world.ask(client, "abcdefghijklmnopqrstuvwxyz.Example.com")
    asked = world.asked()
    lower = question(asked.name.lower(), A)
    world.answer(answer(asked, ["6.6.6.6"], other_question=lower))
    again = world.asked()
    assert again.name == asked.name.lower()
    world.answer(answer(again, ["1.1.1.1"], other_question=lower.upper()))
    reply = Message(client.recv(4096))
    assert reply.rest == record("1.1.1.1")
    assert reply.name == "abcdefghijklmnopqrstuvwxyz.Example.com"


@pytest.mark.parametrize(
    "name, kind, rcode",
    [
        ("example.com", AAAA, NOERROR),
        ("example.com", HTTPS, NOERROR),
        ("example.com", ANY, NOTIMP),
        ("example.com", NULL, NOTIMP),
        ("printer.local", A, NXDOMAIN),
        ("intranet", A, NXDOMAIN),
        ("1.0.0.10.in-addr.arpa", 12, NXDOMAIN),
    ],
)
def test_answered_without_a_resolver(world, name, kind, rcode):
    client = world.client()
    world.ask(client, name, kind)
    reply = Message(client.recv(4096))
    assert (reply.rcode, reply.answers, reply.rest) == (rcode, 0, b"")
    assert reply.question == question(name, kind)
    assert silent(*world.resolvers)
    flow = world.flow_of(REFUSED if rcode == NOTIMP else DNS)
    assert flow.reason == (REASON_QUERY if rcode == NOTIMP else 0)


def counted_refusals(world, at_least, session="198.18.0.2"):
    """The sum that the records say, which come once a second."""
    counted = 0
    while counted < at_least:
        flow = world.flow_of(REFUSED, 2000)
        assert (flow.session, flow.reason) == (session, REASON_QUERY)
        counted += flow.count
    return counted


def test_malformed_queries_are_dropped(world):
    client = world.client()
    good = query("example.com")
    bad = [
        b"",
        good[:11],
        good[:-1],
        good + b"x",
        good[:2] + b"\x80" + good[3:],
        good[:5] + b"\2" + good[6:],
        good[:12] + b"\xc0\x0c" + good[-4:],
        good[:12] + b"\x40" + b"a" * 64 + b"\0" + good[-4:],
        query(".".join(["a" * 63] * 4)),
        query("example.com", edns=1232)[:-1] + b"\1",
        b"\xff" * 512,
        query("example.com") + b"\0" * 9000,
    ]
    for data in bad:
        client.sendto(data, GATEWAY)
    settled(world)
    assert silent(client, *world.resolvers)
    assert counted_refusals(world, len(bad)) == len(bad)


def test_only_sandboxes_are_served(world):
    stranger = world.client("203.0.113.5")
    world.ask(stranger, "example.com", AAAA)
    settled(world)
    assert silent(stranger)
    outside = world.stream("203.0.113.5")
    assert outside.recv(1) == b""


def test_answer_longer_than_the_client_takes_is_truncated(world):
    client = world.client()
    addresses = [f"93.184.216.{i}" for i in range(60)]
    for edns, fits in [(None, False), (700, False), (1232, True)]:
        world.ask(client, "many.example.com", edns=edns)
        world.answer(answer(world.asked(), addresses))
        data = client.recv(4096)
        reply = Message(data)
        assert reply.truncated == (not fits)
        assert reply.answers == (60 if fits else 0)
        assert len(data) <= (edns or 512)


def test_second_resolver_is_asked_then_first(world):
    client = world.client()
    world.ask(client, "www.example.com")
    first = world.asked(0)
    second = world.asked(1)
    assert second.name.lower() == first.name.lower()
    world.answer(answer(second, ["1.1.1.1"]), resolver=1)
    assert Message(client.recv(4096)).rest == record("1.1.1.1")
    # This sandbox goes to the one that answers at once; others make their own experience.
    world.ask(client, "next.example.com")
    assert world.asked(1).name.lower() == "next.example.com"
    world.ask(world.client("198.18.0.3"), "other.example.com")
    assert world.asked(0).name.lower() == "other.example.com"


def test_silent_resolvers_end_in_servfail(world):
    client = world.client()
    world.ask(client, "www.example.com", ident=0x1111)
    reply = Message(client.recv(4096))
    assert (reply.ident, reply.rcode, reply.rest) == (0x1111, SERVFAIL, b"")
    late = world.asked(0)
    world.answer(answer(late, ["6.6.6.6"]))
    settled(world)
    assert silent(client)


def test_without_resolvers_queries_fail_at_once():
    world = World()
    try:
        world.start(resolvers=0)
        client = world.client()
        world.ask(client, "www.example.com")
        assert Message(client.recv(4096)).rcode == SERVFAIL
        world.ask(client, "www.example.com", AAAA)
        assert Message(client.recv(4096)).rcode == NOERROR
    finally:
        world.close()


def test_queries_in_flight_are_bounded_per_sandbox(world):
    client, neighbour = world.client(), world.client("198.18.0.3")
    for i in range(100):
        world.ask(client, f"slow-{i}.example.com", ident=i)
    refused = [Message(client.recv(4096)) for _ in range(100 - 64)]
    assert all(m.rcode == SERVFAIL for m in refused)
    assert {m.ident for m in refused} == set(range(64, 100))
    world.ask(neighbour, "quick.example.com")
    for _ in range(65):
        asked = world.asked()
        if asked.name.lower() == "quick.example.com":
            world.answer(answer(asked))
    assert Message(neighbour.recv(4096)).rcode == NOERROR


def test_full_table_makes_room_for_who_has_least(world):
    many = [world.client(f"198.18.1.{i}") for i in range(1, 17)]
    for i in range(64):
        for client in many:
            world.ask(client, f"slow-{i}.example.com", ident=i)
        settled(world, many[0])  # no socket's buffer overflows
        while not silent(world.resolvers[0]):
            world.asked()
    late = world.client("198.18.2.1")
    world.ask(late, "late.example.com")
    while True:
        asked = world.asked()
        if asked.name.lower() == "late.example.com":
            break
    world.answer(answer(asked))
    assert Message(late.recv(4096)).rcode == NOERROR


def test_flood_is_bounded(world):
    flooder = world.client()
    sent = answered = 0
    begin = time.monotonic()
    while sent < 3000:
        for _ in range(50):
            world.ask(flooder, "x.example.com", AAAA)
        sent += 50
        settled(world, world.client(f"198.18.9.{sent // 50}"))  # a neighbour is served
        while not silent(flooder):
            flooder.recv(4096)
            answered += 1
    # 400 at once, and 200 for each second that it took.
    assert 400 <= answered <= 401 + 200 * (time.monotonic() - begin)
    assert counted_refusals(world, sent - answered) == sent - answered


def test_repeated_names_are_one_record(world):
    client = world.client()
    for kind in (AAAA, HTTPS, AAAA):
        world.ask(client, "twice.example.com", kind)
        client.recv(4096)
    world.ask(client, "other.example.com", AAAA)
    assert world.flow_of(DNS).name == b"twice.example.com"
    assert world.flow_of(DNS).name == b"other.example.com"


# ---- DNS over TCP ----


def receive(stream):
    def exactly(size):
        data = b""
        while len(data) < size:
            more = stream.recv(size - len(data))
            assert more, "closed"
            data += more
        return data

    return exactly(struct.unpack(">H", exactly(2))[0])


def framed(data):
    return struct.pack(">H", len(data)) + data


def test_tcp(world):
    stream = world.stream()
    for i in range(3):
        data = framed(query("big.example.com", ident=i))
        stream.sendall(data[:1])
        stream.sendall(data[1:20])
        stream.sendall(data[20:])
        asked = world.asked()
        assert asked.udp_size == 4096
        addresses = [f"93.184.{n}.1" for n in range(200)]
        world.answer(answer(asked, addresses))
        reply = Message(receive(stream))
        assert (reply.ident, reply.answers, reply.truncated) == (i, 200, False)
        assert reply.rest == b"".join(record(a) for a in addresses)


def test_tcp_queries_one_behind_another(world):
    stream = world.stream()
    stream.sendall(
        b"".join(framed(query("a.example.com", AAAA, ident=i)) for i in range(100))
        + framed(query("last.example.com", ident=100))
    )
    stream.shutdown(socket.SHUT_WR)
    assert [Message(receive(stream)).ident for _ in range(100)] == list(range(100))
    world.answer(answer(world.asked()))
    assert Message(receive(stream)).ident == 100
    assert stream.recv(1) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0",
        b"\0\x0b" + b"x" * 11,
        struct.pack(">H", 513),
        b"\xff\xff",
        framed(query("example.com")[:-1]),
        framed(b"\xff" * 40),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_tcp_malformed(world, data):
    stream = world.stream()
    stream.sendall(data)
    with pytest.raises(ConnectionResetError):
        if stream.recv(1) == b"":
            raise ConnectionResetError
    settled(world)
    assert silent(*world.resolvers)


def test_tcp_silence_ends(world):
    silent_one, slow = world.stream(), world.stream()
    slow.sendall(b"\0")
    silent_one.settimeout(30)
    slow.settimeout(30)
    assert silent_one.recv(1) == b""
    assert slow.recv(1) == b""


def answers(stream):
    try:
        stream.sendall(framed(query("a.example.com", AAAA)))
        return Message(receive(stream)).rcode == NOERROR
    except (AssertionError, OSError):
        return False


def test_tcp_clients_that_left_make_room(world):
    gone = [world.stream() for _ in range(8)]
    for stream in gone:
        stream.sendall(framed(query("gone.example.com")))
    asked = [world.asked() for _ in gone]
    for stream in gone:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.close()
    settled(world)
    assert all(answers(world.stream()) for _ in gone)
    # Nobody gets what they asked for.
    for message in asked:
        world.answer(answer(message))
    settled(world)


def test_tcp_connections_are_bounded(world):
    mine = [world.stream() for _ in range(9)]
    assert [answers(s) for s in mine] == [True] * 8 + [False]
    others = [world.stream(f"198.18.1.{i}") for i in range(1, 8) for _ in range(8)]
    assert all(answers(s) for s in others)
    # All 64 are taken; one of those with eight yields to a newcomer.
    assert answers(world.stream("198.18.2.1"))
    assert sum(answers(s) for s in mine[:8] + others) == 63


# ---- connections ----


def connect(world, address, port, source="198.18.0.2"):
    def run():
        s = world.socket(socket.AF_INET, socket.SOCK_STREAM)
        s.bind((source, 0))
        s.setblocking(False)
        s.connect_ex((address, port))
        s.settimeout(10)
        return s

    return world.namespace.run(run)


def test_connections_become_records(world):
    server = world.namespace.run(lambda: socket.create_server(("203.0.113.5", 443)))
    world.sockets.append(server)
    client = connect(world, "203.0.113.5", 443)
    peer, _ = server.accept()
    flow = world.flow_of(NEW)
    assert flow[:6] == (NEW, 0, 6, 443, "198.18.0.2", "203.0.113.5")
    client.sendall(b"x" * 1000)
    while len(peer.recv(2000, socket.MSG_PEEK)) < 1000:
        pass
    peer.sendall(b"y" * 50000)
    received = 0
    while received < 50000:
        received += len(client.recv(65536))
    client.close()
    peer.close()
    # Forgets all connections, as the kernel does by and by.
    netlink(world.control, 1 << 8 | 2, 2, 0, b"")
    flow = world.flow_of(END)
    assert flow[:6] == (END, 0, 6, 443, "198.18.0.2", "203.0.113.5")
    assert 1000 < flow.out < 20000 and 50000 < flow.back < 80000


def test_refused_connections_become_records(world):
    connect(world, "10.1.2.3", 22, "198.18.0.7")
    flow = world.flow_of(REFUSED)
    assert flow[:6] == (REFUSED, REASON_ADDRESS, 6, 22, "198.18.0.7", "10.1.2.3")
    connect(world, "203.0.113.5", 81)
    flow = world.flow_of(REFUSED)
    assert flow[:6] == (REFUSED, REASON_RATE, 6, 81, "198.18.0.2", "203.0.113.5")


def test_name_queries_are_no_connections(world):
    client = world.client()
    world.ask(client, "a.example.com", AAAA)
    client.recv(4096)
    netlink(world.control, 1 << 8 | 2, 2, 0, b"")
    world.ask(client, "b.example.com", AAAA)
    connect(world, "10.1.2.3", 22)
    # From two sockets, so in any order.
    assert sorted(world.flow().event for _ in range(3)) == sorted([DNS, DNS, REFUSED])


def test_records_that_do_not_fit_are_counted(world):
    udp = world.client()
    sent = 0
    # Until the socket to the daemon is full, and then some.
    while sent < 1500:
        address = f"198.18.{sent % 250}.{1 + sent // 250}"
        client = world.client(address)
        client.sendto(query(f"n-{sent}.example.com", AAAA), GATEWAY)
        client.recv(4096)
        client.close()
        sent += 1
    seen = 0
    while True:
        flow = world.flow()
        if flow.event == LOST:
            break
        assert flow.event == DNS
        seen += 1
    assert 0 < seen < sent and flow.count == sent - seen
    world.ask(udp, "after.example.com", AAAA)
    assert world.flow_of(DNS).name == b"after.example.com"


# ---- the process ----


def status(world):
    with open(f"/proc/{world.process.pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def test_it_has_no_rights(world):
    settled(world)
    now = status(world)
    assert now["Uid"].split() == now["Gid"].split() == [str(UID)] * 4
    assert now["Groups"].strip() == ""
    assert all(int(now[c], 16) == 0 for c in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert now["NoNewPrivs"] == "1"
    if "asan" not in str(BIN_DIR):
        assert now["Seccomp"] == "2"
    # Owned by root: not dumpable.
    assert os.stat(f"/proc/{world.process.pid}/mem").st_uid == 0
    fds = sorted(int(fd) for fd in os.listdir(f"/proc/{world.process.pid}/fd"))
    last = 8 + len(world.upstream)
    assert fds == list(range(last + 1))  # the last one is its epoll


def test_ends_with_the_daemon(world):
    settled(world)
    world.records.close()
    assert world.process.wait(10) == 0


def test_ends_with_the_daemon_while_sending(world):
    settled(world)
    world.process.send_signal(signal.SIGSTOP)
    world.ask(world.client(), "a.example.com", AAAA)
    world.records.close()
    world.process.send_signal(signal.SIGCONT)
    assert world.process.wait(10) == 0


def test_ends_with_its_parent():
    """PR_SET_PDEATHSIG holds after the change of user."""
    read, write = os.pipe()
    program = (
        "import os, sys, subprocess, time\n"
        "p = subprocess.Popen(sys.argv[2:], close_fds=False)\n"
        "os.write(int(sys.argv[1]), str(p.pid).encode())\n"
        "time.sleep(100)\n"
    )
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(6)]
    high = [fcntl.fcntl(p[0], fcntl.F_DUPFD_CLOEXEC, 100) for p in pairs]
    moves = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(high))
    parent = subprocess.Popen(
        ["bash", "-c", f'exec /usr/bin/python3 -c "$0" "$@" {moves}', program, str(write)]
        + [BIN_DIR / "bivouac-gateway", f"--uid={UID}", "--resolvers=1", "--sockets-each=1"],
        pass_fds=[*high, write],
    )
    pid = int(os.read(read, 20))
    pidfd = os.pidfd_open(pid)
    # It works, so it has been through all its preparations.
    pairs[0][1].send((REPO / "tests/fuzz/corpus/gateway_flows/log-new-tcp").read_bytes())
    assert parse_flow(pairs[4][1].recv(4096)).event == NEW
    parent.kill()
    parent.wait()
    assert select.select([pidfd], [], [], 10)[0]
    for fd in [read, write, pidfd, *high]:
        os.close(fd)
    for a, b in pairs:
        a.close()
        b.close()


def run(*args, **kwargs):
    return subprocess.run(
        [BIN_DIR / "bivouac-gateway", *args], capture_output=True, text=True, timeout=30, **kwargs
    )


def test_command_line():
    assert run("--help").returncode == 0
    assert "bivouac-jailer" in run("--help").stdout
    for args in [
        [],
        ["--uid=1", "--resolvers=1"],
        ["--uid=1", "--sockets-each=1"],
        ["--uid=0", "--resolvers=1", "--sockets-each=1"],
        ["--uid=4294967295", "--resolvers=1", "--sockets-each=1"],
        ["--uid=1", "--resolvers=9", "--sockets-each=1"],
        ["--uid=1", "--resolvers=1", "--sockets-each=65"],
        ["--uid=x", "--resolvers=1", "--sockets-each=1"],
        ["--uid=1", "--resolvers=1", "--sockets-each=1", "more"],
        ["--what"],
    ]:
        done = run(*args)
        assert done.returncode == 64 and "usage:" in done.stderr, args
    assert "'9' is not a number from 0 to 8" in run("--uid=1", "--resolvers=9").stderr
    done = run("--uid=1", "--resolvers=1", "--sockets-each=1", stdin=subprocess.DEVNULL)
    assert done.returncode == 64
    assert "descriptor 3 is not a socket" in done.stderr
