# SPDX-License-Identifier: Apache-2.0
"""Sessions with and without egress in a small internet of network namespaces (internet.py)."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import textwrap

import pytest

from conftest import BIN_DIR, Background, Daemon, descendants, inside, wait_for
from internet import (
    ECHO_PORT,
    GATEWAY,
    HOST,
    HOST6,
    HOST_PORT,
    HOST_SECOND,
    METADATA,
    METADATA6,
    OTHER_METADATA,
    PRIVATE,
    PRIVATE_OTHER,
    RESOLVER,
    UNROUTED,
    WEB,
    WEB6,
    Internet,
)

CONNECTIONS = 6
NAMES = "169.254.1.1"
BROADCAST = GATEWAY.rpartition(".")[0] + ".255"

# What sessions of these tests know. Slow is what nobody answers; refused is said at once.
TOOLS = textwrap.dedent("""
    import errno, json, socket, struct, threading, time, urllib.request

    def outcome(f, *args):
        try:
            return f(*args)
        except TimeoutError:
            return "slow"
        except OSError as e:
            reason = getattr(e, "reason", e)
            if isinstance(reason, TimeoutError):
                return "slow"
            return errno.errorcode.get(reason.errno, str(reason))

    def tcp(address, port=80):
        def connect():
            with socket.create_connection((address, port), timeout=15):
                return "connected"
        return outcome(connect)

    def udp(address, port, data=b"x"):
        def ask():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.settimeout(15)
                s.connect((address, port))
                s.send(data)
                return s.recv(4096).hex()
        return outcome(ask)

    def http(url):
        return outcome(lambda: json.loads(urllib.request.urlopen(url, timeout=15).read())["at"])

    def resolve(name):
        def ask():
            return sorted({a[4][0] for a in socket.getaddrinfo(name, 80, proto=socket.IPPROTO_TCP)})
        return outcome(ask)

    def question(name, kind=1):
        labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
        return b"\\x12\\x34\\x01\\x00\\x00\\x01\\0\\0\\0\\0\\0\\0" + labels + struct.pack(">BHH", 0, kind, 1)

    def dns_tcp(server, q):
        def ask():
            with socket.create_connection((server, 53), timeout=15) as s:
                s.sendall(struct.pack(">H", len(q)) + q)
                size = struct.unpack(">H", s.recv(2, socket.MSG_WAITALL))[0]
                return s.recv(size, socket.MSG_WAITALL).hex()
        return outcome(ask)

    def echo(line):
        line.send(b"x")
        return line.recv(1).decode()

    def links():
        return [l.split(":")[0].strip() for l in open("/proc/self/net/dev").readlines()[2:]]

    def own_address():
        with socket.socket(type=socket.SOCK_DGRAM) as s:
            s.connect(("93.184.216.34", 9))
            return s.getsockname()[0]
""")
NOT_REACHED = {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EACCES", "EPERM"}


@pytest.fixture(scope="module")
def internet():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    world = Internet()
    yield world
    world.close()


def start_daemon(internet, *options):
    # On every address of its machine, so that not its own modesty keeps sessions away.
    return Daemon("--dns", RESOLVER, "--listen", "0.0.0.0:0", *options, netns=internet.host)


@pytest.fixture(scope="module")
def daemon(internet):
    d = start_daemon(internet)
    yield d
    d.stop()
    d.remove()
    # Nothing of it is left on the machine.
    assert internet.host_links() == {"lo", "wan0"}
    assert internet.host_rules() == []


@pytest.fixture(scope="module")
def pool(daemon):
    p = daemon.make_pool(maximum=30, ready=1, egress=True)
    yield p
    p.delete()


def equipped(pool):
    s = pool.session()
    s.run(TOOLS)
    return s


@pytest.fixture
def session(pool, internet):
    s = equipped(pool)
    internet.forget()
    yield s
    s.delete()


@pytest.fixture
def new_session(pool):
    made = []

    def make():
        made.append(equipped(pool))
        return made[-1]

    yield make
    for s in made:
        s.delete()


@pytest.fixture
def own_daemon(internet):
    """A function that starts a daemon with more options; its pool has egress."""
    made = []

    def start(*options):
        made.append(start_daemon(internet, *options))
        return made[-1]

    yield start
    for d in made:
        d.stop()
        d.remove()


def ask(s, expression):
    """The value of an expression of a session, as JSON carries it."""
    return json.loads(s.stdout(f"print(json.dumps(({expression})))"))


def guid_of(s):
    return s.post("1").ok().headers["x-ms-session-guid"]


def records(daemon, s=None, **members):
    """What egress.jsonl has, of one session, with these members."""
    path = daemon.state_dir / "egress.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [json.loads(line) for line in lines]
    if s:
        members["session"] = guid_of(s)
    return [r for r in found if all(r.get(k) == v for k, v in members.items())]


def switch(pool, egress):
    status = "EgressEnabled" if egress else "EgressDisabled"
    body = {"properties": {"sessionNetworkConfiguration": {"status": status}}}
    return pool.arm("PATCH", body)


def workers(daemon):
    """Pids of the jailer's two processes and of the gateway."""
    found = {}
    for pid in descendants(daemon.pid):
        with contextlib.suppress(OSError):  # it has just ended
            found.setdefault(pathlib.Path(f"/proc/{pid}/comm").read_text().strip(), []).append(pid)
    return found["bivouac-jailer"], found.get("bivouac-gateway", [])


