"""The ways to the other members of the fleet (`core.network.second_hop`): VXLAN interfaces of ours, and which
interface leads to a member on a shared subnet.

Both ends derive the identifier of the virtual network and each other's link-layer address from their
addresses. So nothing is negotiated, learned or asked for, and the interfaces need no addresses.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

from common.netlink import NetlinkRequest
from common.rtnetlink import (
    ALIAS,
    Link,
    Vxlan,
    link_alias,
    link_dump,
    link_query,
    link_removal,
    link_state,
    permanent_neighbour,
    read_link,
    read_vxlan,
    vxlan_creation,
)
from supervisor.core.network.layout import HostFeatures
from supervisor.core.network.plan import MemberLane
from supervisor.core.network.second_hop import (
    LEAST_MTU,
    NEXT_HOP,
    VXLAN_BYTES,
    link_layer_address,
    network_identifier,
)
from supervisor.kernel.errors import reason
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.route.messages import RouteLookup, read_lookup, route_query
from supervisor.kernel.sysctl import Note

KIND = "vxlan"  # the kernel's word
_MOST_BYTES = 9_000  # of an outer packet, whatever the interface below would take


class MemberLinks:
    """`netlink` is the routing socket, which somebody else opens and closes; `note` takes what cannot be
    done.
    """

    def __init__(self, netlink: AsyncNetlink, note: Note) -> None:
        self._netlink, self._note = netlink, note
        self._made: tuple[object, ...] | None = None  # the ways that were made; None: nobody has looked yet
        self._noted: Set[str] = frozenset()
        self.shared: Mapping[str, str] = {}  # by member: the interface of the subnet that it is on, too

    async def prepare(self, members: tuple[MemberLane, ...], host: HostFeatures, again: bool) -> bool:
        """Make these ways, and no others; `again`: somebody may have changed them. True: something was
        changed.
        """
        ways = tuple([replace(lane, alive=True) for lane in members])
        missing = any(not _is_up(host, lane.device) for lane in members if lane.device is not None)
        if ways == self._made and not (members and (again or missing)):
            return False
        problems: list[str] = []
        try:
            changed = await self._make(members, problems)
        except OSError as error:  # of the listing: nothing was done
            self._tell({f"the interfaces to other members cannot be read: {reason(error)}"})
            return False
        self._made = ways
        self._tell(frozenset(problems))
        return changed

    async def _make(self, members: Iterable[MemberLane], problems: list[str]) -> bool:
        found = await self._found()
        changed = await self._remove(found, {lane.device for lane in members})
        shared: dict[str, str] = {}
        for lane in members:
            try:
                lookup = read_lookup(await self._netlink.ask(route_query(lane.address)))
                if lane.device is not None:
                    changed |= await self._vxlan(lane, lookup, found.get(lane.device))
                elif lookup.gateway is None:
                    shared[lane.member] = socket.if_indextoname(lookup.device)
                else:
                    text = f"it is on no subnet of this host, so handover.via must be {KIND}"
                    problems.append(f"no way to member {lane.member} ({lane.address}): {text}")
            except OSError as error:
                problems.append(f"no way to member {lane.member} ({lane.address}): {reason(error)}")
        changed |= shared != self.shared
        self.shared = shared
        return changed

    async def _found(self) -> dict[str, tuple[Link, Vxlan | None]]:
        """All interfaces that are VXLAN, by name."""
        found = await self._netlink.dump(link_dump(), lambda body: (read_link(body), read_vxlan(body)))
        return {link.name: (link, vxlan) for link, vxlan in found if link.kind == KIND}

    async def _remove(self, found: Mapping[str, tuple[Link, object]], wanted: Iterable[str | None]) -> bool:
        """Those of ours that lead to nobody any more."""
        surplus = [
            link for link, _ in found.values() if link.alias == ALIAS and link.name not in frozenset(wanted)
        ]
        for link in surplus:
            await self._do(link_removal(link.index))
        return bool(surplus)

    async def _vxlan(
        self, lane: MemberLane, lookup: RouteLookup, found: tuple[Link, Vxlan | None] | None
    ) -> bool:
        local = lane.local or lookup.source
        if lane.device is None or local is None:
            return False
        wanted = Vxlan(
            lane.device,
            network_identifier(local, lane.address),
            lane.address,
            local,
            lane.port,
            link_layer_address(local),
        )
        made = found is None or found[1] != wanted
        if found is not None and found[1] != wanted:
            await self._do(link_removal(found[0].index))
        if made:
            below = read_link(await self._netlink.ask(link_query(lookup.device))).mtu
            mtu = max(LEAST_MTU, min(below, _MOST_BYTES) - VXLAN_BYTES[lane.address.version])
            await self._do(vxlan_creation(wanted, mtu))
            await self._do(link_alias(lane.device, ALIAS))
        link = read_link(await self._netlink.ask(link_query(name=lane.device)))
        await self._do(link_state(link.index))
        for hop in NEXT_HOP.values():
            await self._do(
                permanent_neighbour(link.index, hop, link_layer_address(lane.address)), hop.version
            )
        return made or not link.up

    async def _do(self, request: NetlinkRequest, version: int = 4) -> None:
        """OSError when the kernel refuses. A host without IPv6 has no neighbours of that version."""
        (error,) = await self._netlink.change([request])
        without = version == 6 and error is not None and error.errno in (errno.EAFNOSUPPORT, errno.EINVAL)
        if error is not None and not without and error.errno != errno.ENODEV:
            raise error

    def _tell(self, problems: Set[str]) -> None:
        for text in sorted(problems - self._noted):
            self._note(text, {})
        self._noted = problems


def _is_up(host: HostFeatures, name: str) -> bool:
    return (device := host.devices.get(name)) is not None and device.up
