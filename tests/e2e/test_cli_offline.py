# SPDX-License-Identifier: Apache-2.0
"""The bivouac command line without a daemon: help, errors, doctor, and the requests it sends to a small fake server."""

import http.server
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
import threading
import urllib.parse

import pytest

BIN = os.path.join(
    os.environ.get("BIVOUAC_BIN_DIR", os.path.join(os.path.dirname(__file__), "..", "..", "build")), "bivouac"
)
SUB = "00000000-0000-0000-0000-000000000000"
POOL = f"/subscriptions/{SUB}/resourceGroups/rg/providers/Microsoft.App/sessionPools/pool1"
DATA = f"/subscriptions/{SUB}/resourceGroups/rg/sessionPools/pool1"
VERSION = "2025-10-02-preview"

pytestmark = pytest.mark.skipif(not os.path.exists(BIN), reason=f"{BIN} is not built")


class Fake(http.server.ThreadingHTTPServer):
    """Answers from `answers[(method, path)] = [(status, headers, body), …]`; the last one repeats."""

    daemon_threads = True

    def __init__(self):
        self.seen = []
        self.answers = {}
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, method, path, body=b"", status=200, headers=None):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.setdefault((method, path), []).append((status, headers or {}, raw))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("unexpected chunked body")
        left = int(self.headers.get("Content-Length", 0))
        kept, size = b"", left
        while left:
            chunk = self.rfile.read(min(left, 1 << 20))
            left -= len(chunk)
            if len(kept) < 4096:
                kept += chunk
        return kept, size

    def any(self):
        url = urllib.parse.urlsplit(self.path)
        body, size = self.body()
        self.server.seen.append(
            {
                "method": self.command,
                "path": url.path,
                "raw": self.path,
                "query": dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)),
                "headers": {k.lower(): v for k, v in self.headers.items()},
                "body": body,
                "size": size,
            }
        )
        key = (self.command, url.path)
        if key not in self.server.answers:
            status, headers, raw = 404, {}, b'{"error":{"code":"ResourceNotFound","message":"no such thing"}}'
        else:
            queue = self.server.answers[key]
            status, headers, raw = queue.pop(0) if len(queue) > 1 else queue[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value.replace("{url}", self.server.url))
        raw = raw.replace(b"{url}", self.server.url.encode())
        if status != 204:
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if status != 204:
            self.wfile.write(raw)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = any


@pytest.fixture
def fake():
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.answer("GET", POOL, {"name": "pool1", "properties": {"poolManagementEndpoint": "{url}" + DATA}})
    yield server
    server.shutdown()
    server.server_close()


def clean_env(**extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith("BIVOUAC_")}
    env.update(extra)
    return env


def run(*args, env=None, stdin=None, **kwargs):
    return subprocess.run(
        [BIN, *args],
        env=env or clean_env(),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=60,
        **kwargs,
    )


def call(fake, *args, stdin=None, **kwargs):
    env = clean_env(BIVOUAC_ARM_ENDPOINT=fake.url + "/", BIVOUAC_ARM_TOKEN="armsecret", BIVOUAC_TOKEN="datasecret")
    return run(*args, env=env, stdin=stdin, **kwargs)


def ok(result):
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout) if result.stdout else None


def test_help_lists_every_command():
    out = run("--help").stdout.decode()
    for word in ("sessionpool", "session code-interpreter", "execute", "group", "image", "token", "doctor", "version"):
        assert word in out
    assert run().returncode == 0
    assert run("help", "sessionpool", "create").stdout == run("sessionpool", "create", "-h").stdout
    text = run("sessionpool", "create", "--help").stdout.decode()
    assert "--network-status, --session-network-status" in text and "PythonLTS" in text
    flags = text[: text.index("Example:")]
    assert all(len(line) <= 110 for line in flags.splitlines())


def test_version():
    assert "bivouac" in ok(run("version"))
    assert run("--version").stdout.startswith(b"bivouac ")


