"""What a compromised client could do to the others, given what the kernel offers to confine it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SIGNALS_VERSION = 6  # version of Landlock (Linux 6.12) that can restrict signals


@dataclass(frozen=True, slots=True)
class Isolation:
    """What the kernel offers."""

    landlock: int = 7  # version; 0: there is none
    filters: bool = True  # system calls can be refused (seccomp)
    ptrace_scope: int = 1  # kernel.yama.ptrace_scope; 0 also where there is no Yama


def missing(found: Isolation) -> Iterator[tuple[str, str]]:
    """What is missing: pairs of a sentence and a hint."""
    if found.landlock == 0:
        text = (
            "this kernel offers no Landlock: a compromised client can read the other tunnels' "
            "secrets and end their clients"
        )
        yield (
            text,
            "cat /sys/kernel/security/lsm   # must list landlock (boot: lsm=landlock,...), from Linux 6.12",
        )
        if not found.ptrace_scope:
            text = (
                "without Landlock and with kernel.yama.ptrace_scope 0 it can also change what the "
                "other clients do"
            )
            yield (
                text,
                "sysctl -w kernel.yama.ptrace_scope=1 && echo kernel.yama.ptrace_scope=1 >> "
                "/etc/sysctl.d/90-facilitator.conf",
            )
    elif found.landlock < _SIGNALS_VERSION:
        text = (
            f"this kernel's Landlock (version {found.landlock}) stops no signals: a compromised "
            f"client can end the others"
        )
        yield text, "uname -r   # Linux 6.12 or later"
    if not found.filters:
        text = (
            "system calls cannot be refused (no seccomp): a compromised client can set limits "
            "and priorities of the other clients"
        )
        yield text, "uname -m   # x86_64 and aarch64 are supported, on a kernel with CONFIG_SECCOMP_FILTER"
