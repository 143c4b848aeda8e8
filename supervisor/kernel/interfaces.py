"""Keeps the tunnels' interfaces as they must be: up, with their MTU and the addresses that a client needs
there, and free of addresses that collide with anything else on this host.

An address that a remote gateway assigns exists in source NAT only (`ruleset`): on an interface it would be
this host's own address, and its prefix a route in the main table. What a client puts there all the same is
removed; where the client needs it, it stays as a /32 or /128 without a route, unless it collides with an
address in use: then it is removed, and the session ends.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from common.netlink import NetlinkRequest
from common.rtnetlink import (
    InterfaceAddress,
    address_dump,
    address_removal,
    host_address,
    link_state,
    made_host_address,
    read_address,
)
from common.token_bucket import TokenBucket
from supervisor.core.events import AddressConflict, DeviceLost, Event, InterfaceRepaired
from supervisor.core.network.layout import HostFeatures
from supervisor.core.network.plan import Lane, NetworkPlan
from supervisor.core.session.address_conflict import AddressesInUse, conflict
from supervisor.kernel.errors import reason
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.route.messages import next_hop_dump, read_next_hops
from supervisor.kernel.sysctl import Note
from tunnels.networks import IPAddress

Held = tuple[Lane, InterfaceAddress]  # an address that a lane's interface has
NOTED_BURST, NOTED_RATE = 10, 1 / 60  # lines about interfaces that were changed: at once, and a second
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class Interfaces:
    """`netlink` is the routing socket, which somebody else opens and closes; `post` takes AddressConflict
    and InterfaceRepaired; `note` takes what the kernel refuses.
    """

    def __init__(
        self,
        netlink: AsyncNetlink,
        post: Callable[[Event], None],
        note: Note,
        resolvers: Iterable[Path] = RESOLVERS,
    ) -> None:
        self._netlink, self._post, self._note, self._resolvers = netlink, post, note, tuple(resolvers)
        self._noted: frozenset[str] = frozenset()  # what the kernel refused the last time
        # By interface: its index, and what is assigned to its lane.
        self._checked: dict[str, tuple[int, tuple[IPAddress, ...]]] = {}
        # Addresses that clients have put on their interfaces, by its index: what was there may be put back.
        self._own: set[tuple[int, IPAddress]] = set()
        # Interfaces that were made as they must be, by index, with that MTU.
        self._seen: dict[int, int | None] = {}
        self._healed = TokenBucket(NOTED_BURST, NOTED_RATE)
        self.repairs = 0  # how often something of an interface was put back

    async def prepare(self, plan: NetworkPlan, host: HostFeatures, again: bool) -> bool:
        """Make them what they must be; `again`: addresses may have changed since they were read. True:
        something was changed.
        """
        lanes = {
            lane.device: lane
            for lane in plan.lanes
            if lane.device is not None and lane.device in host.devices
        }
        state = {name: (host.devices[name].index, lane.addresses) for name, lane in lanes.items()}
        new = [name for name in lanes if self._checked.get(name) != state[name]]
        self._checked = state
        changed = await self._heal(lanes.values(), host)
        if again or len(new) > 1:
            held = await self._netlink.dump(address_dump(), read_address)
        else:
            held = [
                each
                for name in new
                for each in await self._netlink.dump(address_dump(host.devices[name].index), read_address)
            ]
        by_index = {host.devices[name].index: lane for name, lane in lanes.items()}
        wrong = [(by_index[each.interface], each) for each in held if each.interface in by_index]
        back = await self._put_back(by_index, {(each.interface, each.address) for each in held}, again)
        return await self._clear(plan, host, wrong) or changed or back

    async def _heal(self, lanes: Iterable[Lane], host: HostFeatures) -> bool:
        """Bring up interfaces that are down, and give those their MTU that have another one: some clients
        leave that to us, and somebody may have changed it since.
        """
        messages: list[NetlinkRequest] = []
        seen, self._seen = self._seen, {}
        for lane in lanes:
            device = host.devices[lane.device or ""]
            # A client that sets addresses itself also brings its interface up, for the first time.
            managed = bool(lane.addresses) or lane.link_mtu is not None or device.index in seen
            if not lane.up or not (managed or device.up):
                continue
            self._seen[device.index] = lane.link_mtu
            resized = lane.link_mtu not in (None, device.mtu)
            if resized or not device.up:
                messages.append(link_state(device.index, mtu=lane.link_mtu))
                if seen.get(device.index, ()) == lane.link_mtu:
                    what = f"had an MTU of {device.mtu}" if device.up else "was set down"
                    self._tell(lane, f"{lane.device} {what}; it is as it was")
        return await self._change(messages)

    async def _put_back(
        self, lanes: Mapping[int, Lane], held: Set[tuple[int, IPAddress]], again: bool
    ) -> bool:
        """Put addresses back that a client needs and somebody has removed."""
        wanted = {
            (index, address) for index, lane in lanes.items() if lane.up for address in lane.own_addresses
        }
        self._own = (self._own & wanted) | (wanted & held)
        missing = sorted(self._own - held, key=str) if again else []
        for index, address in missing:
            self._tell(lanes[index], f"{lanes[index].device} had lost its address {address}; it has it again")
        return await self._change(host_address(index, address) for index, address in missing)

    def _tell(self, lane: Lane, text: str) -> None:
        """Log and post what somebody else has done to an interface, and count it."""
        self.repairs += 1
        left = self._healed.at_time(time.monotonic()).take()
        if left is not None:
            self._healed = left
            text = f"{text}: another program has changed it"
            self._note(text, {"tunnel": lane.tunnel})
            self._post(InterfaceRepaired(lane.tunnel, device=lane.device, text=text))

    async def _clear(self, plan: NetworkPlan, host: HostFeatures, held: Sequence[Held]) -> bool:
        messages: list[NetlinkRequest] = []
        around: AddressesInUse | None = None
        for lane, each in held:
            if any(address.version == each.address.version for address in lane.addresses):
                messages.append(address_removal(each))
                continue
            around = around or await self._surroundings(plan, host)
            text = conflict(each.address, beside(around, plan, held, lane))
            if text is not None:
                messages.append(address_removal(each))
                self._post(AddressConflict(lane.tunnel, device=lane.device, text=text))
            elif not each.alone:
                messages += made_host_address(each)
        return await self._change(messages)

    async def _change(self, messages: Iterable[NetlinkRequest]) -> bool:
        """One by one, for a failure must not keep the others from being done; there are hardly ever any.
        True: something was done.
        """
        said = [error for message in messages for error in await self._netlink.change([message])]
        texts = frozenset(
            f"an interface of a tunnel cannot be set up: {reason(error)}"
            for error in said
            if error is not None
        )
        for text in sorted(texts - self._noted):
            self._note(text, {})
        self._noted = texts if said else self._noted
        return None in said

    # --- what the addresses may collide with

    async def _surroundings(self, plan: NetworkPlan, host: HostFeatures) -> AddressesInUse:
        """Addresses in use that do not depend on the tunnels."""
        ours = {
            host.devices[lane.device].index
            for lane in plan.lanes
            if lane.device is not None and lane.device in host.devices
        }
        own = [
            each
            for each in await self._netlink.dump(address_dump(), read_address)
            if each.interface not in ours
        ]
        hops: set[IPAddress] = set()
        for version in host.versions:
            hops.update(
                hop
                for found in await self._netlink.dump(next_hop_dump(version), read_next_hops)
                for hop in found
            )
        named = {each.address: f"interface {_name(each.interface)}" for each in own}
        return AddressesInUse(plan.staff, named, frozenset(hops), frozenset(name_servers(self._resolvers)))


class Presence:
    """Notices when the interface of a lane that is up vanishes: `post` takes DeviceLost."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._seen: set[int] = set()  # lanes whose interface was there since they came up

    def note(self, plan: NetworkPlan, host: HostFeatures) -> None:
        """Remember which of them exist now."""
        self._seen |= {lane.number for lane in plan.lanes if lane.up and lane.device in host.devices}

    def report_lost(self, plan: NetworkPlan, host: HostFeatures) -> None:
        """Post those that existed and do not any more."""
        up = {lane.number: lane for lane in plan.lanes if lane.up}
        lost = {number for number in self._seen & up.keys() if up[number].device not in host.devices}
        self._seen = (self._seen & up.keys()) - lost
        for number in sorted(lost):
            self._post(DeviceLost(up[number].tunnel, device=up[number].device))


