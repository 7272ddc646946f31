# SPDX-License-Identifier: Apache-2.0
"""A client of streamed executions that takes nothing for granted: chunks and events read byte by byte."""

import collections
import json
import socket

from conftest import NEW, Reply

Event = collections.namedtuple("Event", "name data")


class Broken(Exception):
    """The connection ended before the stream did."""


class EventStream:
    """One POST with Accept: text/event-stream on a connection of its own, or on one handed over."""

    def __init__(
        self,
        session,
        body,
        where="executions",
        version=NEW,
        headers=None,
        receive_buffer=None,
        timeout=60,
        sock=None,
        http="1.1",
    ):
        if isinstance(body, str):
            body = {"code": body}
        self.comments = []
        self._left = 0  # of the chunk that is being read
        self._ended = False
        self.socket = sock or self._connect(session, receive_buffer, timeout)
        self.file = self.socket.makefile("rb")
        text = json.dumps(body).encode()
        sent = {
            "Host": "test",
            "Accept": "text/event-stream",
            "Authorization": f"Bearer {session.pool.client.token}",
            "Content-Type": "application/json",
            "Content-Length": str(len(text)),
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        path = session.path(where, version)
        self.socket.sendall(f"POST {path} HTTP/{http}\r\n{lines}\r\n".encode() + text)
        self._head()

    @staticmethod
    def _connect(session, receive_buffer, timeout):
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(timeout)
        sock.connect(session.pool.client.address)
        return sock

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def _line(self):
        try:
            line = self.file.readline()
        except ConnectionResetError:
            raise Broken from None
        if not line.endswith(b"\r\n"):
            raise Broken
        return line[:-2].decode()

    def _head(self):
        protocol, status, _ = self._line().split(" ", 2)
        self.protocol, self.status = protocol, int(status)
        self.headers = {}
        while line := self._line():
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self.chunked = self.headers.get("transfer-encoding") == "chunked"

    @property
    def reply(self):
        """What is no stream: an error, or JSON after all."""
        assert "content-length" in self.headers
        body = self.file.read(int(self.headers["content-length"]))
        names = {"content-type": "Content-Type", "x-ms-error-code": "x-ms-error-code"}
        headers = {names.get(name, name): value for name, value in self.headers.items()}
        return Reply(self.status, headers, body)

    def read(self, size=1):
        """At most so many bytes of the body; b"" at its end."""
        if self._ended:
            return b""
        if not self.chunked:
            data = self.file.read1(size)
            self._ended = not data
            return data
        if not self._left:
            self._left = int(self._line(), 16)
            if not self._left:
                assert self._line() == ""
                self._ended = True
                return b""
        try:
            data = self.file.read1(min(size, self._left))
        except ConnectionResetError:
            raise Broken from None
        if not data:
            raise Broken
        self._left -= len(data)
        if not self._left:
            assert self._line() == ""
        return data

    def _text_line(self):
        line = b""
        while not line.endswith(b"\n"):
            byte = self.read()
            if not byte:
                assert not line, line
                return None
            line += byte
        assert b"\r" not in line
        return line[:-1].decode()

    def next(self):
        """The next event, None at the end of the stream; comments are noted."""
        while True:
            line = self._text_line()
            if line is None:
                return None
            if line.startswith(": "):
                self.comments.append(line[2:])
                assert self._text_line() == ""
                continue
            assert line.startswith("event: "), line
            data = self._text_line()
            assert data.startswith("data: "), data
            assert self._text_line() == ""
            return Event(line[7:], json.loads(data[6:]))

    def __iter__(self):
        while event := self.next():
            yield event

    def comment(self):
        """Waits for the next comment, which comes before any event."""
        line = self._text_line()
        assert line.startswith(": ") and self._text_line() == ""
        return line[2:]

    def expect(self, name):
        event = self.next()
        assert event and event.name == name, event
        return event.data

    def until_text(self, text, stream="stdout"):
        """Reads events up to the one that brings this text; what that stream has brought so far."""
        seen = ""
        while text not in seen:
            event = self.next()
            assert event and event.name in ("started", "stdout", "stderr"), event
            if event.name == stream:
                seen += event.data["text"]
        return seen


def names_of(events):
    """What happened, in order. In how many events a text comes is open: `print` writes its end by itself."""
    names = []
    for event in events:
        if not (names and names[-1] == event.name and event.name in ("stdout", "stderr")):
            names.append(event.name)
    return names


def text_of(events, stream):
    return "".join(event.data["text"] for event in events if event.name == stream)