@pytest.mark.parametrize(
    "args, text",
    [
        (["sesionpool", "list"], "did you mean 'sessionpool'"),
        (["sessionpool", "craete"], "did you mean 'sessionpool create'"),
        (["sessionpool", "show", "--nmae", "x"], "did you mean '--name'"),
        (["sessionpool", "show", "-n", "x"], "--resource-group is required"),
        (["sessionpool", "list", "-o", "jsn"], "did you mean 'json'"),
        (["version", "--query", "length(@)"], "a function call is not supported"),
        (["session", "code-interpreter", "execute", "-i", "abcd", "--code", "1", "--timeout-in-seconds", "221"], "1 to 220"),
        (["session", "list"], "which pool?"),
        (["sessionpool", "delete", "-n", "x", "-g", "y"], "--yes"),
        (["session", "code-interpreter", "delete-file", "-i", "abcd", "--filename", "f"], "--yes"),
        (["image", "build", "--runtime", "../x"], "not a runtime's name"),
    ],
)
def test_usage_errors_are_64(args, text):
    result = run(*args, env=clean_env(BIVOUAC_CONTEXT=""))
    assert result.returncode == 64
    assert result.stderr.decode().startswith("ERROR: ")
    assert text in result.stderr.decode()
    assert result.stdout == b""


def test_unreachable_is_69():
    env = clean_env(BIVOUAC_ARM_ENDPOINT="http://127.0.0.1:1", BIVOUAC_ARM_TOKEN="t")
    result = run("sessionpool", "list", env=env)
    assert result.returncode == 69
    assert b"is bivouacd running?" in result.stderr


def test_no_token_is_77(fake, tmp_path):
    result = run("sessionpool", "list", env=clean_env(BIVOUAC_ARM_ENDPOINT=fake.url))
    assert result.returncode == 77
    assert b"BIVOUAC_ARM_TOKEN" in result.stderr and not fake.seen


def test_doctor_json():
    result = run("doctor", "-o", "json")
    assert result.returncode in (0, 69)
    findings = json.loads(result.stdout)
    assert {f["status"] for f in findings} <= {"ok", "warn", "fail"}
    what = {f["what"] for f in findings}
    assert {"root", "kernel", "seccomp", "landlock", "kvm", "cgroup layout", "cgroup memory", "namespace user"} <= what
    failed = any(f["status"] == "fail" for f in findings)
    assert failed == (result.returncode == 69)
    assert all(f["fix"] for f in findings if f["status"] != "ok")
    assert b"Status" in run("doctor").stdout
    leftovers = [d for d, _, _ in os.walk("/sys/fs/cgroup") if "bivouac-doctor" in d]
    assert leftovers == []


def test_seed_create_command(fake):
    fake.answer("PUT", POOL, {"name": "pool1"})
    result = call(
        fake, *"containerapp sessionpool create --name pool1 --resource-group rg --location eastasia --max-sessions 100"
        " --container-type PythonLTS --cooldown-period 300".split()
    )
    assert ok(result) == {"name": "pool1"}
    (seen,) = fake.seen
    assert seen["headers"]["authorization"] == "Bearer armsecret"
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["query"] == {"api-version": "2025-07-01"}
    assert json.loads(seen["body"]) == {
        "location": "eastasia",
        "properties": {
            "poolManagementType": "Dynamic",
            "containerType": "PythonLTS",
            "scaleConfiguration": {"maxConcurrentSessions": 100},
            "sessionNetworkConfiguration": {"status": "EgressDisabled"},
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": 300}
            },
        },
    }


def test_seed_update_and_show(fake):
    fake.answer("PATCH", POOL, {"name": "pool1"})
    ok(call(fake, *"containerapp sessionpool update --name pool1 --resource-group rg --session-network-status EgressEnabled".split()))
    assert json.loads(fake.seen[-1]["body"]) == {"properties": {"sessionNetworkConfiguration": {"status": "EgressEnabled"}}}
    result = call(fake, *"containerapp sessionpool show -n pool1 -g rg --query properties.poolManagementEndpoint -o tsv".split())
    assert result.stdout.decode() == fake.url + DATA + "\n"
    result = call(fake, *"sessionpool update -n pool1 -g rg".split())
    assert result.returncode == 64 and b"nothing to update" in result.stderr