def gateway_links(daemon):
    """Names of the links in the gateway's namespace, which the jailer's worker holds by a descriptor."""
    worker = f"/proc/{jailer_worker(daemon)}"
    own = os.readlink(f"{worker}/ns/net")
    for fd in os.listdir(f"{worker}/fd"):
        try:
            kind = os.readlink(f"{worker}/fd/{fd}")
            if not kind.startswith("net:[") or kind == own:
                continue
            namespace = os.open(f"{worker}/fd/{fd}", os.O_RDONLY)
        except OSError:  # it was just closed
            continue
        try:
            shown = subprocess.run(
                ["nsenter", f"--net=/proc/self/fd/{namespace}", "ip", "-j", "link"],
                capture_output=True, check=True, pass_fds=[namespace],
            ).stdout
        finally:
            os.close(namespace)
        names = {link["ifname"] for link in json.loads(shown)}
        if "up0" in names:  # else a sandbox's, which the worker visits
            return names - {"lo", "up0"}
    return set()


# --- off ---


def test_disabled_no_packet_leaves(daemon, internet):
    pool = daemon.make_pool(maximum=2, ready=1)
    s = equipped(pool)
    internet.forget()
    for address in (WEB, METADATA, PRIVATE, HOST, NAMES):
        assert ask(s, f"tcp('{address}')") == "ENETUNREACH"
    for address in (WEB, RESOLVER):
        assert ask(s, f"udp('{address}', {ECHO_PORT})") == "ENETUNREACH"
    assert ask(s, f"udp('{NAMES}', 53, question('example.com'))") == "ENETUNREACH"
    for address in (WEB6, METADATA6):
        assert ask(s, f"tcp('{address}')") in ("ENETUNREACH", "EADDRNOTAVAIL")
    # Neither echo requests nor packets of its own making.
    for kind in ("SOCK_DGRAM, socket.IPPROTO_ICMP", "SOCK_RAW, socket.IPPROTO_ICMP"):
        error, _ = s.fails(
            f"i = socket.socket(socket.AF_INET, socket.{kind}); i.sendto(bytes(8), ('{WEB}', 0))"
        )
        assert "Error" in error["message"]
    # A name is not found at once, not after the resolver's patience.
    s.run("t = time.monotonic(); said = resolve('example.com'); t = time.monotonic() - t")
    assert ask(s, "said, t < 1") == ["[Errno -3] Temporary failure in name resolution", True]
    assert ask(s, "links()") == ["lo"]
    assert internet.packets() == set()
    pool.delete()


# --- on ---


def test_enabled_http_by_name(session, internet):
    assert ask(session, "http('http://example.com/')") == WEB
    assert ("tcp", WEB, 80) in internet.packets()


def test_enabled_pool_is_connected_from_the_first_line(pool):
    s = pool.session()
    code = "import urllib.request; print(urllib.request.urlopen('http://example.com/', timeout=15).status)"
    assert s.stdout(code) == "200\n"
    s.delete()


