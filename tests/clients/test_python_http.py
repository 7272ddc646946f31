# SPDX-License-Identifier: Apache-2.0
"""The HTTP libraries of the Python clients, called as those clients call them.

The clients' own packages are not run here; their requests are a few lines each, and what makes their bytes is the
library: requests (LangChain, LlamaIndex), httpx (Semantic Kernel), aiohttp (AutoGen).
"""

import asyncio
import base64
import os
import urllib.parse
import uuid

import pytest

from clients.conftest import e2e

aiohttp = pytest.importorskip("aiohttp", reason="python3-aiohttp is not installed; run: make deps")
httpx = pytest.importorskip("httpx", reason="python3-httpx is not installed; run: make deps")
requests = pytest.importorskip("requests", reason="python3-requests is not installed; run: make deps")

V24 = "2024-02-02-preview"
NAMES = ["plain.txt", "with space.txt", "grüße ☃ 😀.txt", "a+b&c=d;e.txt", "100%.txt", "quo'te.txt"]


@pytest.fixture
def endpoint(origin, trust, pool):
    return origin + pool.path


@pytest.fixture
def identifier(pool):
    name = f"tenant/1:{uuid.uuid4()}"
    yield name
    pool.session(name).delete()


@pytest.fixture
def bearer(daemon):
    return {"Authorization": f"Bearer {daemon.token}"}


def body(code, **more):
    properties = {"codeInputType": "inline", "executionType": "synchronous", "code": code, **more}
    return {"properties": properties}


# --- requests ---


@pytest.fixture
def get_and_post(endpoint, identifier, bearer):
    """LangChain's way of making addresses: quote() leaves '/'."""
    query = f"identifier={urllib.parse.quote(identifier)}&api-version={V24}"

    def call(method, where, **more):
        headers = {**bearer, **more.pop("headers", {})}
        reply = requests.request(method, f"{endpoint}/{where}?{query}", headers=headers, **more)
        reply.raise_for_status()
        return reply

    return call


def test_requests_execute(get_and_post):
    headers = {"Content-Type": "application/json"}
    reply = get_and_post("POST", "code/execute", headers=headers, json=body("print('hello world'); 1 + 1"))
    found = reply.json()["properties"]
    assert {k: found[k] for k in ("result", "stdout", "stderr")} == {
        "result": 2,
        "stdout": "hello world\n",
        "stderr": "",
    }
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    image = get_and_post("POST", "code/execute", json=body(code)).json()["properties"]["result"]
    assert min(e2e.png_size(base64.decodebytes(image["base64_data"].encode()))) > 50


@pytest.mark.parametrize("prefix", ["", "/mnt/data/"])
def test_requests_files(get_and_post, prefix):
    for name in NAMES:
        files = [("file", (prefix + name, name.encode(), "application/octet-stream"))]
        properties = get_and_post("POST", "files/upload", files=files).json()["value"][0]["properties"]
        assert (properties["filename"], properties["size"]) == (name, len(name.encode()))
        quoted = urllib.parse.quote(prefix + name)
        assert get_and_post("GET", f"files/content/{quoted}").content == name.encode()
    listed = get_and_post("GET", "files").json()["value"]
    assert sorted(e["properties"]["filename"] for e in listed) == sorted(NAMES)


@pytest.mark.parametrize("name", ["plain.txt", "with space.txt", "grüße ☃ 😀.txt", "a+b&c=d;e.txt"])
def test_requests_downloads_what_nobody_quoted(get_and_post, name):
    """LlamaIndex puts names into addresses as they are; the library quotes what no address may hold."""
    get_and_post("POST", "files/upload", files={"file": (name, b"unquoted")})
    assert get_and_post("GET", f"files/content/{name}").content == b"unquoted"


def test_requests_says_what_failed(get_and_post):
    with pytest.raises(requests.HTTPError, match="404"):
        get_and_post("GET", "files/content/none.txt")


def test_requests_streams_its_body(get_and_post):
    """A generator as body is chunked; the form's type is announced as usual."""
    data = os.urandom(300_000)

    def pieces():
        yield b'--X\r\nContent-Disposition: form-data; name="file"; filename="s.bin"\r\n\r\n'
        yield from (data[i : i + 4000] for i in range(0, len(data), 4000))
        yield b"\r\n--X--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    get_and_post("POST", "files/upload", data=pieces(), headers=headers)
    assert get_and_post("GET", "files/content/s.bin").content == data


