"""What can go wrong with the kernel, in words for a person."""

from __future__ import annotations

import errno

from pyroute2 import NetlinkError

from supervisor.core.network.layout import Change, Table

TIMEOUT = 5.0  # seconds for any single answer of the kernel
ERRORS = (NetlinkError, OSError, TimeoutError)


class KernelError(Exception):
    """The kernel refuses something that we cannot do without. The text says what and, if known, why."""


class MissingRight(KernelError):
    """The process lacks a capability. The text says which and what for."""


class Occupied(KernelError):
    """Another running process holds what is ours to set: a second facilitator."""

    def __init__(self) -> None:
        super().__init__("the nftables table inet facilitator belongs to another running process")


def code(error: BaseException) -> int | None:
    """The kernel's errno, if the error has one."""
    return error.code if isinstance(error, NetlinkError) else getattr(error, "errno", None)


def sentence(change: Change, error: BaseException) -> str:
    """Why a change was not carried out."""
    if code(error) == errno.EEXIST:
        return f"another program's entry stands in the place of: {change.item}"
    hint = (
        "; `facilitator doctor` names what this kernel lacks"
        if code(error) == errno.ENOENT and isinstance(change.item, Table)
        else ""
    )
    return f"the kernel refuses: {change} ({_reason(error)}){hint}"


def explained(error: BaseException, change: Change | None = None) -> KernelError:
    """The error as one that ends a command or the start of the daemon."""
    if code(error) == errno.EPERM:
        if change is not None and change.concerns_nftables:
            return Occupied()
        return MissingRight(
            "the capability CAP_NET_ADMIN is missing: without it no route and no firewall rule can be set"
        )
    return KernelError(
        sentence(change, error)
        if change is not None
        else f"the kernel's routing cannot be used: {_reason(error)}"
    )


def _reason(error: BaseException) -> str:
    return "no answer from the kernel" if isinstance(error, TimeoutError) else str(error)
