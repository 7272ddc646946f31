# SPDX-License-Identifier: Apache-2.0
"""JAILER_NETWORK: what connected sandboxes reach, and what is left when they, or the jailer, end."""

import errno
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from conftest import BIN_DIR, alive, wait_for
from network_world import (
    DNS, HOST, HOST_SECOND, METADATA, OTHERS, PING, PRIVATE, RESOLVER, WEB, Jailer, JailerError, World,
    error_code, run,
)


@pytest.fixture(scope="module")
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="module")
def jailer(world):
    jailer = Jailer(world)
    yield jailer
    jailer.close()


@pytest.fixture
def own():
    """Makes the test's jailer in an internet of its own, of which nothing may be left at the end."""
    world = World()
    made = []

    def make(*options, **kw):
        made.append(Jailer(world, *options, **kw))
        return made[-1]

    yield make
    for jailer in made:
        jailer.close()
    left = world.links(), world.ruleset()
    world.close()
    assert left == (["lo", "wan0"], "")


@pytest.fixture(scope="module")
def sandbox(jailer):
    sandbox = jailer.sandbox()
    sandbox.network()
    return sandbox


@pytest.fixture(scope="module")
def neighbour(jailer, sandbox):
    neighbour = jailer.sandbox()
    neighbour.network()
    return neighbour


def test_the_world_is_careless(world):
    """What is refused below would answer: the host itself reaches it."""
    for address in (WEB, PRIVATE, METADATA, *OTHERS):
        world.in_host(
            "/usr/bin/python3", "-c",
            f"import socket; socket.create_connection(('{address}', 80), 20)",
        )


def test_unconnected_sandbox_has_loopback_only(jailer):
    sandbox = jailer.sandbox()
    assert re.findall(r"^\d+: (\w+)", sandbox.inside("ip", "-o", "link"), re.M) == ["lo"]
    assert sandbox.tcp(WEB) == "ENETUNREACH"
    sandbox.destroy()


def test_gateway_gets_its_sockets_and_nothing_else(jailer, sandbox):
    arguments, fds, environment = jailer.announcement()
    assert arguments[0] == "--uid" and (int(arguments[1]) - 0x40000000) % 262144 == 8
    assert arguments[2:] == ["--resolvers", "1", "--sockets-each", "32"]
    assert fds == list(range(3 + 5 + 32))
    assert set(environment) <= {"LC_CTYPE"}  # Python's own


def test_sandbox_has_one_route_and_no_ipv6(sandbox):
    assert sandbox.inside("ip", "route").split("\n") == [
        "default via 169.254.1.1 dev eth0 proto static ",
        "169.254.1.1 dev eth0 proto static scope link ",
        "",
    ]
    assert "inet6" not in sandbox.inside("ip", "addr", "show", "dev", "eth0")
    assert sandbox.inside("ip", "-6", "route", "show", "dev", "eth0") == ""


def test_outside_is_reached(jailer, sandbox):
    assert sandbox.tcp(WEB) == "outside:hello"
    jailer.wait_logged("new", sandbox.address, WEB)


def test_outside_answers_ping(sandbox):
    sandbox.python(
        """
        import socket, sys
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        s.settimeout(20)
        s.connect((sys.argv[1], 0))
        s.send(bytes.fromhex("0800f7fd00010001"))
        assert s.recv(100)[20:] == bytes.fromhex("0000fffd00010001")
        """,
        WEB,
    )


def test_names_are_asked_for_at_the_gateway(sandbox):
    assert sandbox.udp(DNS) == "outside:hello"
    assert sandbox.tcp(DNS, 53) == "hello"


@pytest.mark.parametrize("address", [PRIVATE, METADATA, *OTHERS, "0.1.2.3", "198.18.77.1", DNS])
def test_refused_ranges(jailer, sandbox, address):
    assert sandbox.tcp(address) == "EHOSTUNREACH"
    if address != DNS:
        assert sandbox.udp(address) == "EHOSTUNREACH"
    jailer.wait_logged("address", sandbox.address, address)


def test_private_resolver_answers_through_the_gateway_only(own):
    jailer = own("--dns", PRIVATE)
    jailer.world.serve(jailer.world.out, "private", PRIVATE, 81)
    sandbox = jailer.sandbox()
    sandbox.network()
    assert sandbox.udp(PRIVATE) == "EHOSTUNREACH"
    assert sandbox.udp(DNS) == "private:hello"


@pytest.mark.parametrize("address", [HOST, HOST_SECOND])
def test_host_is_refused(jailer, sandbox, address):
    assert sandbox.tcp(address, 8080) == "EHOSTUNREACH"
    assert sandbox.udp(address, 9) == "EHOSTUNREACH"
    jailer.wait_logged("host", sandbox.address, address)