def test_create_custom_container_waits(fake):
    op = "/subscriptions/x/operationStatuses/1"
    fake.answer("PUT", POOL, {"name": "pool1"}, status=201, headers={"Azure-AsyncOperation": "{url}" + op})
    fake.answer("GET", op, {"status": "InProgress"})
    fake.answer("GET", op, {"status": "Succeeded"})
    result = call(
        fake, *"sessionpool create -n pool1 -g rg -l local --container-type customcontainer --environment env1"
        " --image example.test/app:1 --cpu 0.5 --memory 1.0Gi --target-port 80 --env-vars A=1 B=secretref:s"
        " --command /bin/app --args -x 1 --registry-server example.test --registry-username me"
        " --registry-password pw --secrets s=v --debug".split()
    )
    assert ok(result)["properties"]["poolManagementEndpoint"].endswith(DATA)
    assert [s["method"] for s in fake.seen] == ["PUT", "GET", "GET", "GET"]
    properties = json.loads(fake.seen[0]["body"])["properties"]
    assert properties["environmentId"].endswith("/resourceGroups/rg/providers/Microsoft.App/managedEnvironments/env1")
    assert properties["secrets"] == [{"name": "s", "value": "v"}, {"name": "exampletest-me", "value": "pw"}]
    template = properties["customContainerTemplate"]
    assert template["containers"] == [
        {
            "resources": {"cpu": 0.5, "memory": "1.0Gi"},
            "image": "example.test/app:1",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "secretRef": "s"}],
            "command": ["/bin/app"],
            "args": ["-x", "1"],
        }
    ]
    assert template["ingress"] == {"targetPort": 80}
    assert template["registryCredentials"]["passwordSecretRef"] == "exampletest-me"
    trace = result.stderr.decode()
    assert "> PUT " in trace and "armsecret" not in trace and '"pw"' not in trace


def test_operation_links_stay_on_the_origin(fake):
    other = Fake()
    threading.Thread(target=other.serve_forever, daemon=True).start()
    fake.answer("PUT", POOL, {}, status=201, headers={"Azure-AsyncOperation": other.url + "/x"})
    result = call(fake, *"sessionpool create -n pool1 -g rg -l local".split())
    other.shutdown()
    other.server_close()
    assert result.returncode == 76 and b"another origin" in result.stderr
    assert other.seen == []


def test_redirects_are_not_followed(fake):
    fake.answers[("GET", POOL)] = [(302, {"Location": "{url}/elsewhere"}, b"")]
    assert call(fake, *"sessionpool show -n pool1 -g rg".split()).returncode == 76
    assert len(fake.seen) == 1


def test_delete_polls_location(fake):
    fake.answer("DELETE", POOL, status=202, headers={"Location": "{url}/op", "Retry-After": "0"})
    fake.answer("GET", "/op", status=202)
    fake.answer("GET", "/op", status=204)
    assert call(fake, *"sessionpool delete -n pool1 -g rg --yes".split()).returncode == 0
    assert len(fake.seen) == 3
    fake.answers[("DELETE", POOL)] = [(204, {}, b"")]
    assert call(fake, *"sessionpool delete -n pool1 -g rg -y".split()).returncode == 0


def test_list_follows_pages_and_formats(fake):
    base = POOL.rsplit("/", 1)[0]
    item = {"id": "/x", "name": "a", "type": "t", "location": "l", "tags": None, "properties": {"n": 1}}
    fake.answer("GET", base, {"value": [item], "nextLink": "{url}/page2"})
    fake.answer("GET", "/page2", {"value": [dict(item, name="b")]})
    again = fake.answers[("GET", base)] * 1
    for args, expected in [
        (["--query", "[].name", "-o", "tsv"], "a\nb\n"),
        (["-o", "table"], None),
        (["-o", "none"], ""),
        (["-o", "tsv"], "/x\tl\ta\t\tNone\tt\n/x\tl\tb\t\tNone\tt\n"),
    ]:
        fake.answers[("GET", base)] = list(again)
        result = call(fake, "sessionpool", "list", "-g", "rg", *args)
        assert result.returncode == 0, result.stderr
        if expected is not None:
            assert result.stdout.decode() == expected
        else:
            lines = result.stdout.decode().splitlines()
            assert lines[0].split()[:2] == ["Name", "Location"] and lines[1].split()[:2] == ["a", "l"]


