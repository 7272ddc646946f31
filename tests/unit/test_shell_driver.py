# SPDX-License-Identifier: Apache-2.0
"""The shell kernel driver, spoken to over its protocol (src/base/kernel_proto.h).

    BIVOUAC_BIN_DIR=build /usr/bin/python3 -m pytest tests/unit/test_shell_driver.py

The test stands for launcher and agent: a socket as descriptor 3, pipes as 1 and 2, a directory.
"""

import os
import pathlib
import re
import socket
import struct
import time
import types

import pytest

from kernel_peer import ARGV, INT, INTERRUPTED, NONE, OK, RUN, STREAM, Peer, blob, frame, run_frame

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("BIVOUAC_BIN_DIR", ROOT / "build")).resolve()
DRIVER = BIN_DIR / "bivouac-kernel-shell-sanitized"  # in builds with sanitizers
if not DRIVER.exists():
    DRIVER = BIN_DIR / "bivouac-kernel-shell"

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SHELL": "/bin/bash",
}


class Kernel(Peer):
    def __init__(self, directory, warm=True):
        super().__init__()
        pairs = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        self.launch(["/usr/bin/env", "-i", *pairs, DRIVER], cwd=directory)
        if warm:
            self.sock.sendall(run_frame(0, b"None"))
            got = self.finish()
            assert (got.code, got.out, got.err) == (0, "", "")

    def finish(self, timeout=30.0):
        status, kind, blobs, displays = self.read_done(timeout)
        assert displays == []
        code, *error = (part.decode() for part in blobs)
        if status == OK:
            # The agent wants to know of those that may have ended for lack of memory.
            name = "Killed" if code == "137" else ""
            assert kind == INT and error == [name, "", ""]
        else:
            assert (status, kind, code) == (INTERRUPTED, NONE, "")
            assert error[0] == "Interrupted" and error[1]
        out, err = self.take_output()
        return types.SimpleNamespace(
            status=status, code=int(code) if status == OK else None, raw=out,
            out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"),
        )  # fmt: skip

    def argv(self, *words):
        self.start(b"".join(os.fsencode(word) + b"\0" for word in words), ARGV)
        return self.finish()

    def good(self, code):
        """Output of a command that must succeed in silence."""
        got = self.run(code)
        assert (got.status, got.code, got.err) == (OK, 0, ""), got
        return got.out

    def wait_process(self, name):
        """Wait for a program: one that is just being forked can miss a signal to its group."""
        deadline = time.monotonic() + 30
        while True:
            for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
                try:
                    comm, rest = path.read_text().split("(", 1)[1].rsplit(")", 1)
                except OSError:
                    continue
                if comm == name and int(rest.split()[3]) == self.pid:  # of its session
                    return
            assert time.monotonic() < deadline, "the program did not start"


@pytest.fixture
def kernel(tmp_path):
    made = Kernel(tmp_path)
    yield made
    assert made.close() == 0


# Commands


def test_exit_code_and_streams(kernel, tmp_path):
    got = kernel.run("echo hello; echo error >&2; (exit 3)")
    assert (got.status, got.code, got.out, got.err) == (OK, 3, "hello\n", "error\n")
    assert kernel.good("pwd") == f"{tmp_path}\n"


@pytest.mark.parametrize(
    "code, exit_code",
    [
        ("true", 0),
        ("", 0),
        ("# nothing", 0),
        ("false", 1),
        ("(exit 255)", 255),
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 256", 0),
        ("set -e; false; exit 3", 1),
        ("set -u; : $unset_variable; exit 9", 1),
        ("set -o pipefail; (exit 5) | true", 5),
        (": ${unset_variable:?}", 1),
        ("exec sh -c 'exit 6'", 6),
        ("exec /nonexistent", 127),
        ("kill $$", 143),
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
        ("kill 0", 143),
        ("sh -c 'kill -9 $$'", 137),
        ("nonexistent-command", 127),
        ("/", 126),
        ("if", 2),
        ("trap 'exit 4' EXIT; exit 5", 4),
        ("return 5", 2),
        ("f() { exit 8; }; f", 8),
    ],
)
def test_exit_codes(kernel, code, exit_code):
    kernel.good("kept=yes")
    got = kernel.run(code)
    assert (got.status, got.code, got.out) == (OK, exit_code, "")
    assert kernel.good("echo alive $kept") == "alive yes\n"