def test_enabled_hides_the_sandbox_behind_the_host(session):
    code = f"json.loads(urllib.request.urlopen('http://{WEB}/', timeout=15).read())['from']"
    assert ask(session, code) == HOST


def test_enabled_sends_and_receives_much(session):
    size = 8 << 20
    code = f"urllib.request.urlopen('http://example.com/', data=bytes({size}), timeout=60).read().decode()"
    assert ask(session, code) == str(size)


def test_enabled_udp(session):
    assert ask(session, f"udp('{WEB}', {ECHO_PORT}, b'hello')") == b"hello".hex()


def test_dns_by_udp_and_tcp(session):
    wanted = "5db8d822"  # 93.184.216.34
    assert ask(session, "resolve('example.com')") == [WEB]
    assert ask(session, f"udp('{NAMES}', 53, question('example.com'))").endswith(wanted)
    assert ask(session, f"dns_tcp('{NAMES}', question('example.com'))").endswith(wanted)
    # What does not fit is told, and comes whole over TCP.
    cut = bytes.fromhex(ask(session, f"udp('{NAMES}', 53, question('example.com', 16))"))
    assert cut[2] & 2
    whole = bytes.fromhex(ask(session, f"dns_tcp('{NAMES}', question('example.com', 16))"))
    assert whole.count(b"x" * 200) == 5


def test_dns_name_that_does_not_exist(session):
    assert ask(session, "resolve('nowhere.example.com')") == "[Errno -2] Name or service not known"


def test_resolver_of_ones_own_choice_is_a_connection_like_any_other(session, internet, daemon):
    # Nothing is gained by it: addresses are refused, not names.
    assert ask(session, f"udp('{RESOLVER}', 53, question('example.com'))").endswith("5db8d822")
    assert ask(session, f"dns_tcp('{RESOLVER}', question('example.com'))").endswith("5db8d822")
    wait_for(
        lambda: {r["protocol"] for r in records(daemon, session, event="new", address=RESOLVER)}
        == {"tcp", "udp"},
        what="both are on record",
    )


# --- refused ---

SPELLINGS = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_refused_metadata_in_any_spelling(session, internet, spelling):
    assert ask(session, f"http('http://{spelling}/latest/meta-data/')") in NOT_REACHED
    assert internet.packets() == set()


def test_refused_metadata_through_a_redirect(session, internet):
    url = f"http://{WEB}/redirect?to=http://{METADATA}/"
    assert ask(session, f"http('{url}')") in NOT_REACHED
    assert internet.packets() == {("tcp", WEB, 80)}


@pytest.mark.parametrize("address", [*OTHER_METADATA, PRIVATE, PRIVATE_OTHER, *UNROUTED])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_refused_special_ranges(session, internet, address, protocol):
    code = f"tcp('{address}')" if protocol == "tcp" else f"udp('{address}', {ECHO_PORT})"
    assert ask(session, code) in NOT_REACHED
    assert internet.packets() == set()


@pytest.mark.parametrize(
    "address", ["224.0.0.251", "239.255.255.250", "255.255.255.255", "198.18.255.255", "0.0.0.1", "240.0.0.1", BROADCAST]
)
def test_refused_multicast_and_broadcast(session, internet, address):
    session.run(
        textwrap.dedent(f"""
            s = socket.socket(type=socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sent = outcome(s.sendto, b"who is there?", ("{address}", 5353))
        """)
    )
    if address != BROADCAST:  # which nobody knows before the host, who answers nothing at all
        assert ask(session, f"tcp('{address}')") in NOT_REACHED
    assert internet.packets() == set()


def test_loopback_is_the_sandboxs_own(session):
    # A service of the host listens on this port on all addresses, its loopback included.
    for address in ("127.0.0.1", "127.1.2.3", "0.0.0.0", "localhost"):
        assert ask(session, f"tcp('{address}', {HOST_PORT})") == "ECONNREFUSED"
    assert ask(session, f"tcp('::1', {HOST_PORT})") in ("ECONNREFUSED", "EADDRNOTAVAIL")