def test_resource_group_from_the_id(fake):
    pool = {"id": POOL, "name": "pool1", "location": "l", "properties": {"cpu": 0.25, "n": 1.0}}
    fake.answers[("GET", POOL)] = [(200, {}, json.dumps(pool).encode())]
    shown = ok(call(fake, *"sessionpool show -n pool1 -g rg".split()))
    assert shown == dict(pool, resourceGroup="rg")
    fake.answer("PATCH", POOL, pool)
    updated = call(fake, *"sessionpool update -n pool1 -g rg --network-status EgressEnabled".split())
    assert ok(updated)["resourceGroup"] == "rg"
    assert b"resourceGroup" not in fake.seen[-1]["body"]
    fake.answer("PUT", POOL, pool)
    assert ok(call(fake, *"sessionpool create -n pool1 -g rg -l l".split()))["resourceGroup"] == "rg"
    fake.answer("GET", f"/subscriptions/{SUB}/providers/Microsoft.App/sessionPools", {"value": [pool]})
    result = call(fake, "sessionpool", "list", "--query", "[].resourceGroup", "-o", "tsv")
    assert result.stdout == b"rg\n"
    head, row = call(fake, "sessionpool", "list", "-o", "table").stdout.decode().splitlines()
    assert head.split() == ["Name", "Location", "ResourceGroup"] and row.split() == ["pool1", "l", "rg"]


@pytest.mark.parametrize(
    "status, body, exit_status, text",
    [
        (404, {"error": {"code": "ResourceNotFound", "message": "gone"}}, 66, "ERROR: (ResourceNotFound) gone\n"),
        (404, b"", 66, "ERROR: (NotFound) "),
        (401, b"", 77, "ERROR: (Unauthorized) the server refuses the token: Bearer error=x\n"),
        (403, {"error": {"code": "AuthorizationFailed", "message": "no"}}, 77, "(AuthorizationFailed) no"),
        (429, {"error": {"code": "SomethingNew", "message": "slow"}}, 75, "(SomethingNew) slow"),
        (400, {"error": {"code": "SessionWithIdentifierNotFound", "message": "m"}}, 66, "(SessionWith"),
        (413, b"<html>", 65, "(RequestEntityTooLarge)"),
        (500, b"", 70, "(InternalServerError)"),
        (503, b"", 69, "(ServiceUnavailable)"),
        (400, {"error": {"code": "X", "message": "evil\x1b[31m\nERROR: forged"}}, 64, "evil [31m ERROR: forged"),
    ],
)
def test_server_errors(fake, status, body, exit_status, text):
    fake.answers.clear()
    fake.answer("GET", POOL, body, status=status, headers={"WWW-Authenticate": "Bearer error=x"})
    result = call(fake, *"sessionpool show -n pool1 -g rg".split())
    assert result.returncode == exit_status
    assert text in result.stderr.decode() and "\x1b" not in result.stderr.decode()


def interpret(fake, verb, *args, **kwargs):
    return call(fake, "session", "code-interpreter", verb, "-n", "pool1", "-g", "rg", "-i", "a|b c", *args, **kwargs)


def test_execute(fake, tmp_path):
    answer = b'{"id":"1","status":"Succeeded","result":{"executionResult":123456789012345678901234567890,"x":1.10}}'
    fake.answer("POST", DATA + "/executions", answer)
    result = interpret(fake, "execute", "--code", "print('ü')")
    assert result.returncode == 0
    assert b"123456789012345678901234567890" in result.stdout and b'"x": 1.10\n' in result.stdout
    seen = fake.seen[-1]
    assert seen["query"] == {"api-version": VERSION, "identifier": "a|b c"}
    assert "identifier=a%7Cb%20c" in seen["raw"]
    assert seen["headers"]["authorization"] == "Bearer datasecret"
    assert json.loads(seen["body"]) == {
        "codeInputType": "inline",
        "executionType": "synchronous",
        "code": "print('ü')",
        "timeoutInSeconds": 60,
    }
    (tmp_path / "code.py").write_text("1\n2\n")
    ok(interpret(fake, "execute", "--code", f"@{tmp_path}/code.py", "--timeout-in-seconds", "220"))
    assert json.loads(fake.seen[-1]["body"])["code"] == "1\n2\n"
    ok(interpret(fake, "execute", "--code", "-", stdin=b"3" * 100000))
    assert fake.seen[-1]["size"] > 100000
    result = interpret(fake, "execute", "--code", "-", stdin=b"\xff\xfe")
    assert result.returncode == 65 and b"UTF-8" in result.stderr
    result = interpret(fake, "execute", "--code", "1", "--query", "status", "-o", "tsv")
    assert result.stdout == b"Succeeded\n"


