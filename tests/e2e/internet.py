# SPDX-License-Identifier: Apache-2.0
"""A small internet of network namespaces, for tests of sessions with egress.

`host` is the machine on which bivouacd runs; its uplink leads to `world`, one namespace that has the
addresses of everything else: a web server, a DNS server, a metadata service, private networks. `host`
itself reaches all of them. The world keeps a record of every packet that arrives on its end of the
uplink. Run as a program this file is the servers of one namespace.
"""

import contextlib
import http.server
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse
import uuid

WEB, WEB6 = "93.184.216.34", "2a0b:2::34"
RESOLVER = "93.184.216.53"
METADATA = "169.254.169.254"
OTHER_METADATA = ["100.100.100.200", "168.63.129.16"]
METADATA6 = "fd00:ec2::254"
PRIVATE, PRIVATE_OTHER = "10.0.0.5", "10.0.0.6"
UNROUTED = ["172.16.3.3", "192.168.7.7", "100.64.0.5", "198.18.255.1", "192.0.2.9", "169.254.7.7"]
HOST, HOST_SECOND, HOST6, GATEWAY = "203.0.114.2", "45.33.32.2", "2a0b:1::2", "203.0.114.1"
HTTP_PORT, ECHO_PORT, HOST_PORT = 80, 7, 8000

# What the DNS server says; a list: one after another, a new one each time.
ZONE = {
    "example.com": [WEB],
    "metadata.example.com": [METADATA],
    "private.example.com": [PRIVATE],
    "flips.example.com": [WEB, METADATA],
}


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Internet:
    def __init__(self):
        mark = uuid.uuid4().hex[:6]
        self.host, self.world = f"bvt-host-{mark}", f"bvt-world-{mark}"
        self.servers = []
        self.made = []
        try:
            for name in (self.host, self.world):
                run("ip", "netns", "add", name)
                self.made.append(name)
            self._wire()
            self._control = self._serve(self.world, "world")
            self._serve(self.host, "host")
        except BaseException:
            self.close()
            raise

    def _wire(self):
        def ip(ns, text):
            run("ip", "-n", ns, *text.split())

        ip(self.host, f"link add wan0 type veth peer name core0 netns {self.world}")
        for ns, device, addresses in (
            (self.host, "wan0", [f"{HOST}/24", f"{HOST6}/64"]),
            (self.world, "core0", [f"{GATEWAY}/24", "2a0b:1::1/64"]),
        ):
            ip(ns, "link set lo up")
            for address in addresses:
                ip(ns, f"addr add {address} dev {device}" + (" nodad" if ":" in address else ""))
            ip(ns, f"link set {device} up")
        ip(self.host, f"addr add {HOST_SECOND}/32 dev lo")
        ip(self.host, f"route add default via {GATEWAY}")
        ip(self.host, "-6 route add default via 2a0b:1::1")
        for address in (WEB, RESOLVER, METADATA, *OTHER_METADATA, PRIVATE, PRIVATE_OTHER, *UNROUTED):
            ip(self.world, f"addr add {address}/32 dev lo")
        for address in (WEB6, METADATA6):
            ip(self.world, f"addr add {address}/128 dev lo nodad")
        # As a careless network would: it has a way back to what comes untranslated.
        ip(self.world, f"route add 198.18.0.0/16 via {HOST}")

    def _serve(self, ns, role):
        server = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{ns}", "--", sys.executable, __file__, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.servers.append(server)
        assert server.stdout.readline() == "ready\n"
        return server

    def _ask(self, word):
        self._control.stdin.write(word + "\n")
        self._control.stdin.flush()
        return json.loads(self._control.stdout.readline())

    def forget(self):
        """Of packets."""
        self._ask("forget")

    def packets(self):
        """What arrived in the world since forget(): {(protocol, address, port)}; port None: neither TCP nor UDP."""
        return {tuple(p) for p in self._ask("packets")}

    def host_addresses(self):
        """All IPv4 addresses that the host has now, those of the daemon's own links included."""
        shown = json.loads(run("ip", "-n", self.host, "-4", "-j", "addr"))
        return [a["local"] for link in shown for a in link["addr_info"] if a["local"] != "127.0.0.1"]

    def host_links(self):
        return {link["ifname"] for link in json.loads(run("ip", "-n", self.host, "-j", "link"))}

    def host_rules(self):
        return run("nsenter", f"--net=/run/netns/{self.host}", "nft", "list", "tables").split("\n")[:-1]

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()
            server.stdin.close()
            server.stdout.close()
        for name in self.made:
            run("ip", "netns", "delete", name)


# --- the servers ---


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/redirect":
            self.reply(302, b"", Location=query["to"])
        elif url.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(65536))
        else:
            said = {"at": self.connection.getsockname()[0], "from": self.client_address[0]}
            self.reply(200, json.dumps({**said, "role": self.server.role}).encode())

    def do_POST(self):
        self.reply(200, str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, family, role, port):
        self.address_family = family
        self.role = role
        super().__init__(("", port), Web)

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def handle_error(self, *_):
        pass


