"""What commands do in the kernel without a daemon: compare it with a plan, and remove everything
that is ours.
"""

from __future__ import annotations

import errno
from collections.abc import Container
from dataclasses import replace

from common.rtnetlink import ALIAS, link_dump, link_removal, read_link
from supervisor.core.network.changes import Change, diff
from supervisor.core.network.layout import Layout
from supervisor.core.network.plan import NetworkPlan
from supervisor.kernel.comparison import missing
from supervisor.kernel.conntrack.dump import conntrack_socket
from supervisor.kernel.conntrack.flow_moves import ALL_LANES, end
from supervisor.kernel.errors import Occupied, explained
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.state import opened
from supervisor.kernel.sysctl import FirstValues, put_back


async def preview(plan: NetworkPlan) -> tuple[Change, ...]:
    """What would change in the kernel for this plan. MissingRight without CAP_NET_ADMIN; KernelError when
    it cannot be read.
    """
    async with opened() as kernel:
        kernel.look_at_devices(plan.devices)
        return tuple(await missing(await kernel.read(), plan, kernel.host))


async def cleanup(first: FirstValues | None = None) -> tuple[str, ...]:
    """Put back the host's settings, and remove every route and rule with our protocol number, and the table
    `inet facilitator`; a line for each. Our flows are forgotten.

    Occupied, and nothing is removed, when the table belongs to a running daemon; MissingRight without
    CAP_NET_ADMIN.
    """
    async with opened() as kernel:
        if await kernel.nftables.occupied():
            raise Occupied
        lines = [] if first is None else put_back(first)  # before anything that closes goes
        kernel.look_at_devices(())
        kernel.layout = replace(await kernel.read(), table=(await kernel.nftables.read()).present)
        changes = diff(kernel.layout, Layout())
        _, failures = await kernel.carry_out(changes)
        for change, error in failures:
            raise explained(error, change) from error
        with conntrack_socket() as netlink:
            end(netlink, ALL_LANES)
        return *lines, *(f"removed {change.item}" for change in changes)


async def remove_devices(kinds: Container[str] = ("wireguard", "vxlan")) -> tuple[str, ...]:
    """Remove the interfaces of these kinds that we or a client of ours made and left; their names.

    Other kinds vanish with the process that made them. MissingRight without CAP_NET_ADMIN.
    """
    netlink = AsyncNetlink()
    try:
        netlink.open()
        found = [
            link
            for link in await netlink.dump(link_dump(), read_link)
            if link.alias == ALIAS and link.kind in kinds
        ]
        for link in found:
            (error,) = await netlink.change([link_removal(link.index)])
            if error is not None and error.errno != errno.ENODEV:
                raise error
    except OSError as error:
        raise explained(error) from error
    finally:
        netlink.close()
    return tuple(sorted(link.name for link in found))
