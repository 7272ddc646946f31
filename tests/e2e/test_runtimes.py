# SPDX-License-Identifier: Apache-2.0
"""The runtimes that come with Bivouac: what each pool's default is, and its other languages."""

import json
import pathlib

import pytest

from conftest import BIN_DIR, Pool, pool_body, unique

IMAGES = pathlib.Path("/var/cache/bivouac/images")
LANGUAGES = {
    "PythonLTS": ["python", "shell"],
    "NodeLTS": ["node", "shell"],
    "Shell": ["shell", "python", "node"],
}
# A state set in one cell, and read in the next.
CODE = {
    "python": ("kept = 20", "kept + 1", 21),
    "node": ("var kept = 20", "kept + 1", 21),
}
RUNTIME = {"PythonLTS": "python", "NodeLTS": "node", "Shell": "shell"}


@pytest.fixture(scope="module", params=LANGUAGES)
def typed(request, daemon):
    p = Pool(daemon, unique("runtime"))
    assert p.arm("PUT", pool_body(type=request.param.lower())).ok().json["properties"]["containerType"] == request.param
    p.type = request.param
    yield p
    p.delete()


@pytest.fixture
def session(typed):
    s = typed.session()
    yield s
    s.delete()


def in_context(session, code, **how):
    document = session.post(code, **how).ok().json
    assert document["status"] == "Succeeded", document
    return document["result"]["executionResult"]


def command(session, text):
    document = session.call("POST", "executions", {"shellCommand": text}).ok().json
    assert document["status"] == "0", document
    return document["result"]["stdout"]


def test_every_language_keeps_its_state(session, typed):
    for language in LANGUAGES[typed.type]:
        if language == "shell":
            command(session, "kept=20")
            assert command(session, "echo $((kept + 1))") == "21\n"
            continue
        first, second, value = CODE[language]
        in_context(session, first, language=language)
        assert in_context(session, second, language=language) == value


def test_the_first_language_is_that_of_the_default_context(session, typed):
    contexts = session.call("GET", "contexts").ok().json["value"]
    assert [(c["name"], c["language"]) for c in contexts] == [("default", LANGUAGES[typed.type][0])]


def test_languages_it_does_not_have(session, typed):
    error = session.post("1", language="cobol").error(400)
    for language in LANGUAGES[typed.type]:
        assert language in error["message"]


def test_languages_see_the_same_files(session, typed):
    command(session, "echo hello >note.txt")
    if "python" in LANGUAGES[typed.type]:
        assert in_context(session, "open('note.txt').read()", language="python") == "hello\n"
    if "node" in LANGUAGES[typed.type]:
        read = "require('fs').readFileSync('note.txt', 'utf8')"
        assert in_context(session, read, language="node") == "hello\n"
    assert session.names() == ["note.txt"]


def test_metadata(session, typed):
    document = session.call("GET", "metadata").ok().json
    names = [r["name"] for r in document["runtimes"]]
    assert names[0] == {"PythonLTS": "python", "NodeLTS": "node", "Shell": "bash"}[typed.type]
    assert all(r["version"][0].isdigit() for r in document["runtimes"])
    packages = {p["name"]: p["version"] for p in document["preInstalledPackages"]}
    assert {"PythonLTS": "numpy", "NodeLTS": "lodash", "Shell": "jq"}[typed.type] in packages


def test_what_every_shell_finds(session):
    """GNU tools that clients' uploads and listings are made of, and a place to write."""
    tools = "find awk grep cmp base64 mktemp ln sed tar gzip curl"
    assert command(session, f"type -P {tools} | wc -l").strip() == str(len(tools.split()))
    assert command(session, "pwd; echo $HOME; id -un; test -w /tmp && echo writable").split() == [
        "/mnt/data", "/home/session", "session", "writable",
    ]  # fmt: skip


def test_images_hold_the_programs_of_this_build(typed):
    name = RUNTIME[typed.type]
    image = IMAGES / (BIN_DIR / f"{name}.image-id").read_text().strip()
    assert json.loads((image / "metadata.json").read_text())["runtimes"]
    driver = image / "rootfs/opt/bivouac/bivouac-kernel-shell"
    assert driver.stat().st_mode & 0o7777 == 0o755 and driver.stat().st_uid == 0
    assert driver.read_bytes()[:4] == b"\x7fELF"
