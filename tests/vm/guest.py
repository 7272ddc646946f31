# SPDX-License-Identifier: Apache-2.0
"""Boots a micro VM with a program of ours as PID 1 and reads the TAP lines it prints. Standard library only.

QEMU emulates the processor: /dev/kvm may open and its guests hang all the same. The kernel is Debian's cloud kernel
(scripts/test-kernel.sh); the initial RAM disk has nothing but the program and what it needs. The machine is a plain PC:
Linux 6.1 on an emulated microvm waits for its first timer interrupt for ever in about one boot of three.
"""

import os
import pathlib
import re
import resource
import stat
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("BIVOUAC_BIN_DIR") or REPO / "build")
# A guest takes 8 s of processor time. One that loops is ended by the first limit, one that waits for ever by the second;
# one on a machine with much else to do meets neither.
PROCESSOR_S = 120
DEADLINE_S = 900
RESULT = re.compile(r"^(not )?ok (\d+) - (.*)$")


class Cpio:
    """An initial RAM disk in the "newc" format of cpio."""

    def __init__(self):
        self.data = bytearray()
        self.count = 0

    def add(self, name, mode, content=b""):
        self.count += 1
        name = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        self.data += b"070701" + b"".join(b"%08X" % n for n in fields)
        for part in (name, content):
            self.data += part
            self.data += b"\0" * (-len(self.data) % 4)

    def directory(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def program(self, name, path):
        self.add(name, stat.S_IFREG | 0o755, pathlib.Path(path).read_bytes())

    def write(self, path):
        self.add("TRAILER!!!", 0)
        pathlib.Path(path).write_bytes(self.data)


def kernel():
    result = subprocess.run([REPO / "scripts" / "test-kernel.sh"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"no kernel to boot: {result.stderr}"
    return result.stdout.strip()


def boot(ramdisk, arguments, memory_mib=192):
    """Returns what the guest printed until it powered itself off."""
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-cpu", "max"),
        *("-m", str(memory_mib), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", "stdio", "-kernel", kernel(), "-initrd", str(ramdisk)),
        *("-append", f"console=ttyS0 quiet loglevel=2 panic=-1 {arguments}"),
    ]
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S)),
        )
    except subprocess.TimeoutExpired as e:
        raise AssertionError(f"the guest did not end: {(e.stdout or b'').decode(errors='replace')}") from None
    output = result.stdout.decode(errors="replace").replace("\r", "")
    assert result.returncode == 0, f"qemu: {result.returncode} {result.stderr.decode(errors='replace')}\n{output}"
    return output


def parse(output):
    """TAP lines → {name: (passed, the # lines before it)}; the plan must be kept."""
    results, comments, planned = {}, [], None
    for line in output.splitlines():
        if line.startswith("1.."):
            planned = int(line[3:])
        elif line.startswith("# "):
            comments.append(line[2:])
        elif match := RESULT.match(line):
            assert match[3] not in results, f"reported twice: {line}"
            results[match[3]] = (not match[1], comments)
            comments = []
    assert planned is not None and len(results) == planned, f"{planned} checks planned:\n{output}"
    return results
