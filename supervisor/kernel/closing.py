"""Closes the kernel for destinations, before anything else runs: adds what the two layers lack, and takes
nothing away. What an earlier daemon has left goes on carrying.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace

from supervisor.core.network.changes import Change, Op, diff
from supervisor.core.network.closed import closed, closing_elements, still_open
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Layout
from supervisor.kernel.errors import explained, is_fatal
from supervisor.kernel.notifications import KernelPart
from supervisor.kernel.state import KernelState, opened
from tunnels.networks import IPNetwork


@dataclass(frozen=True, slots=True)
class ClosingResult:
    """What became of it."""

    changed: bool  # something had to be added
    running: bool = False  # our table belongs to a running daemon: nothing was changed
    open: tuple[IPNetwork, ...] = ()  # what that daemon does not close


async def close(networks: Collection[IPNetwork]) -> ClosingResult:
    """Close the kernel for these networks; beside a running daemon, only look. MissingRight without
    CAP_NET_ADMIN; KernelError when the kernel refuses it.
    """
    async with opened() as kernel:
        kernel.look_at_devices(())
        table = await kernel.nftables.read()
        found = replace(await kernel.read({KernelPart.ROUTES}), table=table.intact, elements=table.elements)
        if await kernel.nftables.occupied():
            return ClosingResult(False, True, still_open(found, networks, kernel.host.versions))
        kernel.layout = found
        if table.present and not table.current:
            return await _in_table_of_another_version(kernel, networks)
        return await _carried_out(kernel, closed(found, networks, kernel.host.versions))


async def closed_since() -> float | None:
    """Seconds since the epoch; None: it is not closed, or not known since when. KernelError."""
    async with opened() as kernel:
        await kernel.nftables.read()
        return kernel.nftables.closed_since


async def _in_table_of_another_version(kernel: KernelState, networks: Collection[IPNetwork]) -> ClosingResult:
    """Its rules close as ours do; recreated, it would carry nothing until the next daemon takes over what
    runs. Only where it does not take the destinations, it is replaced.
    """
    elements = closing_elements(map(Interval.of, networks))
    routes = replace(closed(kernel.layout, networks, kernel.host.versions), table=False, elements=frozenset())
    closing = await _carried_out(kernel, routes)
    with contextlib.suppress(OSError):
        if elements:
            await kernel.nftables.commit([Change(Op.ADD, element) for element in elements])
        return closing
    return await _carried_out(kernel, replace(routes, table=True, elements=elements))


async def _carried_out(kernel: KernelState, target: Layout) -> ClosingResult:
    changes = diff(kernel.layout, target)
    _, failures = await kernel.carry_out(changes)
    worst = next((failure for failure in failures if is_fatal(failure)), None)
    if worst is not None:
        raise explained(worst[1], worst[0]) from worst[1]
    return ClosingResult(bool(changes))
