"""System calls that clients may not make: those that control other processes of the same user, and those that
no client needs.

Landlock (`supervisor.clients.sandbox`) protects files, memory and signals of other processes, but not their
resource limits and priorities, one of which kills: `prlimit(RLIMIT_CPU)` on the daemon. What is refused here
is refused on every kernel with seccomp.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType

_NEVER = (
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    "process_madvise",
    "process_mrelease",
    "move_pages",
    "migrate_pages",
    "perf_event_open",
    "bpf",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "add_key",
    "request_key",
    "keyctl",
    "open_by_handle_at",
)
# Allowed for the calling process only: these arguments (by index) must have these values. 0 means the caller.
_OWN: Mapping[str, Mapping[int, int]] = MappingProxyType(
    {
        "prlimit64": {0: 0},
        "sched_setparam": {0: 0},
        "sched_setscheduler": {0: 0},
        "sched_setattr": {0: 0},
        "sched_setaffinity": {0: 0},
        "setpriority": {0: 0, 1: 0},
        "ioprio_set": {0: 1, 1: 0},
    }
)


# Nor may it hide from the daemon, which under ProtectProc=invisible sees only what it may look into:
# prctl(PR_SET_DUMPABLE, 0).
_PRCTL, _PR_SET_DUMPABLE = "prctl", 4


def _table(numbers: str) -> Mapping[str, int]:
    """Numbers of `_NEVER`, `_OWN` and `_PRCTL`, in this order."""
    return dict(zip((*_NEVER, *_OWN, _PRCTL), map(int, numbers.split()), strict=True))


# By what uname(2) calls the machine and by AUDIT_ARCH: the machine's own, and that of programs of 32 bits,
# which it runs besides.
_MACHINES: Mapping[str, Mapping[int, Mapping[str, int]]] = MappingProxyType(
    {
        "x86_64": MappingProxyType(
            {
                0xC000_003E: _table(
                    "101 310 311 438 312 440 448 279 256 298 321 323 425 426 427 248 249 250 304 302 142 "
                    "144 314 203 141 251 157"
                ),
                0x4000_0003: _table(
                    "26 347 348 438 349 440 448 317 294 336 357 374 425 426 427 286 287 288 342 340 154 "
                    "156 351 241 97 289 172"
                ),
            }
        ),
        "aarch64": MappingProxyType(
            {
                0xC000_00B7: _table(
                    "117 270 271 438 272 440 448 239 238 241 280 282 425 426 427 217 218 219 265 261 118 "
                    "119 274 122 140 30 167"
                ),
                0x4000_0028: _table(
                    "26 376 377 438 378 440 448 344 400 364 386 388 425 426 427 309 310 311 371 369 154 "
                    "156 380 241 97 314 172"
                ),
            }
        ),
    }
)
_X86_64, _X32 = 0xC000_003E, 0x4000_0000  # x32 system calls have this bit set
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF_0000, 0x0005_0000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
_NO_SUCH, _NOT_YOURS = _REFUSE | errno.ENOSYS, _REFUSE | errno.EPERM

_Code = tuple[int, int, int, int]  # struct sock_filter: code, jump if true, jump if false, operand


@functools.cache
def program(machine: str = os.uname().machine) -> bytes:
    """The BPF filter. On an unknown architecture it allows everything."""
    code = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for architecture, numbers in _MACHINES.get(machine, {}).items():
        judged = [*_judged(architecture, numbers)]
        code += [(_EQUAL, 0, len(judged), architecture), *judged]
    return b"".join(struct.pack("=HBBI", *one) for one in (*code, (_RETURN, 0, 0, _ALLOW)))


def _judged(architecture: int, numbers: Mapping[str, int]) -> Iterator[_Code]:
    yield _LOAD, 0, 0, _NUMBER
    if architecture == _X86_64:
        yield from ((_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _NO_SUCH))
    for name in _NEVER:
        yield from ((_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _NO_SUCH))
    for name, wanted in _OWN.items():
        checks = [code for argument, value in wanted.items() for code in _is(argument, value)]
        yield from ((_EQUAL, 0, len(checks) + 1, numbers[name]), *checks, (_RETURN, 0, 0, _ALLOW))
    yield from (
        (_EQUAL, 0, 5, numbers[_PRCTL]),
        (_LOAD, 0, 0, _ARGUMENTS),
        (_EQUAL, 0, 3, _PR_SET_DUMPABLE),
        (_LOAD, 0, 0, _ARGUMENTS + 8),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _NOT_YOURS),
    )
    yield _RETURN, 0, 0, _ALLOW


def _is(argument: int, value: int) -> tuple[_Code, ...]:
    """The arguments are ints: the kernel uses their lower 32 bits only."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument), (_EQUAL, 1, 0, value), (_RETURN, 0, 0, _NOT_YOURS)
