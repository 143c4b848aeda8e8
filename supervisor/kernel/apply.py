"""Sorts changes on their way to the kernel: into blocks, and by what they mean when they were necessary or
were refused.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Sequence

from supervisor.core.network.layout import Change, Item, Layout, Op, Route
from supervisor.kernel.errors import code
from supervisor.kernel.route.messages import CHUNK

Failure = tuple[Change, Exception]

SHOWN = 5  # changes in one line of the log


def blocks(changes: Sequence[Change]) -> list[Sequence[Change]]:
    """What goes to the kernel in one piece, in order: everything of nftables, and routes and rules by the
    hundred.
    """
    blocks: list[Sequence[Change]] = []
    for nftables, group in itertools.groupby(changes, key=lambda change: change.concerns_nftables):
        members = list(group)
        size = len(members) if nftables else CHUNK
        blocks += (members[start : start + size] for start in range(0, len(members), size))
    return blocks


def replacing(changes: Sequence[Change], actual: Layout) -> frozenset[Item]:
    """The new routes in whose place there is one of ours."""
    new = {
        change.item.place: change.item
        for change in changes
        if isinstance(change.item, Route) and change.op is Op.ADD
    }
    tables = {table for _, table, _ in new}
    return frozenset(
        new[route.place] for route in actual.routes if route.table in tables and route.place in new
    )


def without(changes: Iterable[Change], failures: Iterable[Failure]) -> list[Change]:
    """The changes that did not fail."""
    failed = {change for change, _ in failures}
    return [change for change in changes if change not in failed]


def summary(changes: Sequence[Change]) -> dict[str, object]:
    """The first few, and how many, for the log."""
    return {"changes": [str(change) for change in changes[:SHOWN]], "count": len(changes)}


def is_drift(change: Change, believed: Layout) -> bool:
    """It undoes what somebody else did: takes away what we did not put there, or puts back what we did."""
    return (change.item in believed) is (change.op is Op.ADD)


def passing(failure: Failure) -> bool:
    """The device vanished meanwhile, or went down: the next hint will say so."""
    return code(failure[1]) in (errno.ENODEV, errno.ENETDOWN)


def fatal(failure: Failure) -> bool:
    """Without the right nothing works; without the table we are not closed. A foreign route in our place
    is only noted.
    """
    change, error = failure
    return code(error) == errno.EPERM or change.concerns_nftables
