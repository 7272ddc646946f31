#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command as if on a crippled machine: crippled.py [cgroups] [userns] [landlock] [notify] [listener] -- COMMAND…

Each word takes something away, from the command alone:
  cgroups   no cgroup file system is mounted (a mount namespace of its own)
  userns    user.max_user_namespaces is 0 (in a user namespace of its own, which is what the setting belongs to)
  landlock  landlock_* answer ENOSYS (a seccomp filter)
  notify    seccomp's questions about user notification answer as a kernel without it (the same filter)
  listener  no seccomp filter can have a listener, as where the container's own has one (the same filter)
Needs root.
"""

import ctypes
import errno
import os
import struct
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 1 << 18, 2
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL, SECCOMP_GET_NOTIF_SIZES = 1, 2, 3
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
LD_ABS, JEQ, JGE, JSET, RET = 0x20, 0x15, 0x35, 0x45, 0x06
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
# landlock_create_ruleset, landlock_add_rule, landlock_restrict_self
LANDLOCK_FIRST, LANDLOCK_LAST = 444, 446
OFFSET_NR, OFFSET_ARG0, OFFSET_ARG1 = 0, 16, 24

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def without_cgroups():
    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    with open("/proc/self/mounts") as mounts:
        where = [line.split()[1] for line in mounts if line.split()[2] in ("cgroup", "cgroup2")]
    for path in reversed(where):
        check(libc.umount2(path.encode(), MNT_DETACH))


def without_userns():
    check(libc.unshare(CLONE_NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
    with open("/proc/sys/user/max_user_namespaces", "w") as f:
        f.write("0")


def filter_calls(landlock, notify, listener):
    """The command and this program have one architecture, so the number alone tells the call."""
    code = [(LD_ABS, 0, 0, OFFSET_NR)]
    if landlock:
        code += [
            (JGE, 0, 2, LANDLOCK_FIRST),
            (JGE, 1, 0, LANDLOCK_LAST + 1),
            (RET, 0, 0, RET_ERRNO | errno.ENOSYS),
        ]
    if listener:
        code += [
            (JEQ, 0, 6, SYS_SECCOMP),
            (LD_ABS, 0, 0, OFFSET_ARG0),
            (JEQ, 0, 3, SECCOMP_SET_MODE_FILTER),
            (LD_ABS, 0, 0, OFFSET_ARG1),
            (JSET, 0, 1, SECCOMP_FILTER_FLAG_NEW_LISTENER),
            (RET, 0, 0, RET_ERRNO | errno.EBUSY),
            (LD_ABS, 0, 0, OFFSET_NR),
        ]
    if notify:
        code += [
            (JEQ, 0, 5, SYS_SECCOMP),
            (LD_ABS, 0, 0, OFFSET_ARG0),
            (JEQ, 0, 1, SECCOMP_GET_ACTION_AVAIL),
            (RET, 0, 0, RET_ERRNO | errno.EOPNOTSUPP),
            (JEQ, 0, 1, SECCOMP_GET_NOTIF_SIZES),
            (RET, 0, 0, RET_ERRNO | errno.EINVAL),
        ]
    code.append((RET, 0, 0, RET_ALLOW))
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(instructions))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program), 0, 0))


def main(arguments):
    split = arguments.index("--")
    words, command = set(arguments[:split]), arguments[split + 1 :]
    if unknown := words - {"cgroups", "userns", "landlock", "notify", "listener"}:
        sys.exit(f"crippled.py: what is {sorted(unknown)}?")
    if "cgroups" in words:
        without_cgroups()
    if "userns" in words:
        without_userns()
    if words & {"landlock", "notify", "listener"}:
        filter_calls("landlock" in words, "notify" in words, "listener" in words)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