STRAY = "bash: break or continue outside of a loop: the rest of the command was not run\n"


@pytest.mark.parametrize(
    "code, exit_code, out, err",
    [
        ("echo a\nnope\necho b", 0, "a\nb\n", "bash: line 2: nope: command not found\n"),
        ('echo "unbalanced', 2, "", "bash: eval: line 1: unexpected EOF while looking for matching `\"'\n"),
        ("echo a\nif true; then", 2, "a\n", "bash: eval: line 3: syntax error: unexpected end of file\n"),
        ("fi", 2, "", "bash: eval: line 1: syntax error near unexpected token `fi'\nbash: eval: line 1: `fi'\n"),
        ("cat <<END\nhere $((1 + 1))\nEND", 0, "here 2\n", ""),
        ("cat <<'END'\n$(no) `no` \\\nEND", 0, "$(no) `no` \\\n", ""),
        ('cat; read x; echo "$? [$x]"', 0, "1 []\n", ""),
        ("echo a\\\nb", 0, "ab\n", ""),
        ("echo end\\ ", 0, "end \n", ""),
        ("  echo  indented  ", 0, "indented\n", ""),
        ("echo 'ä €' \"$((6*7))\"", 0, "ä € 42\n", ""),
        ("echo one; break; echo two", 1, "one\n", STRAY),
        ("echo one; continue; echo two", 1, "one\n", STRAY),
        ("for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; done", 0, "1\n3\n", ""),
        ("echo $((1 / 0))\necho next", 0, "next\n", 'bash: line 1: 1 / 0: division by 0 (error token is "0")\n'),
        ('echo "$0 $#"', 0, "bash 0\n", ""),
    ],
)
def test_command_texts(kernel, code, exit_code, out, err):
    got = kernel.run(code)
    assert (got.status, got.code, got.out, got.err) == (OK, exit_code, out, err)
    assert kernel.good("echo alive") == "alive\n"


def test_commands_are_data(kernel, tmp_path):
    for text in ("'\"; touch made; '", "$(touch made)\n'", "`touch made", '"; touch made #\n"\n\''):
        got = kernel.run(f"cat <<'E_O_F'\n{text}\nE_O_F")
        assert (got.code, got.out) == (0, text + "\n")
    assert not (tmp_path / "made").exists()


def test_binary_output(kernel):
    assert kernel.run("printf 'a\\0\\377b'; head -c 1000000 /dev/zero").raw == b"a\0\xffb" + bytes(1000000)
    got = kernel.run(b"printf '\xff\xfe'")
    assert (got.code, got.raw) == (0, b"\xff\xfe")


def test_nul_is_refused(kernel):
    got = kernel.run(b"echo one\0two")
    assert (got.code, got.out) == (2, "")
    assert "NUL" in got.err
    assert kernel.good("echo alive") == "alive\n"


def test_large_command(kernel):
    text = "x" * (8 << 20)
    assert kernel.good(f"v={text}; echo ${{#v}}") == f"{8 << 20}\n"
    assert kernel.good("echo ${#v}; unset v") == f"{8 << 20}\n"


def test_frames_in_one_write(kernel):
    frames = [run_frame(i, b"echo %d" % i, STREAM) for i in range(1, 6)]
    kernel.sock.sendall(b"".join(frames))
    assert "".join(kernel.finish().out for _ in frames) == "1\n2\n3\n4\n5\n"


# State


def test_state_is_kept_between_commands(kernel):
    kernel.good(
        "mkdir -p a/b; cd a/b; export E=exported; v='plain  text'; f() { echo \"f: $1\"; }; arr=(1 2 3)\n"
        "shopt -s extglob; set -o pipefail; alias greet='echo hi'; shopt -s expand_aliases; umask 027; exec 7>log"
    )
    got = kernel.good(
        'echo "$E $v ${arr[1]}"; f x; basename "$PWD"\ngreet; umask; [[ aab == +(a)b ]] && echo glob\n'
        "echo $SHELLOPTS | grep -o pipefail; echo line >&7; cat log"
    )
    assert got == "exported plain  text 2\nf: x\nb\nhi\n0027\nglob\npipefail\nline\n"


