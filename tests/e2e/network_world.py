# SPDX-License-Identifier: Apache-2.0
"""A jailer in a small internet made of network namespaces, spoken to in its own protocol.

`host` is where the jailer runs, `out` is everything else: it has the addresses of a web server, a
resolver, a private network and a metadata service, all of which `host` itself can reach. Instead of
bivouac-gateway runs a stand-in that hands over what its sockets bring.
"""

import itertools
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import textwrap
import time
import uuid

from conftest import BIN_DIR, REPO, SANITIZER, wait_for

IMAGES = "/var/cache/bivouac/images"
HOST, HOST_SECOND = "203.0.114.2", "198.200.0.1"
WEB, RESOLVER, PRIVATE, METADATA = "11.22.33.44", "11.22.33.53", "10.9.9.9", "169.254.169.254"
OTHERS = ["100.100.100.200", "168.63.129.16", "172.16.1.1", "192.168.7.7", "100.64.0.1", "240.1.2.3"]
DNS = "169.254.1.1"

CREATE, DESTROY, PING, NETWORK, RESTARTED, FLOWS = 1, 3, 7, 9, 32, 33
REQUEST = struct.Struct("=HHI33s65s16sB5sQQQIIIIQ")
REPLY = struct.Struct("=HHIii400s")
ADDRESS_AT, REPLY_SIZE = 2568, 2960

_numbers = itertools.count(1)

# Answers each question with the resolver's answer (UDP) or an echo (TCP), and sends to the daemon
# what it hears: its arguments and descriptors first, then b"log"/b"end" and the kernel's packet.
STAND_IN = """\
    #!/usr/bin/python3
    import os, select, socket, sys

    log, ends, udp, tcp, flows = (socket.socket(fileno=fd) for fd in range(3, 8))
    upstream = []
    for fd in range(8, 512):
        try:
            upstream.append(socket.socket(fileno=fd))
        except OSError:
            break
    fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    flows.send(repr((sys.argv[1:], fds[:-1], dict(os.environ))).encode())
    while True:
        for ready in select.select([log, ends, udp, tcp, flows], [], [])[0]:
            if ready is flows:
                sys.exit(0)
            if ready in (log, ends):
                record = (b"log" if ready is log else b"end") + ready.recv(65536)
                try:
                    flows.send(record)
                except BlockingIOError:
                    pass
            elif ready is udp:
                question, asker = udp.recvfrom(4096)
                if question == b"exit":
                    sys.exit(7)
                if not upstream:
                    continue
                upstream[0].send(question)
                if select.select([upstream[0]], [], [], 10)[0]:
                    udp.sendto(upstream[0].recv(4096), asker)
            else:
                try:
                    connection, _ = tcp.accept()
                    connection.setblocking(True)
                    connection.sendall(connection.recv(4096))
                    connection.close()
                except OSError:
                    pass  # was reset
"""

SERVER = """\
    import select, socket, sys
    tcp = []
    for port in map(int, sys.argv[3:]):
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("0.0.0.0", port)); s.listen(1024); tcp.append(s)
    udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind((sys.argv[2], 53))
    print("ready", flush=True)
    kept = []
    while True:
        for s in select.select([*tcp, udp, *kept], [], [])[0]:
            if s is udp:
                data, peer = udp.recvfrom(4096)
                udp.sendto(sys.argv[1].encode() + b":" + data, peer)
            elif s in tcp:
                kept.append(s.accept()[0])
            else:
                try:
                    data = s.recv(65536)
                except OSError:
                    data = b""  # was reset
                if data:
                    s.sendall(sys.argv[1].encode() + b":" + data)
                else:
                    kept.remove(s); s.close()
"""


