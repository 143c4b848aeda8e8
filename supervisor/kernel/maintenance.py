"""What commands want from the kernel without a daemon: compare it with a plan, and remove everything that
is ours.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from supervisor.core.network.layout import Change, Layout, diff, wanted
from supervisor.core.network.plan import NetworkPlan
from supervisor.kernel.conntrack.dump import opened
from supervisor.kernel.conntrack.flow_moves import ALL_LANES, end
from supervisor.kernel.errors import ERRORS, Occupied, explained
from supervisor.kernel.netlink.links import ALIAS, link_dump, link_removal, read_link
from supervisor.kernel.nft.table import Nftables
from supervisor.kernel.route.messages import Rtnetlink
from supervisor.kernel.route.table import RouteTable


async def preview(plan: NetworkPlan) -> tuple[Change, ...]:
    """What would change in the kernel for this plan. MissingRight without CAP_NET_ADMIN; KernelError when
    it cannot be read.
    """
    async with _open() as (routes, nftables):
        host = routes.host(lane.device for lane in plan.lanes if lane.device)
        return diff(await _read(routes, nftables, host.versions), wanted(plan, host))


async def cleanup() -> tuple[Change, ...]:
    """Remove every route and rule with our protocol number, and the table `inet facilitator`; what was
    removed. Our flows are forgotten.

    Occupied, and nothing is removed, when the table belongs to a running daemon; MissingRight without
    CAP_NET_ADMIN.
    """
    async with _open() as (routes, nftables):
        if await nftables.occupied():
            raise Occupied
        host = routes.host(())
        found = await _read(routes, nftables, host.versions)
        changes = diff(replace(found, table=(await nftables.read()).present), Layout())
        for change in changes:
            try:
                await (nftables.commit([change]) if change.concerns_nftables else routes.change(change, host))
            except ERRORS as error:
                raise explained(error, change) from error
        with opened() as sock:
            end(sock, ALL_LANES)
        return changes


async def remove_devices(kind: str = "wireguard") -> tuple[str, ...]:
    """Remove the devices of this kind that a client of ours made and, because it was killed, left; their
    names.

    Other kinds of device vanish with the process that made them. MissingRight without CAP_NET_ADMIN.
    """
    rtnl = Rtnetlink()
    try:
        rtnl.open()
        found = [
            link
            for link in await rtnl.dump(link_dump(), read_link)
            if (link.alias, link.kind) == (ALIAS, kind)
        ]
        for link in found:
            (error,) = await rtnl.change([link_removal(link)])
            if error is not None and error.code != errno.ENODEV:
                raise error
    except ERRORS as error:
        raise explained(error) from error
    finally:
        rtnl.close()
    return tuple(sorted(link.name for link in found))


async def _read(routes: RouteTable, nftables: Nftables, versions: Iterable[int]) -> Layout:
    state = await nftables.read()
    return Layout(await routes.routes(versions), await routes.rules(versions), state.intact, state.elements)


@contextlib.asynccontextmanager
async def _open() -> AsyncIterator[tuple[RouteTable, Nftables]]:
    routes, nftables = RouteTable(), Nftables()
    try:
        await routes.open()
        await nftables.open()
        yield routes, nftables
    except ERRORS as error:
        raise explained(error) from error
    finally:
        routes.close()
        nftables.close()