def test_files(fake, tmp_path):
    meta = {"name": "f.txt", "sizeInBytes": 3}
    fake.answer("GET", DATA + "/files", {"value": [meta]})
    assert ok(interpret(fake, "list-files", "--path", "a b/c"))["value"] == [meta]
    assert fake.seen[-1]["query"] == {"api-version": VERSION, "identifier": "a|b c", "path": "a b/c"}
    fake.answer("GET", DATA + "/files/f%20%25.txt", meta)
    assert ok(interpret(fake, "show-file-metadata", "--filename", "dir/sub/f %.txt")) == meta
    assert fake.seen[-1]["query"]["path"] == "dir/sub"
    fake.answer("DELETE", DATA + "/files/f.txt", status=204)
    for yes in ("--yes", "-y"):
        result = interpret(fake, "delete-file", "--filename", "f.txt", yes)
        assert (result.returncode, result.stdout) == (0, b"")
        assert fake.seen[-1]["method"] == "DELETE" and "path" not in fake.seen[-1]["query"]
    fake.answer("GET", DATA + "/files/f.txt/content", 'say "hi"\nü'.encode())
    assert ok(interpret(fake, "show-file-content", "--filename", "f.txt")) == 'say "hi"\nü'
    fake.answers[("GET", DATA + "/files/f.txt/content")] = [(200, {}, b"\xff\x00\x01")]
    result = interpret(fake, "show-file-content", "--filename", "f.txt")
    assert result.returncode == 65 and b"--output-file" in result.stderr
    target = tmp_path / "out.bin"
    result = interpret(fake, "show-file-content", "--filename", "f.txt", "--output-file", str(target))
    assert result.returncode == 0 and target.read_bytes() == b"\xff\x00\x01"
    result = interpret(fake, "show-file-content", "--filename", "f.txt", "--output-file", "-")
    assert result.stdout == b"\xff\x00\x01"
    result = interpret(fake, "show-file-content", "--filename", "none", "--output-file", str(target))
    assert result.returncode == 66
    assert target.read_bytes() == b"\xff\x00\x01" and os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize(
    "named, words",
    [
        (["-i", "abcd", "--path", "a" * 20000, "--filename", "keep.txt"], "--path with --filename"),
        (["-i", "abcd", "--path", "汉" * 1820, "--filename", "keep.txt"], "--path with --filename"),
        (["-i", "abcd", "--filename", "a" * 20000], "--path with --filename"),
        (["-i", "abcd", "--filename", "a" * 20000 + "/keep.txt"], "--path with --filename"),
        (["-i", "abcd", "--path", "汉" * 1300, "--filename", "汉" * 1300], "--path with --filename"),
        (["-i", "a" * 20000, "--filename", "keep.txt"], "--identifier"),
    ],
)
def test_names_that_are_too_long_are_no_other_names(fake, named, words):
    """What does not fit a URL is an error; nothing but the pool is asked for."""
    fake.answer("DELETE", DATA + "/files/keep.txt", status=204)
    result = call(fake, "session", "code-interpreter", "delete-file", "-n", "pool1", "-g", "rg", *named, "-y")
    assert result.returncode == 64 and not result.stdout
    assert words in result.stderr.decode() and "16384 bytes" in result.stderr.decode()
    assert [(s["method"], s["path"]) for s in fake.seen] in ([], [("GET", POOL)])