def test_directory_and_environment_as_of_the_exit(kernel, tmp_path):
    kernel.good("mkdir sub")
    assert kernel.run("cd sub; export E='a  b'; v='c\nd'; f() { echo f; }; umask 077; alias x=y; exit 4").code == 4
    got = kernel.good('echo "$E" "$v" "${PWD##*/}"; f; umask; alias; sh -c \'echo "$E $v"\'')
    assert got == "a  b c\nd sub\nf\n0077\nalias x='y'\na  b \n"
    assert kernel.good("echo $OLDPWD") == f"{tmp_path}\n"


VALUES = r"""
declare -A map=([key]=value [two words]="a 'b' \"c\" \$d")
arr=([3]=three [10]=$'tab\there')
declare -r constant=5
declare -i number=7
declare -n reference=constant
bytes=$'\x01\xff'
helper() { case $1 in @(a|b)) echo "matched $1";; *) cat <<EOF
text of $1
EOF
;; esac; }
simple() { echo "simple $1"; }
export -f simple
"""
SHOW = r"""
echo "${map[key]} ${map[two words]} ${!arr[*]} ${arr[10]} $constant $reference"
number+=1; echo $number; printf %s "$bytes" | od -An -tx1
helper a; helper c; bash -c 'simple d'
"""


def test_kinds_of_variables_outlive_the_shell(kernel):
    kernel.good("shopt -s extglob")
    kernel.good(VALUES)
    before = kernel.good(SHOW)
    assert "value a 'b' \"c\" $d 3 10 tab\there 5 5\n8\n 01 ff\nmatched a\ntext of c\nsimple d\n" == before
    kernel.good("number=7; exit")
    assert kernel.good(SHOW) == before
    assert kernel.run("constant=6").code == 1


def test_options_that_end_shells_do_not_outlive_them(kernel):
    assert kernel.run("set -eu; false").code == 1
    got = kernel.run("false; echo on${unset_variable}")
    assert (got.code, got.out) == (0, "on\n")


@pytest.mark.parametrize("end", ["kill -9 $$", "exec true", "trap 'true' EXIT; exit", "ulimit -f 0; exit"])
def test_without_our_exit_trap_state_is_that_of_the_last_command(kernel, end):
    kernel.good("mkdir d; cd d; export E=1; v=2; f() { echo 3; }")
    kernel.run(f"cd ..; E=4; v=5; {end}")
    assert kernel.good('echo "$E $v ${PWD##*/}"; f') == "1 2 d\n3\n"


def test_exit_within_a_function_does_not_leak_its_locals(kernel):
    kernel.good("v=global; IFS=:")
    kernel.run("f() { local v=local IFS=,; cd /; exit 3; }; f")
    assert kernel.good('echo "$v" "${IFS@Q}" "$PWD"') == "global ':' /\n"


def test_unset_stays_unset(kernel):
    kernel.good("unset LANG; exit")
    assert kernel.good("echo ${LANG-unset}; env | grep -c ^LANG= || true") == "unset\n0\n"


def test_large_state_outlives_an_exit(kernel):
    kernel.good("big=$(head -c 3000000 /dev/zero | tr '\\0' x); small=1")
    kernel.good("small=2")
    kernel.good("small=3; exit")
    assert kernel.good("echo ${#big} $small") == "3000000 3\n"


def test_background_jobs_go_on(kernel):
    started = time.monotonic()
    kernel.good("mkfifo go; sleep 60 & nohup sh -c 'read x <go; echo late >done' >/dev/null 2>&1 &")
    assert time.monotonic() - started < 50
    assert kernel.good("jobs -r | wc -l; echo >go; wait %2; cat done; kill %1") == "2\nlate\n"


def test_background_output_does_not_delay_done(kernel, tmp_path):
    kernel.good("mkfifo go; (read x <go; echo from background) &")
    (tmp_path / "go").write_text("\n")
    kernel.wait_for("from background")


