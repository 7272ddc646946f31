# SPDX-License-Identifier: Apache-2.0
"""Requests as bytes: heads whose headers keep their order and spelling, bodies as clients build them."""

import json

from conftest import NEW, RawConnection, unique

AUTH = object()  # stands for the Authorization header, at its place among the others


class Wire:
    """One identifier of a pool, over raw sockets."""

    def __init__(self, pool, identifier=None):
        self.pool = pool
        self.identifier = identifier or unique("wire")
        self.base = pool.path

    def head(self, method, target, headers=(AUTH,), length=None):
        """The first line and the headers; Host comes first unless it is among them."""
        token = self.pool.client.token
        lines = [(b"%b %b HTTP/1.1" % (method.encode(), _bytes(target)))]
        named = {h[0].lower() for h in headers if h is not AUTH}
        if "host" not in named:
            lines.append(b"Host: %b:%d" % (self.pool.client.address[0].encode(), self.pool.client.address[1]))
        for header in headers:
            name, value = ("Authorization", f"Bearer {token}") if header is AUTH else header
            lines.append(_bytes(name) + b": " + _bytes(value))
        if length is not None and not named & {"content-length", "transfer-encoding"}:
            lines.append(b"Content-Length: %d" % length)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def send(self, method, target, headers=(AUTH,), body=b""):
        """One request on a connection of its own. Without a body there is no Content-Length."""
        body = _bytes(body)
        length = len(body) if body or method in ("POST", "PUT", "PATCH") else None
        with RawConnection(self.pool.client.address) as raw:
            raw.send(self.head(method, target, headers, length) + body)
            return raw.reply(method)

    def target(self, where, query):
        return f"{self.base}/{where}?{query}"

    def execute(self, code, where="executions", version=NEW, wrapped=False, **more):
        """The value of code, by the path's own shape: the whole document."""
        document = {"code": code, **more}
        body = json.dumps({"properties": document} if wrapped else document)
        query = f"identifier={self.identifier}" + (f"&api-version={version}" if version else "")
        return self.send("POST", self.target(where, query), (AUTH,), body).ok().json


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def part(headers, data, boundary):
    """One part of a form: its headers as they stand."""
    return b"--" + _bytes(boundary) + b"\r\n" + _bytes(headers) + b"\r\n\r\n" + _bytes(data) + b"\r\n"


def last(boundary):
    return b"--" + _bytes(boundary) + b"--\r\n"


def form_of(headers, data, boundary):
    return part(headers, data, boundary) + last(boundary)


def chunked(*pieces):
    out = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in map(_bytes, pieces) if p)
    return out + b"0\r\n\r\n"


def chunks_of(data, size):
    return chunked(*(data[i : i + size] for i in range(0, len(data), size)))