def test_uplink_addresses_are_refused(world, sandbox):
    uplink = re.findall(r"inet (198\.19\.[\d.]+)/30", world.in_host("ip", "addr"))
    gateway = uplink[0].rpartition(".")[0] + f".{int(uplink[0].rpartition('.')[2]) + 1}"
    assert sandbox.tcp(uplink[0], 8080) == "EHOSTUNREACH"
    assert sandbox.tcp(gateway, 53) == "EHOSTUNREACH"


def test_host_refuses_what_the_gateway_does_not_know_of(own):
    """The host's own rules hold by themselves: here the set of the gateway is emptied."""
    jailer = own()
    sandbox = jailer.sandbox()
    sandbox.network()
    nft_in_gateway(jailer, "flush set inet bivouac host; flush set inet bivouac refused")
    assert sandbox.udp(HOST, 53, timeout=1) == "timeout"
    assert sandbox.udp(HOST_SECOND, 53, timeout=1) == "timeout"


def in_gateway(jailer, *command):
    """The namespace has no name; it is found by its table among the worker's descriptors."""
    for path in pathlib.Path(f"/proc/{jailer.worker()}/fd").iterdir():
        try:
            if not os.readlink(path).startswith("net:["):
                continue
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # was closed meanwhile
        try:
            enter = ("nsenter", f"--net=/proc/self/fd/{fd}")
            if "inet bivouac\n" in run(*enter, "nft", "list", "tables", pass_fds=[fd]):
                return run(*enter, *command, pass_fds=[fd])
        finally:
            os.close(fd)
    raise AssertionError("no gateway")


def nft_in_gateway(jailer, command):
    in_gateway(jailer, "nft", command)


def test_new_host_address_is_refused_too(own):
    """The gateway is started again too: its sockets may have an address that is gone."""
    jailer = own()
    sandbox = jailer.sandbox()
    sandbox.network()
    jailer.ask(PING)
    before = jailer.flows
    jailer.world.in_host("ip", "addr", "add", "198.200.0.9/32", "dev", "lo")
    jailer.wait_new_gateway(before)
    assert sandbox.tcp("198.200.0.9", 8080) == "EHOSTUNREACH"
    jailer.wait_logged("host", sandbox.address, "198.200.0.9")
    assert sandbox.udp(DNS) == "outside:hello"


def test_failed_reload_is_tried_again(own):
    jailer = own()
    sandbox = jailer.sandbox()
    sandbox.network()
    nft_in_gateway(jailer, "delete table inet bivouac; add table inet bivouac")
    jailer.world.in_host("ip", "addr", "add", "198.200.0.9/32", "dev", "lo")
    wait_for(lambda: "trying again" in jailer.stderr(), 20, "the failure")
    nft_in_gateway(jailer, "add set inet bivouac host { type ipv4_addr; }")
    wait_for(
        lambda: "198.200.0.9" in in_gateway(jailer, "nft", "list", "ruleset"), 20, "the new address"
    )


def test_resolver_that_had_no_route(own):
    jailer = own()
    jailer.world.in_host("ip", "route", "add", "unreachable", RESOLVER)
    sandbox = jailer.sandbox()
    sandbox.network()
    jailer.ask(PING)
    before = jailer.flows
    assert jailer.announcement()[0][3] == "0"
    jailer.world.in_host("ip", "route", "del", "unreachable", RESOLVER)
    assert jailer.wait_new_gateway(before)[0][3] == "1"
    assert sandbox.udp(DNS) == "outside:hello"


def test_firewall_removes_all_rules(own):
    jailer = own()
    sandbox = jailer.sandbox()
    sandbox.network()
    for _ in range(3):
        jailer.world.in_host("nft", "flush ruleset")
        wait_for(lambda: "masquerade" in jailer.world.ruleset(), 20, "the host's rules")
        assert sandbox.tcp(WEB) == "outside:hello"


def test_neighbours_are_refused(jailer, sandbox, neighbour):
    assert sandbox.address != neighbour.address
    for one, other in ((sandbox, neighbour), (neighbour, sandbox)):
        assert one.tcp(other.address) == "EHOSTUNREACH"
        assert one.udp(other.address) == "EHOSTUNREACH"
        jailer.wait_logged("address", one.address, other.address)


