# SPDX-License-Identifier: Apache-2.0
"""The client's end of a WebSocket, and of a terminal over one. Standard library only."""

import base64
import hashlib
import json
import os
import select
import socket
import struct
import time
import urllib.parse

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PROTOCOL = "bivouac.terminal.v1"


class Refused(Exception):
    """The server answered the handshake with something else than 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"{status} {body!r}")
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self):
        return json.loads(self.body)["error"]["code"]


class WebSocket:
    def __init__(self, address, path, token=None, protocols=(PROTOCOL,), headers=(), wrap=None, connected=None):
        self.socket = socket.create_connection(address, timeout=30)
        if wrap:
            self.socket = wrap(self.socket)
        if connected:
            connected()
        self.received = bytearray()
        self.closed = None
        key = base64.b64encode(os.urandom(16))
        lines = [f"GET {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {key.decode()}"]
        if protocols:
            lines.append("Sec-WebSocket-Protocol: " + ", ".join(protocols))
        if token:
            lines.append(f"Authorization: Bearer {token}")
        self.socket.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
        while b"\r\n\r\n" not in self.received:
            self._read()
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        self.received = bytearray(rest)
        status_line, *fields = head.decode().split("\r\n")
        self.headers = {k.lower(): v for k, v in (f.split(": ", 1) for f in fields)}
        status = int(status_line.split()[1])
        if status != 101:
            length = int(self.headers.get("content-length", 0))
            while len(self.received) < length:
                self._read()
            self.socket.close()
            raise Refused(status, self.headers, bytes(self.received))
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        assert self.headers["sec-websocket-accept"] == accept

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.drop()

    def drop(self):
        """Closes the connection without a word."""
        self.socket.close()

    def _read(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the server closed the connection")
        self.received += data

    def _take(self, count):
        while len(self.received) < count:
            self._read()
        data = bytes(self.received[:count])
        del self.received[:count]
        return data

    def frame(self, opcode, payload=b"", fin=True):
        mask = os.urandom(4)
        head = bytes([opcode | (0x80 if fin else 0)])
        if len(payload) < 126:
            head += bytes([0x80 | len(payload)])
        elif len(payload) < 65536:
            head += bytes([0x80 | 126]) + struct.pack(">H", len(payload))
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", len(payload))
        repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
            len(payload), "big"
        )
        self.socket.sendall(head + mask + masked)

    def next(self):
        """(opcode, payload) of the next data frame; after CLOSE, self.closed has its code."""
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            assert not second & 0x80, "a server does not mask"
            if size == 126:
                (size,) = struct.unpack(">H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._take(8))
            payload = self._take(size)
            opcode = first & 0x0F
            if opcode == PING:
                self.frame(PONG, payload)
            elif opcode == CLOSE:
                self.closed = struct.unpack(">H", payload[:2])[0] if payload else 1005
                self.frame(CLOSE, payload)
                return CLOSE, payload
            elif opcode != PONG:
                return opcode, payload


class Terminal:
    """A terminal of a session, as a program that shows it would use it."""

    def __init__(
        self, session, token=True, address=None, wrap=None, protocols=(PROTOCOL,), connected=None, **query
    ):
        pool = session.pool
        query = {"identifier": session.identifier, "api-version": "2025-10-02-preview", **query}
        path = f"{pool.path}/terminal?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"
        token = pool.daemon.token if token is True else token
        address = address or pool.daemon.address
        self.socket = WebSocket(address, path, token, protocols=protocols, wrap=wrap, connected=connected)
        self.screen = bytearray()
        self.control = []
        ready = self.wait_control("ready")
        self.id, self.new = ready["terminal"], ready["new"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.drop()

    def _step(self):
        opcode, payload = self.socket.next()
        if opcode == BINARY:
            self.screen += payload
        elif opcode == TEXT:
            self.control.append(json.loads(payload))
        return opcode

    def wait_control(self, kind):
        while True:
            for message in self.control:
                if message["type"] == kind:
                    self.control.remove(message)
                    return message
            assert self._step() != CLOSE, f"closed without {kind}"

    def until(self, text, timeout=30):
        """Everything up to and with this text, taken off the screen."""
        text = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + timeout
        while text not in self.screen:
            assert time.monotonic() < end, f"no {text!r} in {bytes(self.screen)!r}"
            assert self._step() != CLOSE, f"closed without {text!r}: {bytes(self.screen)!r}"
        at = self.screen.index(text) + len(text)
        seen = bytes(self.screen[:at])
        del self.screen[:at]
        return seen

    def quiet(self, seconds=0.3):
        """Reads until nothing comes for a while; returns what is on the screen."""
        while self.socket.received or select.select([self.socket.socket], [], [], seconds)[0]:
            if self._step() == CLOSE:
                break
        seen = bytes(self.screen)
        self.screen.clear()
        return seen

    def type(self, text):
        self.socket.frame(BINARY, text.encode() if isinstance(text, str) else text)

    def say(self, **message):
        self.socket.frame(TEXT, json.dumps(message).encode())

    def exit(self):
        """The exit message; then the server closes."""
        message = self.wait_control("exit")
        assert self._step() == CLOSE
        return message
