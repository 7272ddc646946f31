# SPDX-License-Identifier: Apache-2.0
"""The runtimes that come with Bivouac: what each pool's default is, and its other languages."""

import json
import pathlib
import subprocess

import pytest

from conftest import BIN_DIR, REPO, Pool, pool_body, unique

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


def script(folder, *arguments):
    command = ["bash", REPO / "runtimes/build-image.sh", folder, "--programs", BIN_DIR, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


RECIPE = "name = mine\ncontainer_type = Mine\n"
PERL = RECIPE + "kernel = perl /usr/bin/perl\n"


@pytest.mark.parametrize(
    "recipe, words",
    [
        (RECIPE, "recipe: no kernel"),
        (PERL + "environment = 1BAD=x\n", "recipe:4: environment is NAME=value"),
        (PERL + "environment = BAD\n", "recipe:4: environment is NAME=value"),
        (PERL + "environment = A=1\n" * 65, "recipe:68: more than 64 lines of environment"),
        (PERL + "terminal = bash -l\n", "recipe:4: terminal: 'bash' is not an absolute path"),
        (PERL + "terminal = @zygote\n", "recipe:4: terminal: '@zygote' is not an absolute path"),
        (PERL + "terminal = /bin/sh\n" * 2, "recipe:5: terminal comes twice"),
        (PERL + "terminal = /bin/sh" + " -x" * 32 + "\n", "recipe:4: terminal has more than 32 words"),
        (PERL + "\n# more\nkernel = perl /bin/false\n", "recipe:6: kernel: language 'perl' comes twice"),
        (PERL + "kernel = Perl /usr/bin/perl\n", "recipe:4: kernel: 'Perl' cannot be a language"),
        (PERL + "kernel = terminal /usr/bin/perl\n", "recipe:4: kernel: 'terminal' cannot be a language"),
        (PERL + "kernel = two perl\n", "recipe:4: kernel: 'perl' is not an absolute path"),
        (PERL + "kernel = two\n", "recipe:4: kernel names no program"),
        (PERL + "kernel = two @zygote\n", "recipe: kernel two: @zygote needs a zygote with an interpreter"),
        (RECIPE + "".join(f"kernel = l{n} /a\n" for n in range(9)), "recipe:11: more than 8 kernels"),
        (PERL + "colour = blue\n", "recipe:4: there is no key 'colour'"),
    ],
)
def test_recipes_that_could_not_run_are_not_built(tmp_path, recipe, words):
    """In the words of who would refuse them at run time."""
    (tmp_path / "recipe").write_text(recipe)
    done = script(tmp_path, "--name")
    assert done.returncode == 1 and done.stderr.strip().endswith(f"{tmp_path}/{words}")


def test_recipes_at_their_bounds_are_built(tmp_path):
    kernels = "".join(f"kernel = l{n} /a\n" for n in range(8))
    terminal = "terminal = /bin/sh" + " -x" * 31 + "\n"
    (tmp_path / "recipe").write_text(RECIPE + kernels + terminal + "environment = A=1\n" * 64)
    done = script(tmp_path, "--name")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")


def test_the_command_says_what_is_wrong_with_a_recipe(tmp_path):
    (tmp_path / "recipe").write_text(PERL + "environment = 1BAD=x\n")
    command = [BIN_DIR / "bivouac", "image", "build", "--from", tmp_path, "--image-dir", tmp_path / "images"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and f"{tmp_path}/recipe:4: environment is NAME=value" in done.stderr
    assert not list((tmp_path / "images").glob("*"))


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


@pytest.mark.parametrize("typed", [t for t in LANGUAGES if "node" in LANGUAGES[t]], indirect=True)
def test_what_the_user_installed_is_found(session, typed):
    """Where `npm install --global --prefix ~/.local` puts modules, by programs and by cells."""
    module = "~/.local/lib/node_modules/left-alone"
    command(session, f"mkdir -p {module} && echo 'module.exports = 6 * 7' >{module}/index.js")
    assert command(session, "node -p 'require(\"left-alone\")'") == "42\n"
    assert in_context(session, "require('left-alone')", language="node") == 42


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