@pytest.mark.parametrize(
    "command",
    [
        ["session", "code-interpreter", "execute", "-i", "a" * 20000, "--code", "1"],
        ["session", "code-interpreter", "list-files", "-i", "abcd", "--path", "a" * 20000],
        ["session", "code-interpreter", "show-file-content", "-i", "abcd", "--filename", "a" * 20000],
        ["session", "code-interpreter", "upload-file", "-i", "abcd", "--filepath", BIN, "--path", "a" * 20000],
        ["session", "stop", "-i", "a" * 20000],
        ["session", "shell", "-i", "abcd", "--command", "a" * 20000],
        ["session", "terminal", "list", "-i", "a" * 20000],
        ["session", "terminal", "delete", "-i", "abcd", "--terminal", "a" * 20000],
        ["session", "list", "--endpoint", "http://127.0.0.1:1/" + "a" * 20000],
        ["sessionpool", "delete", "-y", "-g", "rg", "-n", "a" * 20000],
        ["sessionpool", "show", "-g", "a" * 20000, "-n", "pool1"],
    ],
)
def test_urls_that_are_too_long(fake, command):
    where = [] if command[0] == "sessionpool" or "--endpoint" in command else ["-n", "pool1", "-g", "rg"]
    result = call(fake, *command, *where)
    assert result.returncode == 64 and not result.stdout
    assert "16384 bytes" in result.stderr.decode()
    assert [(s["method"], s["path"]) for s in fake.seen] in ([], [("GET", POOL)])


def test_the_longest_path_fits(fake):
    name = "汉" * 85
    directory = "/".join([name] * 15)
    fake.answer("DELETE", DATA + "/files/" + urllib.parse.quote(name), status=204)
    result = interpret(fake, "delete-file", "--path", directory, "--filename", name, "-y")
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(f"{directory}/{name}".encode()) == 4095
    assert fake.seen[-1]["query"]["path"] == directory


@pytest.mark.parametrize("answer, deleted", [(b"y\n", True), (b"n\n", False)])
def test_delete_file_asks_on_a_terminal(fake, answer, deleted):
    fake.answer("DELETE", DATA + "/files/f.txt", status=204)
    args = [BIN, "session", "code-interpreter", "delete-file", "-i", "abcd", "--filename", "f.txt"]
    main, sub = pty.openpty()
    os.write(main, answer)
    env = clean_env(BIVOUAC_TOKEN="t", BIVOUAC_ENDPOINT=fake.url + DATA)
    done = subprocess.run(args, env=env, stdin=sub, capture_output=True, timeout=60)
    os.close(main)
    os.close(sub)
    assert (done.returncode == 0) == deleted
    assert b"Delete this file" in done.stderr
    assert [s["method"] for s in fake.seen] == (["DELETE"] if deleted else [])


def test_upload(fake, tmp_path):
    fake.answer("POST", DATA + "/files", {"name": "x"})
    file = tmp_path / 'we"ird.txt'
    file.write_bytes(b"hello")
    ok(interpret(fake, "upload-file", "--filepath", str(file), "--path", "/"))
    seen = fake.seen[-1]
    assert seen["query"]["path"] == "/"
    assert seen["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="file"; filename="we' in seen["body"] and b"\r\n\r\nhello\r\n--" in seen["body"]
    assert interpret(fake, "upload-file", "--filepath", str(tmp_path)).returncode == 64
    assert interpret(fake, "upload-file", "--filepath", str(tmp_path / "none")).returncode == 66
    assert interpret(fake, "execute", "--code", f"@{tmp_path}/none").returncode == 66


def test_upload_streams_in_constant_memory(fake, tmp_path):
    fake.answer("POST", DATA + "/files", {"name": "x"})
    big = tmp_path / "big"
    with open(big, "wb") as f:
        f.truncate(300 << 20)
    args = [BIN, "session", "code-interpreter", "upload-file", "-i", "abcd", "--filepath", str(big), "--endpoint", fake.url + DATA]
    # By a small process: who starts a program lends it its own size for a moment, and that counts.
    code = """if 1:
        import os, sys
        pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
        _, status, usage = os.wait4(pid, 0)
        print(status, usage.ru_maxrss)"""
    env = clean_env(BIVOUAC_TOKEN="t")
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], env=env, capture_output=True, text=True, timeout=120)
    status, kib = map(int, done.stdout.split()[-2:])  # behind what the command prints
    assert status == 0, done.stderr
    assert fake.seen[-1]["size"] > 300 << 20
    assert kib < 150 << 10  # sanitizers included