def test_no_zombies(kernel):
    kernel.good("for i in {1..50}; do true & done; for i in {1..5}; do /bin/true; done; wait")
    for _ in range(3):
        kernel.run("exit 1")
    pid = kernel.pid
    shell = kernel.good("echo $$").strip()
    assert kernel.good(f"cat /proc/{pid}/task/{pid}/children").split() == [shell]
    assert len(kernel.good("cat /proc/$$/task/$$/children").split()) == 1  # the cat itself


# What commands may break


BREAKAGE = [
    "unset PATH HOME IFS PS4 BASH_VERSION BIVOUAC", "PATH=", "IFS=osw; IFS=e", "PS4='$(exit 3)'; set -x",
    "set -u", "set -v", "set -f", "set -C", "set -o posix", "POSIXLY_CORRECT=1", "set -k", "set -a", "set -b",
    "set -m", "set -T; set -E", "set +B +h", "TMOUT=1", "LC_ALL=C LANG=xx", "LINENO=7 SECONDS=0 RANDOM=1",
    "shopt -s extdebug", "shopt -s nullglob failglob dotglob nocasematch nocaseglob globstar lastpipe",
    "shopt -s expand_aliases; alias eval=false printf=false for=false",
    "eval() { false; }", "printf() { false; }; read() { false; }; exit() { false; }; trap() { false; }",
    "mapfile() { false; }; declare() { false; }; .() { false; }; :() { false; }; unset() { false; }",
    "enable -n eval printf", "exec 1>&-", "exec 2>&- 1>&- 0<&-", "exec >file 2>&1", "exec <file.txt",
    "exec 0</dev/zero 10</dev/zero 11</dev/zero 12</dev/zero", "exec 10>&- 11>&- 12>&- 255>&-",
    "mkdir gone; cd gone; rmdir ../gone", "umask 777", "ulimit -f 0", "ulimit -n 12", "ulimit -n 5", "ulimit -c 0",
    "trap 'echo trapped' DEBUG", "trap 'echo trapped' ERR RETURN", "trap '' INT TERM", "trap - EXIT INT",
    "set -- -e a b", "BIVOUAC=x", "declare -A other; BIVOUAC[1]=9", "set -r", "hash -p /nonexistent true",
    "disown -a; suspend", "coproc cat", "history -c; fc -l",
    "f() { f; }; FUNCNEST=50; f", "x=$(head -c 1000000 /dev/zero | tr '\\0' x); export x",
]  # fmt: skip


@pytest.mark.parametrize("code", BREAKAGE)
def test_survived(kernel, tmp_path, code):
    """The next command runs, with its output where it belongs, and the shell still has its state."""
    (tmp_path / "file.txt").write_text("echo from file\n")
    kernel.good("kept=yes")
    kernel.run(code)
    got = kernel.run("[[ 1 ]] && builtin echo \"alive $kept\"")
    assert (got.status, got.code) == (OK, 0)
    assert "alive yes\n" in got.out and "from file" not in got.out
    assert kernel.run("builtin exit 3").code == 3
    assert "alive again yes\n" in kernel.run("builtin echo \"alive again $kept\"").out


@pytest.mark.parametrize("code", ["set -n", "builtin() { false; }", "readonly BIVOUAC"])
def test_shell_that_takes_no_more_commands_is_replaced(kernel, code):
    kernel.good("mkdir d; cd d; kept=yes")
    got = kernel.run(code)
    assert got.status == OK and got.code != 0
    assert kernel.good('echo alive "$kept" "${PWD##*/}"') == "alive yes d\n"


def test_shell_that_cannot_run_the_next_command_is_replaced_and_runs_it_once(kernel):
    kernel.good("kept=yes")
    kernel.run("ulimit -n 5")
    got = kernel.run("echo once >>log; echo alive $kept")
    assert (got.code, got.out) == (0, "alive yes\n")
    assert "replaced" in got.err
    assert kernel.good("cat log") == "once\n"


def test_tracing_shows_the_command_only(kernel):
    kernel.run("set -x")
    got = kernel.run("echo traced")
    assert (got.out, got.err) == ("traced\n", "++ echo traced\n")
    assert "BIVOUAC" not in kernel.run("set -v; true").err