def test_nothing_comes_in(world, sandbox):
    """Neither the host nor the outside begins a connection."""
    listening = [
        "/usr/bin/python3", "-c",
        "import socket,sys; s=socket.socket(); s.settimeout(2)\n"
        "try: s.connect((sys.argv[1], 80)); print('connected')\n"
        "except OSError as e: print('refused')",
        sandbox.address,
    ]
    for ns in (world.host, world.out):
        assert run("ip", "netns", "exec", ns, *listening) == "refused\n"


def test_spoofed_source_is_dropped(jailer, sandbox, neighbour):
    """Root inside takes the neighbour's address; its packets go nowhere, and that is logged."""
    sandbox.inside("ip", "addr", "add", f"{neighbour.address}/32", "dev", "eth0")
    try:
        sandbox.python(
            """
            import socket, sys
            s = socket.socket(type=socket.SOCK_DGRAM)
            s.bind((sys.argv[1], 0))
            s.sendto(b"hello", (sys.argv[2], 53))
            """,
            neighbour.address,
            RESOLVER,
        )
        jailer.wait_logged("spoofed", neighbour.address, RESOLVER)
        assert not jailer.logged("new", neighbour.address, RESOLVER)
    finally:
        sandbox.inside("ip", "addr", "del", f"{neighbour.address}/32", "dev", "eth0")


def test_other_protocols_are_refused(jailer, sandbox):
    code = """
        import socket, sys
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
        s.sendto(b"hello", (sys.argv[1], 0))
    """
    sandbox.python(code, WEB)
    jailer.wait_logged("protocol", sandbox.address, WEB)


def test_connections_at_once(own):
    jailer = own("--egress-connections", "5", "--egress-rate", "100")
    sandbox = jailer.sandbox()
    sandbox.network()
    assert connect_many(sandbox, 7) == [0] * 5 + [errno.EHOSTUNREACH] * 2
    jailer.wait_logged("connections", sandbox.address, WEB)
    other = jailer.sandbox()
    other.network()
    assert other.tcp(WEB) == "outside:hello"


def test_new_connections_per_second(own):
    jailer = own("--egress-connections", "100", "--egress-rate", "1")
    sandbox = jailer.sandbox()
    sandbox.network()
    results = connect_many(sandbox, 20)
    assert results[0] == 0 and errno.EHOSTUNREACH in results, results
    assert results.count(0) < 20
    jailer.wait_logged("rate", sandbox.address, WEB)


def test_bytes_per_second(own):
    """More than a burst is dropped; the neighbour has a share of its own."""
    jailer = own("--egress-bandwidth", "65536", "--dns", RESOLVER)
    sandbox, neighbour = jailer.sandbox(), jailer.sandbox()
    sandbox.network()
    neighbour.network()
    # One datagram at a time, so that no buffer overflows; the number of answers before one is lost.
    code = """
        import socket, sys
        s = socket.socket(type=socket.SOCK_DGRAM)
        s.connect((sys.argv[1], 53))
        s.settimeout(3)
        count = 0
        try:
            while count < 5000:
                s.send(bytes(1400))
                s.recv(2000)
                count += 1
        except TimeoutError:
            pass
        print(count)
    """
    answered = int(sandbox.python(code, RESOLVER))
    assert 262144 // 1428 <= answered < 5000
    assert neighbour.udp(RESOLVER) == "outside:hello"


def tracked(jailer):
    """Connections that the gateway and the host remember."""
    count = "/proc/sys/net/netfilter/nf_conntrack_count"
    return int(in_gateway(jailer, "cat", count)), int(jailer.world.in_host("cat", count))


@pytest.mark.parametrize(
    "end",
    [
        "s.setsockopt(0, socket.IP_TTL, 1)",
        "s.setsockopt(0, socket.IP_OPTIONS, bytes([0x83, 7, 4]) + socket.inet_aton(sys.argv[1]))",
    ],
    ids=["last hop", "source route"],
)
def test_no_connection_ends_in_the_gateway_alone(own, end):
    """A reset that the gateway drops would leave an entry of the host for days, and count no more."""
    jailer = own("--egress-connections", "20", "--egress-rate", "1000")
    sandbox = jailer.sandbox()
    sandbox.network()
    made = sandbox.python(
        f"""
        import socket, struct, sys
        made = 0
        for _ in range(100):
            s = socket.socket()
            s.settimeout(20)
            if s.connect_ex((sys.argv[1], 80)):
                continue
            made += 1
            {end}
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        print(made)
        """,
        WEB,
    )
    gateway, host = tracked(jailer)
    assert int(made) == 20
    assert 20 <= host <= gateway <= 25
    if pathlib.Path("/proc/net/nf_conntrack").exists():
        lines = jailer.world.in_host("cat", "/proc/net/nf_conntrack").splitlines()
        assert lines and all(int(line.split()[4]) <= 7440 for line in lines), lines


