"""System calls for which Python has no function. Each changes the calling thread and the processes that it
starts, not the whole process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Collection

# The same numbers on every architecture: they are younger than the common table (Linux 5.1).
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_RULESET = struct.Struct("=3Q")  # struct landlock_ruleset_attr: files, network, scopes
_BENEATH = struct.Struct("=Qi")  # struct landlock_path_beneath_attr: access rights, descriptor

_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = (
    4,
    23,
    24,
    22,
    38,
)
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER = 47, 3
_SECCOMP_MODE_FILTER = 2
_SETRESGID = {"x86_64": 119, "aarch64": 149, "riscv64": 149}.get(os.uname().machine, -1)
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_NEWNS = 0x0002_0000
_CLONE_NEWNET = 0x4000_0000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, *arguments: int, what: str) -> int:
    words = (ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4])
    return _checked(_libc().prctl(ctypes.c_int(option), *words), what)


# --- Landlock
# ----------------------------------------------------------------------------------------------------------


@functools.cache
def landlock_abi() -> int:
    """Version of the kernel's Landlock; 0: it has none, or Landlock is disabled or forbidden."""
    version = ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION)
    return max(0, int(_libc().syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), version)))


def landlock_ruleset(files: int, scopes: int) -> int:
    """Create an empty ruleset that handles these file accesses (landlock_create_ruleset(2)); returns its
    descriptor. OSError.
    """
    attribute = _RULESET.pack(files, 0, scopes)
    made = int(_libc().syscall(_LANDLOCK_CREATE_RULESET, attribute, ctypes.c_size_t(len(attribute)), 0))
    return _checked(made, "landlock_create_ruleset")


def landlock_allow(ruleset: int, path: int, rights: int) -> None:
    """Allow these accesses to the file or directory with the descriptor `path`, and below
    (landlock_add_rule(2)). OSError.
    """
    rule = _BENEATH.pack(rights, path)
    _checked(
        int(_libc().syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)),
        "landlock_add_rule",
    )


def landlock_restrict(ruleset: int) -> None:
    """Restrict this thread to the rules, for good (landlock_restrict_self(2)). OSError."""
    _checked(int(_libc().syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)), "landlock_restrict_self")


# --- privileges
# ----------------------------------------------------------------------------------------------------------


def no_new_privileges() -> None:
    """Programs that this thread starts gain no privileges: setuid bits and file capabilities have no effect.
    OSError.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, what="PR_SET_NO_NEW_PRIVS")


def not_dumpable() -> None:
    """Forbid other processes of this user to inspect the process (ptrace, /proc/PID/mem, fd, environ).
    OSError.
    """
    _prctl(_PR_SET_DUMPABLE, 0, what="PR_SET_DUMPABLE")


def release_free_memory() -> None:
    """Give what the C library keeps of freed memory back to the system (malloc_trim(3), which musl lacks)."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def set_group(number: int) -> None:
    """The group of this thread and of what it starts (setresgid(2), without the C library, which would
    change all threads). OSError: CAP_SETGID is missing.
    """
    _checked(int(_libc().syscall(_SETRESGID, number, number, number)), "setresgid")


def keep_no_ambient(number: int) -> None:
    """What this thread starts as another user than root does not inherit this capability. OSError."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, number, what="PR_CAP_AMBIENT_LOWER")


def keep_capabilities(kept: Collection[int]) -> None:
    """Limit the capabilities of what this thread starts as root to these. OSError: CAP_SETPCAP is missing."""
    for number in _bounding():
        if number not in kept:
            _prctl(_PR_CAPBSET_DROP, number, what="PR_CAPBSET_DROP")
    _forget_inheritable()


@functools.cache
def _bounding() -> tuple[int, ...]:
    """Yields the bounding set. The kernel refuses numbers that it does not know."""
    return tuple(number for number in range(64) if _libc().prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1)


def _forget_inheritable() -> None:
    header, sets = (
        ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)),
        ctypes.create_string_buffer(24),
    )
    _checked(_libc().capget(header, sets), "capget")
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("=6I", sets.raw[:24])
    data = struct.pack("=6I", effective, permitted, 0, effective_high, permitted_high, 0)
    _checked(_libc().capset(header, data), "capset")


def filter_system_calls(program: bytes) -> None:
    """Let a BPF program decide about each system call of this thread (seccomp(2)). OSError."""

    class SockFprog(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    given = SockFprog(len(program) // 8, program)
    _checked(
        _libc().prctl(
            ctypes.c_int(_PR_SET_SECCOMP),
            ctypes.c_ulong(_SECCOMP_MODE_FILTER),
            ctypes.byref(given),
            ctypes.c_ulong(0),
            ctypes.c_ulong(0),
        ),
        "PR_SET_SECCOMP",
    )


# --- mounts
# ----------------------------------------------------------------------------------------------------------


def own_mounts() -> None:
    """Give this thread a mount namespace of its own, in which unmounts outside still take effect. OSError."""
    _checked(_libc().unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _checked(
        _libc().mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None), "mount(/, MS_SLAVE)"
    )


def own_network() -> None:
    """Give this thread a network namespace of its own, without any interface that is up. OSError."""
    _checked(_libc().unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")


def show_instead(source: str, target: str) -> None:
    """Bind-mount `source` over `target` in this thread's mount namespace. OSError."""
    _checked(
        _libc().mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None),
        f"mount({target}, MS_BIND)",
    )