def test_descriptors_of_commands(kernel):
    names = "ls /proc/self/fd"
    assert kernel.good(names) == "0\n1\n2\n3\n"  # 3: the listing itself
    assert kernel.argv("ls", "/proc/self/fd").out == "0\n1\n2\n3\n"
    assert kernel.good("readlink /proc/self/fd/0") == "/dev/null\n"


# 32 and 33 are glibc's own: no program can reset them with it, so they stay as the test's runner has them.
SIGNALS_OF_GLIBC = 1 << 31 | 1 << 32


def test_signals_of_commands(kernel):
    got = kernel.good("grep -E 'SigBlk|SigIgn' /proc/self/status")
    masks = re.fullmatch(r"SigBlk:\t([0-9a-f]{16})\nSigIgn:\t([0-9a-f]{16})\n", got)
    blocked, ignored = (int(mask, 16) for mask in masks.groups())
    assert (blocked, ignored & ~SIGNALS_OF_GLIBC) == (0, 0), got
    assert kernel.argv("grep", "-E", "SigBlk|SigIgn", "/proc/self/status").out == got


# Words


def test_argv(kernel):
    got = kernel.argv("printf", "%s|", "a b", "$HOME", "*", "", "ü\n'\"")
    assert (got.code, got.out) == (0, "a b|$HOME|*||ü\n'\"|")
    assert kernel.argv("sh", "-c", "cat; echo err >&2; exit 7").code == 7
    assert kernel.argv("sh", "-c", "kill -9 $$").code == 137


def test_argv_has_the_kept_directory_and_environment(kernel, tmp_path):
    (tmp_path / "tool").write_text('#!/bin/sh\necho "tool $E $PWD"\n')
    (tmp_path / "tool").chmod(0o755)
    kernel.good("mkdir d; cd d; export E=kept PATH=$PATH:$OLDPWD; exit")
    got = kernel.argv("tool")
    assert (got.code, got.out) == (0, f"tool kept {tmp_path}/d\n")


@pytest.mark.parametrize(
    "words, code, err",
    [
        (["nonexistent"], 127, "bash: nonexistent: command not found\n"),
        (["./nonexistent"], 127, "bash: ./nonexistent: No such file or directory\n"),
        (["/"], 126, "bash: /: Is a directory\n"),
        (["./file"], 126, "bash: ./file: Permission denied\n"),
        ([""], 127, "bash: : command not found\n"),
        (["true", "x" * 200000], 126, "bash: true: Argument list too long\n"),
    ],
)
def test_argv_that_cannot_be_run(kernel, tmp_path, words, code, err):
    (tmp_path / "file").write_text("no program")
    got = kernel.argv(*words)
    assert (got.code, got.out, got.err) == (code, "", err)


def test_argv_is_not_about_the_shells_options(kernel):
    kernel.good("set -e; kept=yes")
    pid = kernel.good("echo $$")
    assert kernel.argv("false").code == 1
    assert kernel.good("echo $$ $kept") == pid.strip() + " yes\n"


# Interrupts


PYTHON = """/usr/bin/python3 -c '
import time
try:
    print("python", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    pass
'; echo no"""


@pytest.mark.parametrize(
    "code",
    [
        "sleep 60; echo no",
        "while :; do :; done",
        "while true; do sleep 60; done",
        "(sleep 60; echo no); echo no",
        "sleep 60 | cat; echo no",
        "x=$(sleep 60); echo no",
        "sleep 60 & wait; echo no",
        "f() { local kept=no; sleep 60; }; f; echo no",
        "exec sleep 60",
        "set -e; sleep 60",
        PYTHON,
        "trap - INT; sleep 60",
        "timeout 60 sleep 60; echo no",
        "set -m; sleep 60; echo no",
        "while true; do timeout 60 sleep 60; done",
    ],
)
def test_interrupt(kernel, code):
    kernel.good("kept=yes; set -o pipefail")
    kernel.start("echo up; " + code)
    kernel.wait_for("python\n" if code is PYTHON else "up\n")
    if "sleep 60" in code:
        kernel.wait_process("sleep")
    kernel.interrupt()
    got = kernel.finish()
    assert got.status == INTERRUPTED
    assert "no" not in got.out.replace("python", "")
    assert kernel.good("echo $kept; echo $SHELLOPTS | grep -o pipefail") == "yes\npipefail\n"
    kernel.run(f"pkill -s {kernel.pid} -x sleep")  # one in the background would outlive the test


