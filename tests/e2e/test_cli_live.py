# SPDX-License-Identifier: Apache-2.0
"""The command line against a daemon: the commands of the founding documents with `alias az=bivouac`, and the others."""

import base64
import json
import os
import subprocess

import pytest
import survival

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root")

PRELUDE = """
shopt -s expand_aliases
alias az=bivouac
RESOURCE_GROUP="aca-sessions-rg"
LOCATION="eastasia"
SESSION_POOL_NAME="ai-code-interpreter"
"""


@pytest.fixture(scope="module")
def daemon():
    with survival.Daemon("--location", "eastasia", "--egress", "off") as d:
        yield d


@pytest.fixture
def cli(daemon, tmp_path):
    """Runs lines of shell as a user would type them; the result of the last command."""
    env = {
        "PATH": f"{survival.BIN_DIR}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "BIVOUAC_ARM_ENDPOINT": daemon.ready["armEndpoint"],
        "BIVOUAC_ARM_TOKEN": daemon.ready["armToken"],
        "BIVOUAC_TOKEN": daemon.ready["token"],
        "STATE": daemon.state,
    }

    def run(text, status=0, **more):
        done = subprocess.run(
            ["bash", "-c", PRELUDE + text],
            env={**env, **more},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert status is None or done.returncode == status, f"{text}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def pool(cli):
    """The group and the pool of the second founding document, made by its own commands."""
    cli(
        """
az group create --name $RESOURCE_GROUP --location $LOCATION
az containerapp sessionpool create \\
    --name $SESSION_POOL_NAME \\
    --resource-group $RESOURCE_GROUP \\
    --location $LOCATION \\
    --max-sessions 100 \\
    --container-type PythonLTS \\
    --cooldown-period 300
"""
    )
    yield "-n $SESSION_POOL_NAME -g $RESOURCE_GROUP"
    cli("az containerapp sessionpool delete -n $SESSION_POOL_NAME -g $RESOURCE_GROUP --yes")


def test_founding_commands(cli, pool, daemon):
    """Step 1 to 4 of the founding document and its update, as written."""
    endpoint = cli(
        """
SESSION_POOL_ENDPOINT=$(az containerapp sessionpool show \\
    -n $SESSION_POOL_NAME \\
    -g $RESOURCE_GROUP \\
    --query "properties.poolManagementEndpoint" \\
    -o tsv)
echo "Pool Management Endpoint: $SESSION_POOL_ENDPOINT"
"""
    ).stdout
    base = daemon.ready["armEndpoint"]
    path = f"/subscriptions/{survival.SUBSCRIPTION}/resourceGroups/aca-sessions-rg/sessionPools/ai-code-interpreter"
    assert endpoint == f"Pool Management Endpoint: {base}{path}\n"
    r = daemon.request(
        "POST",
        f"{path}/identifier/user-session-1/code/execute?api-version=2024-02-02-preview",
        {
            "properties": {
                "codeInputType": "inline",
                "executionType": "synchronous",
                "code": "import pandas as pd\ndf = pd.DataFrame({'A': [1, 2, 3], 'B': [4, 5, 6]})\nprint(df.describe())",
            }
        },
    )
    assert r.status == 200 and r.json["status"] == "Success", r
    assert r.json["result"]["stdout"].splitlines()[0].split() == ["A", "B"]
    shown = json.loads(cli(f"az containerapp sessionpool show {pool}").stdout)
    assert shown["name"] == "ai-code-interpreter" and shown["type"] == "Microsoft.App/sessionPools"
    assert shown["properties"]["scaleConfiguration"]["maxConcurrentSessions"] == 100
    life = shown["properties"]["dynamicPoolConfiguration"]["lifecycleConfiguration"]
    assert life["cooldownPeriodInSeconds"] == 300
    # Egress is not offered here (it would connect the machine that runs the tests; test_egress.py has a
    # machine of its own): the founding document's update is refused in words, and changes nothing.
    done = cli(
        """
az containerapp sessionpool update \\
    --name $SESSION_POOL_NAME \\
    --resource-group $RESOURCE_GROUP \\
    --session-network-status EgressEnabled
""",
        status=64,
    )
    now = json.loads(cli(f"az containerapp sessionpool show {pool}").stdout)
    network = now["properties"]["sessionNetworkConfiguration"]["status"]
    assert network == "EgressDisabled" and "runs with --egress off" in done.stderr, done.stderr


def test_pool_life(cli, pool):
    shown = json.loads(
        cli(f"az containerapp sessionpool update {pool} --max-sessions 7 --cooldown-period 900 --ready-sessions 1").stdout
    )
    assert shown["properties"]["scaleConfiguration"] == {"maxConcurrentSessions": 7, "readySessionInstances": 1}
    life = shown["properties"]["dynamicPoolConfiguration"]["lifecycleConfiguration"]
    assert life["cooldownPeriodInSeconds"] == 900
    names = cli("az containerapp sessionpool list -g $RESOURCE_GROUP --query '[].name' -o tsv").stdout
    assert names == "ai-code-interpreter\n"
    everywhere = json.loads(cli("az containerapp sessionpool list").stdout)
    assert {p["name"] for p in everywhere} == {"ai-code-interpreter", "default"}
    assert cli("az containerapp sessionpool list --query '[0].properties.provisioningState' -o tsv").stdout == "Succeeded\n"
    other = "-n second-pool -g $RESOURCE_GROUP"
    cli(f"az containerapp sessionpool create {other} -l $LOCATION --max-sessions 5 -o none")
    assert cli(f"bivouac session code-interpreter execute {other} -i short-life --code '6 * 7' --query result.executionResult").stdout == "42\n"
    cli(f"az containerapp sessionpool delete {other} -y")
    gone = cli(f"az containerapp sessionpool show {other}", status=66)
    assert "second-pool" in gone.stderr and not gone.stdout
    assert cli(f"bivouac session code-interpreter execute {other} -i short-life --code 1", status=66).stderr


@pytest.mark.parametrize("word", ["", "containerapp "])
def test_code_interpreter(cli, pool, tmp_path, word):
    run = f"az {word}session code-interpreter"
    me = f"{pool} --identifier cli-user-{len(word)}"
    done = json.loads(cli(f"{run} execute {me} --code 'x = 20\nprint(\"out\")\nx + 1'").stdout)
    assert done["status"] == "Succeeded"
    assert done["result"]["stdout"] == "out\n" and done["result"]["executionResult"] == 21
    # State stays; the code may come from a file or from standard input.
    (tmp_path / "cell.py").write_text("x += 1\nx")
    assert cli(f"{run} execute {me} --code @cell.py --query result.executionResult -o tsv").stdout == "21\n"
    assert cli(f"echo 'x * 2' | {run} execute {me} --code - --query result.executionResult -o tsv").stdout == "42\n"
    failed = json.loads(cli(f"{run} execute {me} --code '1/0'").stdout)
    assert failed["status"] == "Failed" and "ZeroDivisionError" in failed["result"]["stderr"]
    late = json.loads(cli(f"{run} execute {me} --timeout-in-seconds 1 --code 'while True: pass'").stdout)
    assert late["status"] == "Failed" and "timed out" in late["result"]["stderr"]
    # Files.
    data = bytes(range(256)) * 5000
    (tmp_path / "data.bin").write_bytes(data)
    (tmp_path / "notes.txt").write_text("línea\nzwei\n")
    up = json.loads(cli(f"{run} upload-file {me} --filepath data.bin").stdout)
    assert (up["name"], up["sizeInBytes"]) == ("data.bin", len(data))
    cli(f"{run} upload-file {me} --filepath notes.txt --path sub/dir -o none")
    top = json.loads(cli(f"{run} list-files {me}").stdout)
    rows = top["value"] if isinstance(top, dict) else top
    assert [(f["name"], f["type"]) for f in rows] == [("data.bin", "file"), ("sub", "directory")]
    below = json.loads(cli(f"{run} list-files {me} --path sub/dir").stdout)
    rows = below["value"] if isinstance(below, dict) else below
    assert [f["name"] for f in rows] == ["notes.txt"]
    shown = json.loads(cli(f"{run} show-file-content {me} --filename sub/dir/notes.txt").stdout)
    assert shown == "línea\nzwei\n"
    cli(f"{run} show-file-content {me} --filename data.bin --output-file back.bin")
    assert (tmp_path / "back.bin").read_bytes() == data
    about = json.loads(cli(f"{run} show-file-metadata {me} --filename notes.txt --path sub/dir").stdout)
    assert (about["name"], about["sizeInBytes"], about["type"]) == ("notes.txt", 12, "file")
    assert cli(f"{run} execute {me} --code 'import os; str(sorted(os.listdir()))' --query result.executionResult -o tsv").stdout == "['data.bin', 'sub']\n"
    cli(f"{run} delete-file {me} --filename data.bin --yes")
    assert "data.bin" in cli(f"{run} show-file-metadata {me} --filename data.bin", status=66).stderr
    # Sessions.
    listed = json.loads(cli(f"az {word}session list {pool}").stdout)
    assert f"cli-user-{len(word)}" in {s["identifier"] for s in listed}
    assert "stopped" in cli(f"az {word}session stop {me}").stdout
    listed = json.loads(cli(f"az {word}session list {pool}").stdout)
    assert f"cli-user-{len(word)}" not in {s["identifier"] for s in listed}
    fresh = json.loads(cli(f"{run} execute {me} --code x").stdout)
    assert fresh["status"] == "Failed" and "NameError" in fresh["result"]["stderr"]


def test_long_paths(cli, pool, tmp_path):
    """Directories of many characters are found; what is too long is never another file."""
    run = "az session code-interpreter"
    me = f"{pool} -i cli-long-paths"
    directory = "/".join(["汉" * 60] * 8)
    for name, where in (("root", ""), ("deep", f"--path {directory}")):
        (tmp_path / "keep.txt").write_text(name)
        cli(f"{run} upload-file {me} --filepath keep.txt {where} -o none")
    shown = cli(f"{run} show-file-content {me} --path {directory} --filename keep.txt")
    assert json.loads(shown.stdout) == "deep"
    cli(f"{run} delete-file {me} --path {directory} --filename keep.txt -y")
    cli(f"{run} show-file-metadata {me} --path {directory} --filename keep.txt", status=66)
    long = cli(f"{run} delete-file {me} --path $(printf 'a%.0s' $(seq 20000)) --filename keep.txt -y", status=64)
    assert "--path" in long.stderr and "16384" in long.stderr
    # The longest that fits the server's limit gets its word, not that of the HTTP library.
    most = "/".join(["汉" * 85] * 15)
    missing = cli(f"{run} delete-file {me} --path {most} --filename {'汉' * 85} -y", status=66)
    assert "FileNotFound" in missing.stderr
    assert json.loads(cli(f"{run} show-file-content {me} --filename keep.txt").stdout) == "root"


def test_by_endpoint_alone(cli, daemon):
    """Without a pool's name: --endpoint, or the variable, as a program with a token of its own has it."""
    run = "bivouac session code-interpreter execute -i endpoint-user --code '2 ** 10' --query result.executionResult"
    alone = {"BIVOUAC_ARM_ENDPOINT": "", "BIVOUAC_ARM_TOKEN": ""}
    endpoint = daemon.ready["endpoint"]
    assert cli(run, **alone, BIVOUAC_ENDPOINT=endpoint).stdout == "1024\n"
    assert cli(f"{run} --endpoint {endpoint}/", **alone).stdout == "1024\n"
    assert cli(f"{run} --endpoint {endpoint} --token wrong", status=77, **alone).stderr


def test_output_formats(cli, pool):
    cli(f"bivouac session code-interpreter execute {pool} -i format-one --code 1 -o none")
    cli(f"bivouac session code-interpreter execute {pool} -i format-two --code 1 -o none")
    table = cli(f"bivouac session list {pool} -o table").stdout.splitlines()
    assert len(table) >= 3
    assert "identifier" in table[0].lower()
    assert any("format-one" in line for line in table) and any("format-two" in line for line in table)
    tsv = cli(f"bivouac session list {pool} -o tsv").stdout.splitlines()
    assert len(tsv) == 2 and all("\t" in line for line in tsv)
    as_json = json.loads(cli(f"bivouac session list {pool} -o json").stdout)
    assert [s["identifier"] for s in as_json] == ["format-one", "format-two"]
    assert cli(f"bivouac session list {pool} --query '[1].identifier' -o tsv").stdout == "format-two\n"
    assert cli(f"bivouac session list {pool} --query '[].identifier' -o tsv").stdout == "format-one\nformat-two\n"
    assert cli(f"bivouac session list {pool} -o none").stdout == ""
    pools = cli("az containerapp sessionpool list -g $RESOURCE_GROUP -o table").stdout.splitlines()
    assert pools[0].split()[:2] == ["Name", "Location"]
    assert [line.split()[:2] for line in pools[-1:]] == [["ai-code-interpreter", "eastasia"]], pools


def test_tokens(cli, daemon):
    """Tokens of the built-in issuer, made beside the daemon with nothing but its state directory."""
    token = cli("bivouac token --state $STATE").stdout.strip()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["aud"] == "https://dynamicsessions.io"
    run = "bivouac session code-interpreter execute -i token-user --code '3 + 4' --query result.executionResult"
    endpoint = daemon.ready["endpoint"]
    none = {"BIVOUAC_ARM_TOKEN": "", "BIVOUAC_TOKEN": "", "BIVOUAC_ENDPOINT": endpoint}
    assert cli(run, **{**none, "BIVOUAC_TOKEN": token}).stdout == "7\n"
    # A token for one plane is none for the other.
    cli("az group list", status=77, BIVOUAC_ARM_TOKEN=token)
    arm = cli("bivouac token --state $STATE --audience arm --lifetime 5m --oid 11111111-1111-1111-1111-111111111111").stdout.strip()
    assert json.loads(cli("az group list", BIVOUAC_ARM_TOKEN=arm).stdout)
    assert cli(run, status=77, **{**none, "BIVOUAC_TOKEN": arm}).stderr
    whole = json.loads(cli("bivouac token --state $STATE -o json").stdout)
    assert whole["tokenType"] == "Bearer" and whole["accessToken"].count(".") == 2
    # No directory, no new issuer.
    assert "nowhere" in cli("bivouac token --state ./nowhere", status=66).stderr
    cli("test ! -e ./nowhere")


def test_errors(cli, pool):
    """Every error is a sentence on stderr with an exit status of its own."""
    short = cli(f"bivouac session code-interpreter execute {pool} -i abc --code 1", status=64)
    assert "identifier" in short.stderr and not short.stdout
    cli("bivouac session list -n no-such-pool -g $RESOURCE_GROUP", status=66)
    cli(f"bivouac session list {pool}", status=69, BIVOUAC_ARM_ENDPOINT="http://127.0.0.1:9")
    cli(f"bivouac session list {pool}", status=77, BIVOUAC_TOKEN="nonsense")
    assert "group" in cli("az containerapp sessionpool create -n lonely-pool -g no-such-group -l $LOCATION", status=66).stderr.lower()
    bad = cli("az containerapp sessionpool create -n bad-pool -g $RESOURCE_GROUP -l $LOCATION --cooldown-period 5", status=64)
    assert "cooldown" in bad.stderr.lower()
    assert "never-was-here" in cli(f"bivouac session stop {pool} -i never-was-here", status=66).stderr


def test_delete_group_takes_its_pools(cli):
    cli("az group create -n short-rg -l $LOCATION -o none")
    cli("az containerapp sessionpool create -n inner-pool -g short-rg -l $LOCATION -o none")
    cli("bivouac session code-interpreter execute -n inner-pool -g short-rg -i inner-user --code 1 -o none")
    cli("az group delete -n short-rg --yes")
    cli("az group show -n short-rg", status=66)
    cli("az containerapp sessionpool show -n inner-pool -g short-rg", status=66)