def run(*command, **kw):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, **kw
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def netlink_attributes(data):
    """{type: payload} of the attributes in data."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def error_code(name):
    """The number of an err_code, from the table that defines it."""
    names = re.findall(r"\bX\((ERR_\w+), \d", (REPO / "src/base/err.h").read_text())
    return names.index(name)


class World:
    def __init__(self):
        self.id = f"{os.getpid()}x{next(_numbers)}"
        self.host, self.out = f"bvk-host-{self.id}", f"bvk-out-{self.id}"
        self.servers = []
        for name in (self.host, self.out):
            run("ip", "netns", "add", name)
        try:
            self.build()
        except BaseException:
            self.close()
            raise

    def build(self):
        def ip(ns, text):
            run("ip", "-n", ns, *text.split())

        ip(self.host, f"link add wan0 type veth peer name core0 netns {self.out}")
        for ns, device, address in (
            (self.host, "wan0", f"{HOST}/24"),
            (self.out, "core0", "203.0.114.1/24"),
        ):
            ip(ns, "link set lo up")
            ip(ns, f"addr add {address} dev {device}")
            ip(ns, f"link set {device} up")
        ip(self.host, f"addr add {HOST_SECOND}/32 dev lo")
        ip(self.host, "route add default via 203.0.114.1")
        for address in (WEB, RESOLVER, PRIVATE, METADATA, *OTHERS):
            ip(self.out, f"addr add {address}/32 dev lo")
        # As a careless network would: it has a way back to whatever comes untranslated.
        ip(self.out, f"route add 198.18.0.0/15 via {HOST}")
        self.serve(self.out, "outside", RESOLVER, 80, 443)
        self.serve(self.host, "host", HOST, 8080)

    def serve(self, ns, word, address, *ports):
        """A server of TCP ports everywhere and of UDP port 53 at one address."""
        command = ["ip", "netns", "exec", ns, "/usr/bin/python3", "-c", textwrap.dedent(SERVER)]
        server = subprocess.Popen(
            [*command, word, address, *map(str, ports)], stdout=subprocess.PIPE, text=True
        )
        self.servers.append(server)
        assert server.stdout.readline() == "ready\n"

    def in_host(self, *command):
        return run("ip", "netns", "exec", self.host, *command)

    def ruleset(self):
        return self.in_host("nft", "list", "ruleset")

    def links(self):
        return re.findall(r"^\d+: ([^:@]+)", run("ip", "-n", self.host, "-o", "link"), re.M)

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()
        for name in (self.host, self.out):
            run("ip", "netns", "delete", name)


class JailerError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Jailer:
    """bivouac-jailer of its own, with directories of its own; this is its daemon."""

    def __init__(self, world, *options, stand_in=True):
        self.world = world
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bivouac-net-"))
        self.bin, self.run, self.uids = (self.dir / name for name in ("bin", "run", "uids"))
        self.run.mkdir()
        self.bin.mkdir()
        for name in ("bivouac-jailer", "bivouac-agent", "bivouac-zygote-exec", "bivouac-zygote-python"):
            shutil.copy2(BIN_DIR / name, self.bin / name)
        if stand_in:
            (self.bin / "bivouac-gateway").write_text(textwrap.dedent(STAND_IN))
            (self.bin / "bivouac-gateway").chmod(0o755)
        self.image = (BIN_DIR / "python.image-id").read_text().strip()
        self.options = options or ("--dns", RESOLVER)
        self.sandboxes = []
        self.process = None
        self.start()

    def start(self):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.flows, self.tag, self.records = None, 0, []
        lock = os.open(self.run, os.O_RDONLY)
        os.set_inheritable(lock, True)
        command = [self.bin / "bivouac-jailer", "--run-dir", self.run, "--images", IMAGES]
        command += ["--owner", 0, "--uid-dir", self.uids, *self.options]
        with open(self.dir / "stderr", "ab") as stderr:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.world.host}", "/bin/bash", "-c"]
                + [f'exec "$0" "$@" 3<&{theirs.fileno()} 4<&{lock}', *map(str, command)],
                stderr=stderr,
                pass_fds=(theirs.fileno(), lock),
            )
        theirs.close()
        os.close(lock)
        self.wait_restarted()

    def stderr(self):
        return (self.dir / "stderr").read_text(errors="replace")

    def receive(self):
        """One packet; what is unasked is dealt with."""
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 1)
        assert len(data) == REPLY_SIZE, (len(data), self.stderr())
        _, op, tag, code, _, text = REPLY.unpack_from(data)
        if op == FLOWS:
            assert tag == 0 and code == 0 and len(fds) == 1
            self.flows = socket.socket(fileno=fds[0])
            self.flows.settimeout(30)
        else:
            assert not fds
        text = text.split(b"\0")[0].decode()
        return op, tag, code, text, struct.unpack_from("=I", data, ADDRESS_AT)[0]

    def wait_restarted(self):
        while (packet := self.receive())[0] != RESTARTED:
            pass
        assert packet[2] == 0, packet

    def ask(self, op, sid="", network=0):
        self.tag += 1
        limits = (1 << 28, 1 << 26, 1 << 26, 10000, 64, 0, 1024)
        packet = REQUEST.pack(
            3, op, self.tag, sid.encode(), self.image.encode(), b"", network, b"", *limits, 0
        )
        self.socket.send(packet)
        while (reply := self.receive())[1] != self.tag:
            pass
        if reply[2]:
            raise JailerError(reply[2], reply[3])
        return reply[4]

    def sandbox(self):
        sandbox = Sandbox(self)
        self.sandboxes.append(sandbox)
        return sandbox

    def worker(self):
        """The pid of the worker: the keeper's child that is called as the jailer is."""
        children = run("pgrep", "-P", self.process.pid, "-x", "bivouac-jailer")
        return int(children.split()[0])

    def gateway(self):
        return [int(pid) for pid in
                subprocess.run(["pgrep", "-P", str(self.worker())], capture_output=True,
                               text=True).stdout.split()
                if b"bivouac-gateway" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]

    def announcement(self):
        """What the stand-in said at its start: arguments, descriptors, environment."""
        return eval(self.flows.recv(65536))  # its own repr()

    def read_flows(self):
        """Takes what has come so far, of the newest gateway."""
        self.ask(PING)
        self.flows.setblocking(False)
        try:
            while packet := self.flows.recv(65536):
                self.records.append(packet)
        except BlockingIOError:
            pass
        return self.records

    def logged(self, prefix, source, destination):
        """Whether a packet was logged with this prefix, from and to these addresses."""
        want = socket.inet_aton(source) + socket.inet_aton(destination)
        return any(
            record[:3] == b"log" and prefix.encode() + b"\0" in record and want in record
            for record in self.read_flows()
        )

    def wait_logged(self, *what):
        wait_for(lambda: self.logged(*what), 20, f"log record {what}")

    def ended(self, source, destination):
        """Bytes out and in of an ended connection, or None. The kernel's record: conntrack attributes."""
        want = [socket.inet_aton(address) for address in (source, destination)]
        for record in self.read_flows():
            if record[:3] == b"end" and all(address in record for address in want):
                attributes = netlink_attributes(record[3 + 20 :])
                directions = [netlink_attributes(attributes[number]) for number in (9, 10)]
                return [int.from_bytes(counters[2], "big") for counters in directions]
        return None

    def wait_ended(self, *what):
        return wait_for(lambda: self.ended(*what), 20, f"end of a connection {what}")

    def wait_new_gateway(self, before):
        """before: the flows of the last one. The new one's come unasked; a PING makes us read them."""
        wait_for(lambda: self.ask(PING) == 0 and self.flows is not before, 20, "a new gateway")
        return self.announcement()

    def end(self):
        """As when the daemon ends."""
        self.socket.close()
        assert self.process.wait(30) == 0, self.stderr()

    def close(self):
        pids = [sandbox.pid() for sandbox in self.sandboxes]
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.socket.close()
        for pid in filter(None, pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        # What the sandboxes leave (cgroups, records) the next jailer finds gone and removes.
        time.sleep(0.2)
        self.start()
        self.end()
        assert not SANITIZER.search(self.stderr()), self.stderr()
        shutil.rmtree(self.dir)


class Sandbox:
    def __init__(self, jailer):
        self.jailer = jailer
        self.sid = uuid.uuid4().hex
        jailer.ask(CREATE, self.sid)
        self.address = None

    def pid(self):
        try:
            return int((self.jailer.run / "j" / self.sid).read_text().split()[2])
        except FileNotFoundError:
            return None

    def network(self, on=1):
        address = self.jailer.ask(NETWORK, self.sid, on)
        self.address = address and socket.inet_ntoa(struct.pack(">I", address))
        return self.address

    def destroy(self):
        self.jailer.ask(DESTROY, self.sid)
        self.jailer.sandboxes.remove(self)

    def inside(self, *command, **kw):
        return run("nsenter", f"--net=/proc/{self.pid()}/ns/net", *command, **kw)

    def python(self, code, *args):
        return self.inside("/usr/bin/python3", "-c", textwrap.dedent(code), *args).strip()

    def tcp(self, address, port=80):
        """The answer to b"hello", or the name of the errno that connect() ended with."""
        return self.python(
            """
            import errno, socket, sys
            s = socket.socket()
            s.settimeout(20)
            try:
                s.connect((sys.argv[1], int(sys.argv[2])))
                s.sendall(b"hello")
                print(s.recv(100).decode())
            except TimeoutError:
                print("timeout")
            except OSError as e:
                print(errno.errorcode[e.errno])
            """,
            address,
            port,
        )

    def udp(self, address, port=53, question="hello", timeout=20):
        return self.python(
            """
            import errno, socket, sys
            s = socket.socket(type=socket.SOCK_DGRAM)
            s.settimeout(float(sys.argv[4]))
            try:
                s.connect((sys.argv[1], int(sys.argv[2])))
                s.send(sys.argv[3].encode())
                print(s.recv(100).decode())
            except TimeoutError:
                print("timeout")
            except OSError as e:
                print(errno.errorcode[e.errno])
            """,
            address,
            port,
            question,
            timeout,
        )