def beside(around: AddressesInUse, plan: NetworkPlan, held: Iterable[Held], lane: Lane) -> AddressesInUse:
    """The surroundings of one lane, with what belongs to other tunnels. Of two with the same address the
    first one keeps it.
    """
    others = [other for other in plan.lanes if other.tunnel != lane.tunnel]
    gateways = {gateway: other.tunnel for other in others if (gateway := _address(other.gateway)) is not None}
    assigned = {
        each.address: other.tunnel
        for other, each in held
        if other.tunnel != lane.tunnel and _older(other, lane)
    }
    reached = {} if plan.directory is None else plan.directory.ranked
    destinations = tuple(
        (network, ranked[0]) for network, ranked in reached.items() if lane.tunnel not in ranked
    )
    return replace(around, gateways=gateways, assigned=assigned, destinations=destinations)


def _older(other: Lane, lane: Lane) -> bool:
    return (not other.up, other.number) < (not lane.up, lane.number)


def _address(text: str | None) -> IPAddress | None:
    try:
        return ip_address(text or "")
    except ValueError:
        return None


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def name_servers(files: Iterable[Path]) -> Iterator[IPAddress]:
    """The resolvers that a host asks (resolv.conf(5))."""
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = (line.split() for line in file.read_text().splitlines())
            named = (
                words[1].partition("%")[0] for words in lines if len(words) > 1 and words[0] == "nameserver"
            )
            yield from (address for text in named if (address := _address(text)) is not None)