def test_progress_only_on_a_terminal(fake, tmp_path):
    fake.answer("POST", DATA + "/files", {"name": "x"})
    file = tmp_path / "f"
    file.write_bytes(b"x" * 5000000)
    assert interpret(fake, "upload-file", "--filepath", str(file)).stderr == b""
    main, sub = pty.openpty()
    args = [BIN, "session", "code-interpreter", "upload-file", "-i", "abcd", "--filepath", str(file), "--endpoint", fake.url + DATA]
    done = subprocess.run(args, env=clean_env(BIVOUAC_TOKEN="t"), stdout=subprocess.DEVNULL, stderr=sub, timeout=60)
    shown = os.read(main, 65536)
    os.close(main)
    os.close(sub)
    assert done.returncode == 0 and b"Uploading [" in shown


def test_sessions(fake):
    fake.answer("GET", DATA + "/listSessions", {"sessions": [{"identifier": "abcd"}], "nextLink": "{url}/more"})
    fake.answer("GET", "/more", {"sessions": [{"identifier": "efgh"}]})
    assert ok(call(fake, "session", "list", "-n", "pool1", "-g", "rg")) == [{"identifier": "abcd"}, {"identifier": "efgh"}]
    fake.answer("POST", DATA + "/.management/stopSession", status=200)
    assert ok(call(fake, "session", "stop", "-n", "pool1", "-g", "rg", "-i", "abcd")) == "Session abcd in session pool pool1 stopped."
    assert fake.seen[-1]["query"] == {"api-version": VERSION, "identifier": "abcd"}


def test_terminals(fake):
    terminals = [{"id": "0" * 32, "attached": False}]
    where = ["-n", "pool1", "-g", "rg", "-i", "a|b c"]
    fake.answer("GET", DATA + "/terminals", {"value": terminals})
    assert ok(call(fake, "session", "terminal", "list", *where)) == terminals
    assert fake.seen[-1]["query"] == {"api-version": VERSION, "identifier": "a|b c"}
    fake.answer("DELETE", DATA + "/terminals/" + "0" * 32, status=204)
    result = call(fake, "session", "terminal", "delete", *where, "--terminal", "0" * 32)
    assert (result.returncode, result.stdout) == (0, b"")
    assert fake.seen[-1]["method"] == "DELETE"
    assert fake.seen[-1]["query"] == {"api-version": VERSION, "identifier": "a|b c"}
    for name, status in (("", 64), ("../session", 66)):
        assert call(fake, "session", "terminal", "delete", *where, "--terminal", name).returncode == status
    assert fake.seen[-1]["path"] == DATA + "/terminals/..%2Fsession"


def test_groups(fake):
    path = f"/subscriptions/{SUB}/resourcegroups/rg"
    fake.answer("PUT", path, {"name": "rg"}, status=201)
    assert ok(call(fake, "group", "create", "-g", "rg", "-l", "local", "--tags", "a=b", "c")) == {"name": "rg"}
    assert json.loads(fake.seen[-1]["body"]) == {"location": "local", "tags": {"a": "b", "c": ""}}
    fake.answer("GET", path, {"name": "rg"})
    assert ok(call(fake, "group", "show", "--name", "rg", "--subscription", SUB)) == {"name": "rg"}
    fake.answer("GET", f"/subscriptions/{SUB}/resourcegroups", {"value": [{"name": "rg"}]})
    assert ok(call(fake, "group", "list")) == [{"name": "rg"}]
    fake.answer("DELETE", path, status=200)
    assert call(fake, "group", "delete", "-n", "rg", "-y").returncode == 0