def test_names_over_tcp_are_limited(own):
    """Closed connections to the gateway are remembered too; there are not thousands of them."""
    jailer = own("--dns", RESOLVER)
    sandbox = jailer.sandbox()
    sandbox.network()
    made = sandbox.python(
        """
        import socket, struct, sys, time
        made, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            s = socket.socket()
            s.settimeout(20)
            if s.connect_ex((sys.argv[1], 53)) == 0:
                made += 1
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        print(made)
        """,
        DNS,
    )
    assert 1 <= int(made) < 1000
    assert max(tracked(jailer)) < 1000
    jailer.wait_logged("rate", sandbox.address, DNS)
    assert sandbox.tcp(WEB) == "outside:hello"


def connect_many(sandbox, count):
    """errno of each of these connections, which stay open meanwhile."""
    text = sandbox.python(
        """
        import socket, sys
        kept = [socket.socket() for _ in range(int(sys.argv[2]))]
        for s in kept:
            s.settimeout(20)
        print([s.connect_ex((sys.argv[1], 80)) for s in kept])
        """,
        WEB,
        count,
    )
    return [int(number) for number in text.strip("[]").split(",")]


def test_operator_allows_a_network_and_the_host(own):
    jailer = own("--egress-allow", f"10.9.0.0/16,{HOST}", "--dns", RESOLVER)
    sandbox, neighbour = jailer.sandbox(), jailer.sandbox()
    sandbox.network()
    neighbour.network()
    assert sandbox.tcp(PRIVATE) == "outside:hello"
    assert sandbox.tcp(HOST, 8080) == "host:hello"
    assert sandbox.tcp(HOST_SECOND, 8080) == "EHOSTUNREACH"
    assert sandbox.tcp(METADATA) == "EHOSTUNREACH"


def test_nobody_allows_neighbours(own):
    jailer = own("--egress-allow", "198.18.0.0/15,198.0.0.0/8", "--dns", RESOLVER)
    sandbox, neighbour = jailer.sandbox(), jailer.sandbox()
    sandbox.network()
    neighbour.network()
    assert sandbox.tcp(neighbour.address) == "EHOSTUNREACH"


def test_disconnected_at_once(jailer):
    sandbox = jailer.sandbox()
    address = sandbox.network()
    assert sandbox.network() == address
    assert sandbox.tcp(WEB) == "outside:hello"
    held = hold_connection(sandbox)
    assert sandbox.network(0) == 0
    assert sandbox.network(0) == 0
    assert re.findall(r"^\d+: (\w+)", sandbox.inside("ip", "-o", "link"), re.M) == ["lo"]
    assert sandbox.tcp(WEB) == "ENETUNREACH"
    # Its established connection is over too, and known to be.
    held.stdin.write("go\n")
    held.stdin.flush()
    assert held.stdout.readline() != "outside:again\n"
    held.kill()
    held.wait()
    sent, received = jailer.wait_ended(address, WEB)
    assert sent > 100 and received > 50  # a handshake at least
    assert sandbox.network() == address
    assert sandbox.tcp(WEB) == "outside:hello"
    sandbox.destroy()