def test_refused_host_and_its_services_and_the_daemon(session, internet, daemon):
    addresses = internet.host_addresses()
    assert {HOST, HOST_SECOND} <= set(addresses) and len(addresses) > 2
    with inside(internet.host):
        import socket as sockets

        for address in (HOST, HOST_SECOND):  # they are there
            for port in (HOST_PORT, daemon.address[1]):
                sockets.create_connection((address, port), timeout=10).close()
    for address in [*addresses, NAMES]:
        for port in (HOST_PORT, daemon.address[1], 22):
            assert ask(session, f"tcp('{address}', {port})") in NOT_REACHED, (address, port)
        assert ask(session, f"udp('{address}', {ECHO_PORT})") in NOT_REACHED, address
    assert internet.packets() == set()


def test_refused_other_sessions(new_session):
    one, other = new_session(), new_session()
    address = ask(one, "own_address()")
    assert address != ask(other, "own_address()")
    one.run(
        textwrap.dedent("""
            door = socket.create_server(("0.0.0.0", 9000))
            bell = socket.socket(type=socket.SOCK_DGRAM)
            bell.bind(("0.0.0.0", 9000))
            door.settimeout(0.1)
            bell.settimeout(0.1)
        """)
    )
    assert ask(one, f"tcp('{address}', 9000)") == "connected"  # by itself
    one.run("door.accept()[0].close()")
    assert ask(other, f"tcp('{address}', 9000)") in NOT_REACHED
    assert ask(other, f"udp('{address}', 9000)") in NOT_REACHED
    assert ask(one, "outcome(door.accept), outcome(bell.recv, 10)") == ["slow", "slow"]


def test_nobody_comes_in(session, internet):
    """Not even the host: there is no way in that was not asked for from inside."""
    address = ask(session, "own_address()")
    session.run("door = socket.create_server(('0.0.0.0', 9000)); door.settimeout(0.1)")
    with inside(internet.world):
        import socket as sockets

        with pytest.raises(OSError):
            sockets.create_connection((address, 9000), timeout=2)
    assert ask(session, "outcome(door.accept)") == "slow"


@pytest.mark.parametrize("address", [WEB6, METADATA6, HOST6, "fe80::1%eth0", "ff02::1%eth0"])
def test_refused_ipv6(session, internet, address):
    assert ask(session, f"tcp('{address}')") != "connected"
    session.run(
        textwrap.dedent(f"""
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            where = outcome(socket.getaddrinfo, "{address}", 53)
            if isinstance(where, list):
                outcome(s.sendto, b"x", where[0][4])
        """)
    )
    assert internet.packets() == set()


def test_refused_name_of_a_private_address(session, internet):
    for name in ("metadata.example.com", "private.example.com"):
        assert ask(session, f"http('http://{name}/')") in NOT_REACHED
    # One that flips between being looked up and being used: what counts is where packets go.
    said = ask(session, "[http('http://flips.example.com/') for _ in range(8)]")
    assert WEB in said and METADATA not in said
    assert {p for p in internet.packets() if p[0] == "tcp"} == {("tcp", WEB, 80)}


def test_allow_list_opens_what_it_names_only(own_daemon, internet):
    d = own_daemon("--egress-allow", f"{PRIVATE}/32")
    pool = d.make_pool(maximum=2, ready=0, egress=True)
    s = equipped(pool)
    assert ask(s, f"http('http://{PRIVATE}/'), http('http://private.example.com/')") == [PRIVATE, PRIVATE]
    internet.forget()
    for address in (PRIVATE_OTHER, METADATA, *OTHER_METADATA, *UNROUTED, HOST):
        assert ask(s, f"tcp('{address}')") in NOT_REACHED
    assert internet.packets() == set()


# --- switching ---


def test_switch_of_a_live_pool(daemon, internet):
    pool = daemon.make_pool(maximum=4, ready=1)
    s = equipped(pool)
    s.run("state = [1, 2, 3]")
    assert ask(s, f"tcp('{WEB}')") == "ENETUNREACH"
    switch(pool, True).ok()
    wait_for(lambda: ask(s, "http('http://example.com/')") == WEB, what="on")
    s.run(f"line = socket.create_connection(('{WEB}', {ECHO_PORT}), timeout=15)")
    assert ask(s, "echo(line)") == "x"
    switch(pool, False).ok()
    wait_for(lambda: ask(s, f"tcp('{WEB}')") == "ENETUNREACH", what="off")
    internet.forget()
    s.run("line.settimeout(1)")
    assert ask(s, "outcome(echo, line)") != "x"
    assert ask(s, "resolve('example.com')") != [WEB]
    assert ask(s, "links()") == ["lo"]
    assert internet.packets() == set()
    fresh = equipped(pool)
    assert ask(fresh, f"tcp('{WEB}')") == "ENETUNREACH"
    switch(pool, True).ok()
    wait_for(lambda: ask(s, "http('http://example.com/')") == WEB, what="on again")
    wait_for(lambda: ask(fresh, f"tcp('{WEB}')") == "connected", what="the other one, too")
    assert ask(s, "state") == [1, 2, 3]
    pool.delete()