def test_interrupted_words(kernel):
    pid = kernel.good("echo $$")
    kernel.start(b"sleep\x0060\0", ARGV)
    kernel.wait_process("sleep")
    kernel.interrupt()
    assert kernel.finish().status == INTERRUPTED
    assert kernel.good("echo $$") == pid


def test_interrupt_spares_the_background(kernel):
    kernel.good("sleep 60 &\n(trap '' INT; exec sleep 61) >/dev/null &")
    kernel.wait_process("sleep")
    kernel.start("echo up; timeout 60 tail -f /dev/null")
    kernel.wait_process("tail")
    kernel.interrupt()
    assert kernel.finish().status == INTERRUPTED
    assert kernel.good(f"pgrep -c -s {kernel.pid} -x sleep; pkill -s {kernel.pid} -x sleep") == "2\n"


def test_interrupt_between_commands_is_ignored(kernel):
    pid = kernel.good("echo $$")
    kernel.argv("true")  # what follows the one before is done
    for _ in range(50):
        kernel.interrupt()
    assert kernel.good("echo $$") == pid


def test_user_trap_on_interrupt_runs(kernel):
    kernel.start("trap 'echo trapped; t=1' INT; echo up; until [ $t ]; do sleep 0.01; done; echo after")
    kernel.wait_for("up")
    kernel.interrupt()
    got = kernel.finish()
    assert got.status == INTERRUPTED  # it came, whatever the command made of it
    assert got.out.startswith("up\ntrapped\n") and got.out.endswith("after\n")


# The protocol


def test_end_of_file_ends_the_kernel(tmp_path):
    assert Kernel(tmp_path, warm=False).close() == 0


def test_end_of_file_while_a_command_runs(tmp_path):
    kernel = Kernel(tmp_path)
    kernel.start("trap 'echo cleaned >cleaned; exit' HUP; echo up; while :; do :; done")
    kernel.wait_for("up")
    assert kernel.close() == 0
    deadline = time.monotonic() + 30
    while not (tmp_path / "cleaned").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "data",
    [
        frame(1, blob(b"x" * 32)),  # INIT, which the launcher has taken
        frame(99, b""),
        struct.pack("<IB", 16 * 1024 * 1024 + 1, RUN),
        frame(RUN, b""),
        frame(RUN, struct.pack("<IBI", 1, 0, 5) + b"four"),
        frame(RUN, struct.pack("<IBI", 1, 0, 3) + b"four"),
        run_frame(1, b"true", 4),
        run_frame(1, b"", ARGV),
        run_frame(1, b"true", ARGV),
    ],
)
def test_bad_frames_end_the_kernel(tmp_path, data):
    kernel = Kernel(tmp_path)
    kernel.sock.sendall(data)
    assert kernel.read() is None
    assert kernel.wait() == 76
    kernel.close()


def test_end_of_file_inside_a_frame(tmp_path):
    kernel = Kernel(tmp_path)
    kernel.sock.sendall(run_frame(1, b"true")[:-1])
    kernel.sock.shutdown(socket.SHUT_WR)
    assert kernel.wait() == 76
    kernel.close()


@pytest.mark.skipif("sanitized" in DRIVER.name, reason="a sanitizer keeps freed memory")
def test_memory_is_bounded(kernel):
    """Whatever goes through it: commands, output, state."""

    def resident_kib():
        text = pathlib.Path(f"/proc/{kernel.pid}/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0])

    before = resident_kib()
    kernel.good("v=" + "x" * (4 << 20))
    kernel.good("unset v; yes | head -c 20000000 >/dev/null")
    for i in range(30):
        kernel.good(f"v{i}={'y' * 10000}")
        kernel.run("exit 1")
    assert resident_kib() < before + 512