def dns_answer(question):
    """One question in, its answer out; TXT of example.com is too long for UDP."""
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
        at += 1 + question[at]
    kind = struct.unpack_from(">H", question, at + 1)[0]
    name, asked = ".".join(labels), question[12 : at + 5]
    records = []
    if kind == 1 and name in ZONE:
        addresses = ZONE[name]
        addresses.append(addresses.pop(0))
        records = [struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(addresses[-1])]
    elif kind == 28 and name == "example.com":
        records = [struct.pack(">HHHIH", 0xC00C, 28, 1, 60, 16) + socket.inet_pton(socket.AF_INET6, WEB6)]
    elif kind == 16 and name == "example.com":
        records = [struct.pack(">HHHIH", 0xC00C, 16, 1, 60, 201) + b"\xc8" + b"x" * 200] * 5
    flags = 0x8180 if name in ZONE else 0x8183
    return question[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + asked + b"".join(records)


def serve_dns():
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind((RESOLVER, 53))
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((RESOLVER, 53))
    tcp.listen(64)

    def over_udp():
        while True:
            question, peer = udp.recvfrom(4096)
            answer = dns_answer(question)
            extended = struct.unpack_from(">H", question, 10)[0] > 0  # OPT: 1232 bytes or more
            if len(answer) > (1232 if extended else 512):
                answer = answer[:2] + b"\x83\x80" + answer[4:6] + bytes(6) + answer[12 : answer.index(0, 12) + 5]
            udp.sendto(answer, peer)

    def over_tcp():
        while True:
            connection, _ = tcp.accept()
            threading.Thread(target=one_tcp, args=(connection,), daemon=True).start()

    def one_tcp(connection):
        with connection, contextlib.suppress(OSError, struct.error):
            while True:
                size = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))[0]
                answer = dns_answer(connection.recv(size, socket.MSG_WAITALL))
                connection.sendall(struct.pack(">H", len(answer)) + answer)

    for target in (over_udp, over_tcp):
        threading.Thread(target=target, daemon=True).start()


def serve_echo(address):
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind((address, ECHO_PORT))
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, ECHO_PORT))
    tcp.listen(1024)

    def over_udp():
        while True:
            data, peer = udp.recvfrom(65536)
            udp.sendto(data, peer)

    def over_tcp():
        kept = []
        while True:
            for s in select.select([tcp, *kept], [], [])[0]:
                if s is tcp:
                    kept.append(tcp.accept()[0])
                    continue
                try:
                    data = s.recv(65536)
                    s.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    kept.remove(s)
                    s.close()

    for target in (over_udp, over_tcp):
        threading.Thread(target=target, daemon=True).start()


def packet_of(frame):
    """(protocol, destination, port) of an Ethernet frame, None of what is no business of a session."""
    kind = struct.unpack_from(">H", frame, 12)[0]
    if kind == 0x0800:
        protocol, address, rest = frame[23], socket.inet_ntoa(frame[30:34]), frame[14 + (frame[14] & 15) * 4 :]
    elif kind == 0x86DD:
        protocol, rest = frame[20], frame[54:]
        address = socket.inet_ntop(socket.AF_INET6, frame[38:54])
        if protocol in (0, 58):  # multicast reports and neighbour discovery of the link itself
            return None
    else:
        return None  # ARP
    if protocol == 2:
        return None
    word = {1: "icmp", 6: "tcp", 17: "udp"}.get(protocol, str(protocol))
    return word, address, struct.unpack_from(">H", rest, 2)[0] if protocol in (6, 17) else None


def world():
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    capture.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    capture.bind(("core0", 0))
    capture.setblocking(False)
    seen = set()

    def take():
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, direction, *_) = capture.recvfrom(128)
                if direction != socket.PACKET_OUTGOING:
                    packet = packet_of(frame)
                    if packet:
                        seen.add(packet)

    serve_dns()
    for address in (WEB, METADATA, *OTHER_METADATA, PRIVATE, PRIVATE_OTHER, *UNROUTED):
        serve_echo(address)
    for family in (socket.AF_INET, socket.AF_INET6):
        threading.Thread(target=Server(family, "world", HTTP_PORT).serve_forever, daemon=True).start()
    print("ready", flush=True)
    while True:
        if sys.stdin not in select.select([capture, sys.stdin], [], [])[0]:
            take()
            continue
        word = os.read(0, 100).decode().strip()
        take()
        if not word:
            return
        if word == "forget":
            seen.clear()
        print(json.dumps(sorted(map(list, seen), key=str)), flush=True)


def host():
    for family in (socket.AF_INET, socket.AF_INET6):
        threading.Thread(target=Server(family, "host", HOST_PORT).serve_forever, daemon=True).start()
    serve_echo("")
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    {"world": world, "host": host}[sys.argv[1]]()