def test_switched_back_and_forth_the_last_word_counts(daemon, internet):
    pool = daemon.make_pool(maximum=4, ready=1)
    s = equipped(pool)
    for last in (False, True, False):
        for egress in (True, False, True, False, last):
            switch(pool, egress).ok()
        want = "connected" if last else "ENETUNREACH"
        wait_for(lambda: ask(s, f"tcp('{WEB}')") == want, what=f"egress {last}")
    fresh = equipped(pool)
    assert ask(fresh, f"tcp('{WEB}')") == "ENETUNREACH"
    pool.delete()


def test_switch_from_the_command_line(daemon, internet):
    pool = daemon.make_pool(maximum=2, ready=0)
    s = equipped(pool)
    environment = {
        **os.environ,
        "BIVOUAC_ARM_ENDPOINT": daemon.base,
        "BIVOUAC_ARM_TOKEN": daemon.arm_token,
        "HOME": str(daemon.dir),
    }

    def update(words, status):
        words = [*words.split(), status]
        command = ["nsenter", f"--net=/run/netns/{internet.host}", "--", BIN_DIR / "bivouac"]
        done = subprocess.run(
            [*map(str, command), *words], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["properties"]["sessionNetworkConfiguration"] == {"status": status}

    update(f"sessionpool update -n {pool.name} -g default --network-status", "EgressEnabled")
    wait_for(lambda: ask(s, f"tcp('{WEB}')") == "connected", what="on")
    # As the founding document spells it.
    spelled = f"containerapp sessionpool update --name {pool.name} --resource-group default"
    update(f"{spelled} --session-network-status", "EgressDisabled")
    wait_for(lambda: ask(s, f"tcp('{WEB}')") == "ENETUNREACH", what="off")
    pool.delete()


def test_not_offered(own_daemon):
    d = own_daemon("--egress", "off")
    pool = d.make_pool(maximum=2, ready=0)
    said = switch(pool, True).error(400, "InvalidSessionPoolConfiguration")["message"]
    assert "sessionNetworkConfiguration.status" in said and "--egress on" in said
    properties = pool.arm("GET").ok().json["properties"]
    assert properties["sessionNetworkConfiguration"] == {"status": "EgressDisabled"}
    assert ask(equipped(pool), f"tcp('{WEB}')") == "ENETUNREACH"


# --- shares ---


def test_connections_at_once(own_daemon):
    d = own_daemon("--egress-connections", str(CONNECTIONS))
    pool = d.make_pool(maximum=2, ready=0, egress=True)
    one, other = equipped(pool), equipped(pool)
    one.run(f"lines = [socket.create_connection(('{WEB}', {ECHO_PORT}), timeout=15) for _ in range({CONNECTIONS})]")
    assert ask(one, f"tcp('{WEB}', {ECHO_PORT})") in NOT_REACHED
    assert ask(one, "[echo(l) for l in lines]") == ["x"] * CONNECTIONS
    # It is this session's share alone.
    assert ask(other, f"tcp('{WEB}', {ECHO_PORT})") == "connected"
    one.run("for l in lines: l.close()")
    wait_for(lambda: ask(one, f"tcp('{WEB}', {ECHO_PORT})") == "connected", 30, "one more")
    wait_for(lambda: records(d, one, event="refused", reason="connections"), what="it is on record")


def test_new_connections_per_second(own_daemon):
    d = own_daemon("--egress-rate", "5")
    pool = d.make_pool(maximum=2, ready=0, egress=True)
    s = equipped(pool)
    s.run(f"t = time.monotonic(); said = [tcp('{WEB}', {ECHO_PORT}) for _ in range(200)]")
    connected, seconds = ask(s, "said.count('connected'), time.monotonic() - t")
    assert 0 < connected <= 5 + 5 * (seconds + 1)
    wait_for(lambda: records(d, s, event="refused", reason="rate"), what="it is on record")


def test_bandwidth(own_daemon):
    cap = 1 << 20
    d = own_daemon("--egress-bandwidth", str(cap))
    pool = d.make_pool(maximum=2, ready=0, egress=True)
    s = equipped(pool)
    s.run(
        textwrap.dedent(f"""
            got, t = 0, time.monotonic()
            with urllib.request.urlopen("http://{WEB}/endless", timeout=15) as r:
                while time.monotonic() - t < 3:
                    got += len(r.read1(65536))
            t = time.monotonic() - t
        """)
    )
    got, seconds = ask(s, "got, t")
    assert 65536 < got < 2 * cap * (seconds + 1)


# --- records ---


def test_records(session, daemon):
    assert ask(session, "http('http://example.com/')") == WEB
    assert ask(session, f"tcp('{METADATA}', 81)") in NOT_REACHED
    guid = guid_of(session)
    wait_for(lambda: records(daemon, session, event="dns", name="example.com"), what="dns")
    wait_for(
        lambda: records(daemon, session, event="new", protocol="tcp", address=WEB, port=80), what="new"
    )
    refused = {"event": "refused", "protocol": "tcp", "address": METADATA, "port": 81, "reason": "address"}
    (found,) = wait_for(lambda: records(daemon, session, **refused), what="refused")
    assert found["pool"] == session.pool.name
    assert found["poolId"] == session.pool.arm_path.lower()
    (ended,) = wait_for(lambda: records(daemon, session, event="end", address=WEB), 150, "end")
    assert ended["bytesOut"] > 100 and ended["bytesIn"] > 100
    # The log of the daemon has the same, and neither has the identifier.
    line = f"egress event=refused session={guid} pool={session.pool.name} protocol=tcp address={METADATA} port=81 reason=address"
    assert line in daemon.stderr()
    assert session.identifier not in daemon.stderr()
    assert session.identifier not in (daemon.state_dir / "egress.jsonl").read_text()


def test_records_of_a_session_that_ends(pool, daemon):
    s = equipped(pool)
    guid = guid_of(s)
    s.run(f"line = socket.create_connection(('{WEB}', {ECHO_PORT}), timeout=15); line.send(b'x')")
    s.delete()
    wait_for(lambda: records(daemon, event="end", session=guid, port=ECHO_PORT), 30, "end")


# --- life ---


def test_ended_sessions_leave_no_link(own_daemon):
    d = own_daemon("--shells", "0")
    pool = d.make_pool(maximum=5, ready=0, egress=True)
    made = [equipped(pool) for _ in range(4)]
    assert len(gateway_links(d)) == 4
    made.pop().delete()
    wait_for(lambda: len(gateway_links(d)) == 3, 30, "one is gone")
    switch(pool, False).ok()
    wait_for(lambda: not gateway_links(d), 30, "all are cut")
    switch(pool, True).ok()
    wait_for(lambda: len(gateway_links(d)) == 3, 30, "all are connected")
    pool.delete()
    wait_for(lambda: not gateway_links(d), 30, "all are gone")


def jailer_worker(daemon):
    """The jailer's process that works: the child of the other one."""
    jailers = workers(daemon)[0]
    for pid in jailers:
        with open(f"/proc/{pid}/stat") as f:
            if int(f.read().rpartition(")")[2].split()[1]) in jailers:
                return pid
    raise AssertionError(f"no worker among {jailers}")


def test_network_comes_back_after_the_jailer_was_killed(own_daemon, internet):
    d = own_daemon()
    connected = d.make_pool(maximum=3, ready=1, egress=True)
    alone = d.make_pool(maximum=3, ready=1)
    s, other = equipped(connected), equipped(alone)
    s.run("state = 7")
    assert ask(s, "http('http://example.com/')") == WEB
    os.kill(jailer_worker(d), signal.SIGKILL)
    wait_for(lambda: ask(s, "http('http://example.com/')") == WEB, 60, "network is back")
    assert ask(s, "state") == 7
    internet.forget()
    assert ask(other, f"tcp('{WEB}')") == "ENETUNREACH"
    fresh = equipped(connected)  # may have stood ready, unconnected, when the jailer came back
    wait_for(lambda: ask(fresh, "http('http://example.com/')") == WEB, 60, "network of a ready one")


def test_names_come_back_after_the_gateway_was_killed(own_daemon):
    d = own_daemon()
    s = equipped(d.make_pool(maximum=3, ready=1, egress=True))
    assert ask(s, "resolve('example.com')") == [WEB]
    s.run(f"line = socket.create_connection(('{WEB}', {ECHO_PORT}), timeout=15)")
    os.kill(workers(d)[1][0], signal.SIGKILL)
    wait_for(lambda: ask(s, "resolve('example.com')") == [WEB], 60, "names are back")
    assert ask(s, "echo(line)") == "x"
    wait_for(lambda: ask(s, "resolve('example.com')") and records(d, s, event="dns"), 30, "records")


def restart(d, how, *options):
    d.process.send_signal(how)
    d.process.wait(60)
    d.process.stdout.close()
    d.options = (*d.options, *options)
    d.start()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_network_of_adopted_sessions(own_daemon, internet, how):
    d = own_daemon("--keep-sessions")
    pool = d.make_pool(maximum=3, ready=0, egress=True)
    s = equipped(pool)
    s.run("state = 7")
    assert ask(s, "http('http://example.com/')") == WEB
    restart(d, how)
    again = type(pool)(d, pool.name).session(s.identifier)
    wait_for(lambda: ask(again, "http('http://example.com/')") == WEB, 60, "network is back")
    assert ask(again, "state") == 7
    assert ask(again, f"tcp('{METADATA}')") in NOT_REACHED
    # The next daemon offers no egress: what it takes over has none, and what the pool says is told.
    # (And it ends its sessions when it ends, as all daemons of these tests do.)
    restart(d, how, "--egress", "off", "--keep-sessions=false")
    last = type(pool)(d, pool.name).session(s.identifier)
    wait_for(lambda: ask(last, f"tcp('{WEB}')") == "ENETUNREACH", 60, "cut")
    assert ask(last, "state") == 7
    internet.forget()
    assert ask(last, "resolve('example.com')") != [WEB]
    assert internet.packets() == set()
    assert f"pool {pool.name} is EgressEnabled, but this daemon offers no egress" in d.stderr()


def test_many_sessions_switch_together(daemon):
    """More than are connected at once; each one ends up as the pool says."""
    pool = daemon.make_pool(maximum=20, ready=0)
    made = [equipped(pool) for _ in range(12)]
    for egress, want in ((True, "connected"), (False, "ENETUNREACH")):
        switch(pool, egress).ok()
        for s in made:
            wait_for(lambda s=s: ask(s, f"tcp('{WEB}')") == want, 60, f"egress {egress}")
    jobs = [Background(ask, s, "resolve('example.com')") for s in made]
    assert all(job.result() != [WEB] for job in jobs)
    pool.delete()


def test_egress_file_can_be_off(own_daemon):
    d = own_daemon("--egress-log-max", "0")
    s = equipped(d.make_pool(maximum=2, ready=0, egress=True))
    assert ask(s, f"tcp('{WEB}')") == "connected"
    guid = guid_of(s)
    wait_for(lambda: f"egress event=new session={guid}" in d.stderr(), what="it is logged")
    assert not (d.state_dir / "egress.jsonl").exists()


@pytest.mark.parametrize(
    "option, value, word",
    [
        ("--egress", "maybe", "on or off"),
        ("--egress-allow", "0.0.0.0/0", "too wide"),
        ("--egress-allow", "10.0.0.5/8", "10.0.0.0/8"),
        ("--egress-allow", "10.0.0.0/8;flush", "10.0.0.0/8;flush"),
        ("--dns", "resolver.example", "IPv4"),
        ("--egress-connections", "0", "from 1 to"),
    ],
)
def test_bad_settings_are_told_before_anything_starts(option, value, word):
    done = subprocess.run(
        [BIN_DIR / "bivouacd", "--state", "/nowhere/state", option, value],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 64 and word in done.stderr and not os.path.exists("/nowhere")