# --- httpx ---


def test_httpx_as_semantic_kernel_uses_it(endpoint, identifier, bearer):
    """One client for everything: what it was told for an execution is said of the upload too."""
    query = f"identifier={identifier}&api-version={V24}"  # not quoted
    name = "/mnt/data/grüße 1.txt"

    async def run():
        async with httpx.AsyncClient(timeout=30) as client:
            client.headers.update({**bearer, "Content-Type": "application/json"})
            reply = await client.post(f"{endpoint}/code/execute?{query}", json=body("6*7", timeoutInSeconds=100))
            properties = reply.raise_for_status() or reply.json()["properties"]
            assert [properties[k] for k in ("status", "result", "stdout", "stderr")] == ["Success", 42, "", ""]
            files = {"file": (name, b"hello", "application/octet-stream")}
            reply = await client.post(f"{endpoint}/files/upload?{query}", files=files)
            assert reply.request.headers["Content-Type"] == "application/json"
            assert reply.status_code == 200, reply.text
            listed = (await client.get(f"{endpoint}/files?{query}")).json()["value"]
            assert [e["properties"]["filename"] for e in listed] == ["grüße 1.txt"]
            reply = await client.get(f"{endpoint}/files/content/grüße 1.txt?{query}")
            assert reply.content == b"hello"
            # Its own clean-up of an endpoint leaves single slashes; others leave two.
            reply = await client.get(f"{endpoint}//files?{query}")
            assert len(reply.json()["value"]) == 1

    asyncio.run(run())


# --- aiohttp ---


@pytest.mark.parametrize(
    "name, stored", [("plain.txt", "plain.txt"), ("with space.txt", "with%20space.txt"), ("ü.txt", "%C3%BC.txt")]
)
def test_aiohttp_as_autogen_uses_it(endpoint, identifier, bearer, tmp_path, name, stored):
    """The library quotes names in forms, which no standard knows: they stay as they were sent."""
    query = f"api-version={V24}&identifier={identifier}"
    (tmp_path / "file").write_bytes(b"uploaded" * 1000)

    async def run():
        async with aiohttp.ClientSession() as client:
            json = body("import os; os.chdir('/mnt/data')")
            async with client.post(f"{endpoint}/code/execute?{query}", headers=bearer, json=json) as reply:
                reply.raise_for_status()
                properties = (await reply.json())["properties"]
            assert "Success" in properties["status"]
            assert properties["stderr"] + properties["stdout"] + str(properties["result"]) == ""
            form = aiohttp.FormData()
            with open(tmp_path / "file", "rb") as file:
                form.add_field("file", file, filename=name, content_type="application/octet-stream")
                async with client.post(f"{endpoint}/files/upload?{query}", headers=bearer, data=form) as reply:
                    reply.raise_for_status()
            async with client.get(f"{endpoint}/files?{query}", headers=bearer) as reply:
                listed = (await reply.json())["value"]
            assert [e["properties"]["filename"] for e in listed] == [stored]
            quoted = urllib.parse.quote(stored, safe="")
            async with client.get(f"{endpoint}/files/content/{quoted}?{query}", headers=bearer) as reply:
                return reply.status, await reply.read()

    assert asyncio.run(run()) == (200, b"uploaded" * 1000)


def test_aiohttp_hangs_up(endpoint, identifier, bearer):
    """AutoGen ends a run by its cancellation token: the connection is closed."""
    query = f"api-version={V24}&identifier={identifier}"

    async def run():
        async with aiohttp.ClientSession() as client:
            url = f"{endpoint}/code/execute?{query}"
            async with client.post(url, headers=bearer, json=body("import time; n = 0")) as reply:
                reply.raise_for_status()
            with pytest.raises(asyncio.TimeoutError):
                limit = aiohttp.ClientTimeout(total=0.3)
                json = body("time.sleep(1); n += 1")
                async with client.post(url, headers=bearer, json=json, timeout=limit):
                    pass
            async with client.post(url, headers=bearer, json=body("n")) as reply:
                return (await reply.json())["properties"]["result"]

    assert asyncio.run(run()) in (0, 1)