def test_context_file_and_order(fake, tmp_path):
    context = tmp_path / "ready.json"
    context.write_text(
        json.dumps({"endpoint": fake.url + DATA, "armEndpoint": fake.url, "token": "fromfile", "armToken": "armfile"})
    )
    env = clean_env(BIVOUAC_CONTEXT=str(context))
    fake.answer("POST", DATA + "/executions", {"status": "Succeeded"})
    ok(run("session", "code-interpreter", "execute", "-i", "abcd", "--code", "1", env=env))
    assert fake.seen[-1]["headers"]["authorization"] == "Bearer fromfile"
    ok(run("sessionpool", "show", "-n", "pool1", "-g", "rg", env=env))
    assert fake.seen[-1]["headers"]["authorization"] == "Bearer armfile"
    env["BIVOUAC_ARM_TOKEN"] = "armenv"
    ok(run("sessionpool", "show", "-n", "pool1", "-g", "rg", env=env))
    assert fake.seen[-1]["headers"]["authorization"] == "Bearer armenv"
    ok(run("sessionpool", "show", "-n", "pool1", "-g", "rg", "--arm-token", "armflag", env=env))
    assert fake.seen[-1]["headers"]["authorization"] == "Bearer armflag"
    result = run("sessionpool", "list", "--arm-token", "a\r\nX: y", env=env)
    assert result.returncode == 64 and b"line break" in result.stderr
    context.write_text("[1]")
    assert run("sessionpool", "list", env=clean_env(BIVOUAC_CONTEXT=str(context))).returncode == 65
    assert run("sessionpool", "list", env=clean_env(BIVOUAC_CONTEXT=str(tmp_path / "no"))).returncode == 66
    # An endpoint without a pool's path: the named pool is added.
    ok(run("session", "code-interpreter", "execute", "-n", "pool1", "-g", "rg", "-i", "abcd", "--code", "1",
           "--endpoint", fake.url, "--token", "t"))


SCRIPT = """#!/bin/sh
id=$(printf 'a%.0s' $(seq 64))
[ -f "$1/recipe" ] && [ "$2" = --programs ] && [ -d "$3" ] || exit 9
shift 3
case $1 in
--id) echo $id ;;
--name) echo python ;;
--out)
    [ -e "$2/fail" ] && { echo going wrong; exit 3; }
    echo "BIVOUAC-PROGRESS 10 unpacking" >&3
    echo noise
    mkdir -p "$2/$id/rootfs"
    echo "BIVOUAC-PROGRESS 100 done" >&3 ;;
esac
"""


def test_image(tmp_path):
    script = tmp_path / "data" / "runtimes" / "build-image.sh"
    (script.parent / "python").mkdir(parents=True)
    (script.parent / "python" / "recipe").write_text("name = python\n")
    script.write_text(SCRIPT)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    env = clean_env(BIVOUAC_DATADIR=str(tmp_path / "data"))
    images = str(tmp_path / "images")
    assert ok(run("image", "list", "--image-dir", images, env=env)) == []
    assert run("image", "path", "--image-dir", images, env=env).returncode == 66
    result = run("image", "build", "--image-dir", images, env=env)
    assert ok(result)["id"] == "a" * 64
    assert result.stderr.decode() == " 10% unpacking\n100% done\n"
    path = f"{images}/{'a' * 64}/rootfs"
    assert run("image", "path", "--image-dir", images, env=env).stdout.decode() == path + "\n"
    assert ok(run("image", "list", "--image-dir", images, env=env))[0]["rootfs"] == path
    shutil.rmtree(images)
    os.makedirs(images + "/fail")
    result = run("image", "build", "--image-dir", images, env=env)
    assert result.returncode == 71 and b"going wrong" in result.stderr and b"status 3" in result.stderr
    assert run("image", "build", "--runtime", "cobol", env=env).returncode == 66


def test_token_needs_an_existing_state_directory(tmp_path):
    result = run("token", "--state", str(tmp_path / "none"))
    assert result.returncode == 66 and not (tmp_path / "none").exists()
    assert b"no state directory" in result.stderr
    assert run("token", "--state", str(tmp_path), "--lifetime", "59").returncode == 64
    assert run("token", "--state", str(tmp_path), "--lifetime", "366d").returncode == 64


def test_token(tmp_path):
    os.chmod(tmp_path, 0o700)
    bare = run("token", "--state", str(tmp_path), "--audience", "arm")
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout.count(b"\n") == 1
    answer = ok(run("token", "--state", str(tmp_path), "--lifetime", "1h", "-o", "json"))
    assert answer["tokenType"] == "Bearer" and answer["resource"] == "https://dynamicsessions.io"