def hold_connection(sandbox):
    code = (
        "import socket,sys\n"
        f"s = socket.create_connection(('{WEB}', 443)); s.settimeout(1)\n"
        "print('connected', flush=True); sys.stdin.readline()\n"
        "try: s.sendall(b'again'); print(s.recv(100).decode(), flush=True)\n"
        "except OSError as e: print(e, flush=True)\n"
    )
    process = subprocess.Popen(
        ["nsenter", f"--net=/proc/{sandbox.pid()}/ns/net", "/usr/bin/python3", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert process.stdout.readline() == "connected\n"
    return process


def test_ended_and_unknown_sandboxes(jailer):
    sandbox = jailer.sandbox()
    sandbox.network()
    sandbox.destroy()
    for on in (0, 1):
        with pytest.raises(JailerError) as refused:
            sandbox.network(on)
        assert refused.value.code == error_code("ERR_NOT_FOUND")


def test_killed_sandbox_leaves_no_connection(jailer):
    sandbox = jailer.sandbox()
    address = sandbox.network()
    held = hold_connection(sandbox)
    os.kill(sandbox.pid(), signal.SIGKILL)
    jailer.wait_ended(address, WEB)
    held.kill()
    held.wait()
    jailer.sandboxes.remove(sandbox)


def test_gateway_is_started_again(own):
    jailer = own()
    sandbox = jailer.sandbox()
    sandbox.network()
    jailer.announcement()
    first = jailer.flows
    assert sandbox.udp(DNS, question="exit", timeout=1) in ("timeout", "ECONNREFUSED")
    # The new one's socket comes unasked; a PING makes us read it.
    wait_for(lambda: jailer.ask(PING) == 0 and jailer.flows is not first, 20, "a new gateway")
    jailer.announcement()
    assert sandbox.udp(DNS) == "outside:hello"
    assert sandbox.tcp(WEB) == "outside:hello"
    jailer.wait_logged("new", sandbox.address, WEB)


def test_worker_is_lost(own):
    """Everybody is cut off; the daemon asks the next worker again, and all is as before."""
    jailer = own()
    world = jailer.world
    sandbox = jailer.sandbox()
    address = sandbox.network()
    gateway = jailer.gateway()
    assert len(gateway) == 1
    os.kill(jailer.worker(), signal.SIGKILL)
    jailer.wait_restarted()
    wait_for(lambda: not alive(gateway[0]), 20, "the gateway ends with its worker")
    wait_for(lambda: world.links() == ["lo", "wan0"], 20, "the uplink is gone")
    assert world.ruleset() == ""
    assert sandbox.network() == address
    assert sandbox.tcp(WEB) == "outside:hello"
    assert sandbox.udp(DNS) == "outside:hello"


def test_worker_is_lost_and_sandbox_is_to_be_cut_off(own):
    jailer = own()
    sandbox = jailer.sandbox()
    sandbox.network()
    os.kill(jailer.worker(), signal.SIGKILL)
    jailer.wait_restarted()
    assert sandbox.network(0) == 0
    assert sandbox.tcp(WEB) == "ENETUNREACH"


def test_everything_is_killed(own):
    """Keeper and worker at once: the next start removes what was left on the host."""
    jailer = own()
    world = jailer.world
    sandbox = jailer.sandbox()
    sandbox.network()
    worker = jailer.worker()
    os.kill(jailer.process.pid, signal.SIGKILL)
    jailer.process.wait()
    wait_for(lambda: not alive(worker), 20, "the worker ends with its keeper")
    assert "bivouac_" in world.ruleset()
    jailer.socket.close()
    jailer.start()
    assert world.ruleset() == ""
    assert world.links() == ["lo", "wan0"]
    sandbox.network()
    assert sandbox.tcp(WEB) == "outside:hello"


def test_clean_end_leaves_nothing(own):
    jailer = own()
    world = jailer.world
    sandbox = jailer.sandbox()
    sandbox.network()
    gateway = jailer.gateway()
    sandbox.destroy()
    jailer.end()
    assert world.links() == ["lo", "wan0"]
    assert world.ruleset() == ""
    assert not alive(gateway[0])
    assert list(jailer.run.iterdir()) == []


def test_nobody_is_connected_when_egress_is_off(own):
    jailer = own("--egress", "off")
    sandbox = jailer.sandbox()
    with pytest.raises(JailerError, match="--egress off") as refused:
        sandbox.network()
    assert refused.value.code == error_code("ERR_UNAVAILABLE")
    assert sandbox.network(0) == 0
    assert re.findall(r"^\d+: (\w+)", sandbox.inside("ip", "-o", "link"), re.M) == ["lo"]
    assert jailer.world.ruleset() == ""


def test_what_is_missing_is_named(own):
    jailer = own(stand_in=False)
    world = jailer.world
    sandbox = jailer.sandbox()
    with pytest.raises(JailerError, match="bivouac-gateway: No such file"):
        sandbox.network()
    assert world.links() == ["lo", "wan0"]
    assert world.ruleset() == ""


@pytest.mark.parametrize(
    "option, value",
    [
        ("--egress-allow", "10.0.0.0/33"),
        ("--egress-allow", "0.0.0.0/0"),
        ("--egress-allow", "10.0.0.1/8"),
        ("--egress-allow", "fd00::/8"),
        ("--egress-allow", ""),
        ("--egress-allow", "10.0.0.0/8, 1.2.3.4"),
        ("--egress-connections", "0"),
        ("--egress-rate", "-1"),
        ("--egress-bandwidth", "12M"),
        ("--dns", "localhost"),
        ("--egress", "maybe"),
        ("--dns", "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"),
    ],
)
def test_bad_options(option, value):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done = subprocess.run(
        ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{theirs.fileno()}', BIN_DIR / "bivouac-jailer"]
        + ["--run-dir", "/nonexistent", "--images", "/", "--owner", "0", option, value],
        pass_fds=[theirs.fileno()], capture_output=True, text=True,
    )
    assert done.returncode == 64
    assert f"bivouac-jailer: {option}: " in done.stderr
