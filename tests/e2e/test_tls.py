# SPDX-License-Identifier: Apache-2.0
"""HTTPS: strict clients, the daemon's own authority, certificates that are replaced, bad clients."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse

import pytest

from conftest import BIN_DIR, Client, Daemon, Pool, Reply, wait_for


def strict(ca_file, **kw):
    """What the strictest of clients check."""
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_TRUSTED_FIRST
    for name, value in kw.items():
        setattr(context, name, value)
    return context


class TlsClient(Client):
    def __init__(self, address, token, context):
        super().__init__(address, token)
        self.context = context

    def request(self, method, path, body=None, headers=None, token=True, timeout=90):
        sent = {"Authorization": f"Bearer {self.token}"} if token else {}
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        connection = http.client.HTTPSConnection(
            *self.address, timeout=timeout, context=self.context
        )
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())


def tls_address(daemon):
    url = urllib.parse.urlsplit(daemon.ready["tlsEndpoint"])
    assert url.scheme == "https"
    return url.hostname, url.port


def connect(daemon, context, name="127.0.0.1"):
    raw = socket.create_connection(tls_address(daemon), timeout=20)
    try:
        return context.wrap_socket(raw, server_hostname=name)
    except BaseException:
        raw.close()
        raise


def health(sock):
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
    response = http.client.HTTPResponse(sock, method="GET")
    response.begin()
    response.read()
    return response.status


def serial(sock):
    return int(sock.getpeercert()["serialNumber"], 16)


@pytest.fixture(scope="module")
def tls_daemon():
    daemon = Daemon("--tls-listen", "127.0.0.1:0", "--head-timeout", "2")
    yield daemon
    daemon.stop()
    daemon.remove()


@pytest.fixture
def context(tls_daemon):
    return strict(tls_daemon.ready["caFile"])


@pytest.fixture
def client(tls_daemon, context):
    return TlsClient(tls_address(tls_daemon), tls_daemon.token, context)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
def test_names(tls_daemon, context, name):
    with connect(tls_daemon, context, name) as sock:
        assert health(sock) == 200


def test_ready_line(tls_daemon):
    ready = tls_daemon.ready
    path = urllib.parse.urlsplit(ready["endpoint"]).path
    assert ready["tlsEndpoint"] == "https://%s:%d" % tls_address(tls_daemon) + path
    assert pathlib.Path(ready["caFile"]) == tls_daemon.state_dir / "tls" / "ca.pem"


def test_curl(tls_daemon):
    base = "https://%s:%d" % tls_address(tls_daemon)
    command = ["curl", "-sS", "--cacert", tls_daemon.ready["caFile"], base + "/health"]
    assert json.loads(subprocess.check_output(command)) == {"status": "healthy"}
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.check_output(["curl", "-s", base + "/health"])


def test_protocols(tls_daemon, context):
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(tls_daemon, context) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert sock.version() == "TLSv1.3"
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError):
        connect(tls_daemon, context)
    old = strict(tls_daemon.ready["caFile"], maximum_version=ssl.TLSVersion.TLSv1_2)
    with connect(tls_daemon, old) as sock:
        assert sock.version() == "TLSv1.2" and "ECDHE" in sock.cipher()[0]
        assert health(sock) == 200
    # 1.1 is asked for in raw bytes, as this machine's OpenSSL may refuse by itself.
    with socket.create_connection(tls_address(tls_daemon), timeout=20) as sock:
        suites = b"\x00\x04\xc0\x09\xc0\x13"
        body = b"\x03\x02" + os.urandom(32) + b"\x00" + suites + b"\x01\x00"
        hello = b"\x01" + len(body).to_bytes(3, "big") + body
        sock.sendall(b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello)
        answer = sock.recv(100)
        assert answer == b"" or answer[0] == 21  # an alert


def test_plain_on_the_tls_port(tls_daemon):
    with socket.create_connection(tls_address(tls_daemon), timeout=20) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(1000):
                answer += piece
        assert b"HTTP/" not in answer and b"healthy" not in answer


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"])
def test_handshake_that_stalls(tls_daemon, hello):
    """Ends with the time for a head, long before the idle timeout."""
    with socket.create_connection(tls_address(tls_daemon), timeout=30) as sock:
        sock.sendall(hello)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1000):
                pass


def test_idle_after_the_handshake(tls_daemon, context):
    """Only a head that has begun is under the time for heads."""
    with connect(tls_daemon, context) as sock:
        sock.settimeout(5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(20)
        assert health(sock) == 200
        time.sleep(0.5)  # the kernel's clock for what came last is coarse
        sock.sendall(b"GET /hea")
        answer = b""
        while piece := sock.recv(1000):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ") and b"RequestTimeout" in answer


def test_sessions_and_files(tls_daemon, client):
    pool = Pool(tls_daemon, "default")
    pool.client = client
    session = pool.session()
    assert session.post("print(6 * 7)").ok().json["result"]["stdout"] == "42\n"
    data = os.urandom(20_000_000)
    session.upload(("big.bin", data)).ok()
    reply = session.download("big.bin").ok()
    assert reply.body == data
    code = "import hashlib; print(hashlib.sha256(open('/mnt/data/big.bin','rb').read()).hexdigest())"
    digest = session.post(code).ok().json["result"]["stdout"].strip()
    assert digest == hashlib.sha256(data).hexdigest()
    session.delete()


def test_links_name_https(tls_daemon, context):
    arm = TlsClient(tls_address(tls_daemon), tls_daemon.arm_token, context)
    path = urllib.parse.urlsplit(tls_daemon.ready["endpoint"]).path
    path = path.replace("/sessionPools/", "/providers/Microsoft.App/sessionPools/")
    document = arm.request("GET", f"{path}?api-version=2025-07-01").ok().json
    endpoint = document["properties"]["poolManagementEndpoint"]
    assert endpoint.startswith("https://%s:%d/" % tls_address(tls_daemon))


def test_restart_keeps_the_authority():
    daemon = Daemon("--tls-listen", "127.0.0.1:0")
    try:
        folder = daemon.state_dir / "tls"
        ca = (folder / "ca.pem").read_bytes()
        server = (folder / "server.pem").read_bytes()
        for name, mode in [("ca-key.pem", 0o600), ("server-key.pem", 0o600), ("ca.pem", 0o644)]:
            assert (folder / name).stat().st_mode & 0o777 == mode
        daemon.stop()
        daemon.start()
        assert (folder / "ca.pem").read_bytes() == ca
        assert (folder / "server.pem").read_bytes() == server
        daemon.stop()
        # One that ends within 30 days is replaced, by one of the same authority.
        make_certificate(folder, "server", days=29, ca=folder)
        short = (folder / "server.pem").read_bytes()
        daemon.start()
        assert (folder / "server.pem").read_bytes() != short
        assert (folder / "ca.pem").read_bytes() == ca
        with connect(daemon, strict(folder / "ca.pem")) as sock:
            assert health(sock) == 200
        daemon.stop()
    finally:
        daemon.remove()


# ---- certificates of the user's ----


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def make_certificate(folder, name, days=90, ca=None):
    """NAME.pem and NAME-key.pem in folder: self-signed, or signed by ca.pem in `ca`."""
    folder.mkdir(parents=True, exist_ok=True)
    extensions = folder / f"{name}.ext"
    extensions.write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
        "keyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\nbasicConstraints=critical,CA:FALSE\n"
    )
    key, request, cert = (folder / f"{name}{end}" for end in ("-key.pem", ".csr", ".pem"))
    cert.unlink(missing_ok=True)
    key.unlink(missing_ok=True)
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            "/CN=localhost", "-keyout", key, "-out", request)
    signer = ["-CA", ca / "ca.pem", "-CAkey", ca / "ca-key.pem", "-CAcreateserial"] if ca else []
    signer = signer or ["-signkey", key]
    openssl("x509", "-req", "-in", request, "-days", days, "-extfile", extensions, "-out", cert,
            *signer)
    key.chmod(0o600)
    request.unlink()
    extensions.unlink()
    return cert, key


@pytest.fixture
def live(tmp_path):
    """As certbot keeps them: live/*.pem are links into archive/, which only root may enter."""
    archive, current = tmp_path / "archive", tmp_path / "live"
    current.mkdir(mode=0o700)
    archive.mkdir(mode=0o700)

    class Live:
        cert, key = current / "fullchain.pem", current / "privkey.pem"

        def switch(self, name, key_name=None):
            for link, target in [(self.cert, f"{name}.pem"), (self.key, f"{key_name or name}-key.pem")]:
                new = link.with_suffix(".new")
                new.symlink_to(archive / target)
                new.rename(link)

        def make(self, name, **kw):
            return make_certificate(archive, name, **kw)

    live = Live()
    live.make("one")
    live.switch("one")
    return live


def options(live):
    return ["--tls-listen", "127.0.0.1:0", "--tls-certificate", live.cert, "--tls-key", live.key]


def hang_up(daemon, says):
    before = daemon.stderr().count(says)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.stderr().count(says) > before, 10, says)


def any_server():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def served(daemon):
    """The certificate that a new connection is shown."""
    with connect(daemon, any_server()) as sock:
        assert health(sock) == 200
        return ssl.DER_cert_to_PEM_cert(sock.getpeercert(True))


def pem(path):
    text = path.read_text()
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(text))


def test_reload(live):
    daemon = Daemon(*options(live))
    kept = "TLS certificate and key stay as they are"
    try:
        assert "caFile" not in daemon.ready
        one = pem(live.cert)
        assert served(daemon) == one
        with connect(daemon, any_server()) as old:
            assert health(old) == 200
            live.make("two")
            live.switch("two")
            hang_up(daemon, "read anew")
            two = pem(live.cert)
            assert two != one and served(daemon) == two
            assert health(old) == 200  # goes on with what it began with
        # A pair that does not fit, a file that is none, one that is gone: the one in use stays.
        live.make("three")
        live.switch("three", "two")
        hang_up(daemon, kept)
        assert "the key does not belong to the certificate" in daemon.stderr()
        live.switch("nowhere")
        hang_up(daemon, kept)
        assert f"--tls-certificate {live.cert}: No such file" in daemon.stderr()
        live.switch("three")
        live.cert.unlink()
        live.cert.mkdir()
        hang_up(daemon, kept)
        assert f"--tls-certificate {live.cert}: not a regular file" in daemon.stderr()
        live.cert.rmdir()
        live.cert.write_text("no certificate\n")
        hang_up(daemon, kept)
        assert "no certificate in PEM form" in daemon.stderr()
        assert served(daemon) == two
        live.cert.unlink()
        live.switch("three")
        hang_up(daemon, "read anew")
        assert served(daemon) == pem(live.cert)
        daemon.stop()
    finally:
        daemon.remove()


def test_without_the_keeper(live):
    daemon = Daemon(*options(live))
    try:
        children = pathlib.Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        names = {pathlib.Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in children}
        keeper = next(pid for name, pid in names.items() if name.startswith("bivouac-tls"))
        status = pathlib.Path(f"/proc/{keeper}/status").read_text()
        assert "CapEff:\t0000000000000004" in status  # CAP_DAC_READ_SEARCH
        os.kill(keeper, signal.SIGKILL)
        hang_up(daemon, "bivouac-tls-keeper has ended")
        assert served(daemon) == pem(live.cert)
        daemon.stop()
    finally:
        daemon.remove()


def test_expired(live):
    live.make("old", days=-1)
    live.switch("old")
    daemon = Daemon(*options(live))
    try:
        assert "the TLS certificate has expired" in daemon.stderr()
        assert served(daemon) == pem(live.cert)
        daemon.stop()
    finally:
        daemon.remove()


def refused(*options):
    """Starts a daemon that must not start; what it says."""
    with tempfile.TemporaryDirectory(prefix="bivouac-e2e-") as where:
        os.chmod(where, 0o755)  # for the daemon's user
        command = [BIN_DIR / "bivouacd", "--listen", "127.0.0.1:0", "--state", f"{where}/state"]
        command += ["--run-dir", f"{where}/run", *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, -signal.SIGSYS), done
    return done.stderr


def test_bad_settings(tmp_path, live):
    listen = ["--tls-listen", "127.0.0.1:0"]
    cert, key = ["--tls-certificate", live.cert], ["--tls-key", live.key]
    assert "--tls-key is missing" in refused(*listen, *cert)
    assert "--tls-certificate is missing" in refused(*listen, *key)
    assert "without --tls-listen" in refused(*cert, *key)
    assert "--tls-listen needs --tls-certificate" in refused(*listen)
    bad = refused("--tls-listen", "nowhere", *cert, *key)
    assert "--tls-listen must be ADDR:PORT" in bad
    bad = refused("--tls-listen", "192.0.2.1:1", *cert, *key)
    assert "--tls-listen: " in bad and "192.0.2.1" in bad
    other = tmp_path / "other.pem"
    gone = refused(*listen, *cert, "--tls-key", other)
    assert f"--tls-key {other}: No such file" in gone
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", other)
    wrong = refused(*listen, *cert, "--tls-key", other)
    assert "does not belong to the certificate" in wrong and str(other) in wrong
    locked = tmp_path / "locked.pem"
    openssl("pkey", "-in", live.key, "-aes128", "-passout", "pass:x", "-out", locked)
    assert "without passphrase" in refused(*listen, *cert, "--tls-key", locked)
    other.write_bytes(b"x" * (1024 * 1024 + 1))
    assert "larger than 1 MiB" in refused(*listen, "--tls-certificate", other, *key)
