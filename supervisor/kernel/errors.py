"""What can go wrong with the kernel, in words for a person.

The kernel's refusals are OSError with its errno and text (`common.netlink.refusal`); TimeoutError, one of
them, says that it gave no answer.
"""

from __future__ import annotations

import errno

from supervisor.core.network.changes import Change
from supervisor.core.network.layout import Table

Failure = tuple[Change, OSError]  # a change, and why it was not carried out


class KernelError(Exception):
    """The kernel refuses something that we cannot do without. The text says what and, if known, why."""


class MissingRight(KernelError):
    """The process lacks a capability. The text says which and what for."""


class Occupied(KernelError):
    """Another running process holds what is ours to set: a second facilitator."""

    def __init__(self) -> None:
        super().__init__("the nftables table inet facilitator belongs to another running process")


def is_passing(failure: Failure) -> bool:
    """The interface vanished meanwhile, or went down: the next notification will say so."""
    return failure[1].errno in (errno.ENODEV, errno.ENETDOWN)


def is_fatal(failure: Failure) -> bool:
    """Without the right nothing works; without the table we are not closed. A foreign route in our place
    is only noted.
    """
    change, error = failure
    return error.errno == errno.EPERM or change.concerns_nftables


def sentence(change: Change, error: OSError) -> str:
    """Why a change was not carried out."""
    if error.errno == errno.EEXIST:
        return f"another program's entry stands in the place of: {change.item}"
    lacking = error.errno == errno.ENOENT and isinstance(change.item, Table)
    hint = "; `facilitator doctor` names what this kernel lacks" if lacking else ""
    return f"the kernel refuses: {change} ({reason(error)}){hint}"


def explained(error: OSError, change: Change | None = None) -> KernelError:
    """The error as one that ends a command or the start of the daemon."""
    if error.errno == errno.EPERM:
        if change is not None and change.concerns_nftables:
            return Occupied()
        return MissingRight(
            "the capability CAP_NET_ADMIN is missing: without it no route and no firewall rule can be set"
        )
    if change is not None:
        return KernelError(sentence(change, error))
    return KernelError(f"the kernel's routing cannot be used: {reason(error)}")


def reason(error: OSError) -> str:
    """The kernel's text."""
    return "no answer from the kernel" if isinstance(error, TimeoutError) else error.strerror or str(error)
