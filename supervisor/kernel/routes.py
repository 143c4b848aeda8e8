"""Routes, policy rules and devices: what the kernel has of ours, and one change at a time.

Everything of ours carries the protocol number 173. Nothing that does not is ever touched: a foreign route that stands in our place
makes the change fail with EEXIST.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from supervisor.core.layout import ANYWHERE, NO_MASK, Change, Device, Host, Op, Route, Rule
from supervisor.kernel.errors import TIMEOUT

PROTOCOL = 173
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
# A kind without a name keeps its number.
_KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
_NUMBERS = {name: number for number, name in _KINDS.items()}
_ANY_SCOPE = 255            # RT_SCOPE_NOWHERE: a removal that does not look at the scope
_TO_TABLE = 1               # FR_ACT_TO_TBL
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFINDEX = 0x8913, 0x8921, 0x8933
_IFF_UP = 1
_IPV6_SYSCTL = Path("/proc/sys/net/ipv6/conf")
_ATTEMPTS = 5               # at a dump that changes interrupt


class Routes:
    """The routing half of the kernel. Errors are `NetlinkError` (with the kernel's errno), OSError and TimeoutError."""

    def __init__(self) -> None:
        self._rtnl: Any = None
        self._query: socket.socket | None = None
        self._names: dict[int, str] = {}        # of devices that were seen
        self._one = asyncio.Lock()              # the kernel refuses a second dump on a socket

    async def open(self) -> None:
        """Open the sockets, in the network namespace of the calling thread."""
        self._query = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._rtnl = AsyncIPRoute(strict_check=True, ext_ack=True)
        await self._rtnl.setup_endpoint()
        self._rtnl.socket.bind((0, 0))

    @property
    def port(self) -> int:
        """The netlink address of the socket: events that carry it are our own doing."""
        return int(self._rtnl.socket.getsockname()[0])

    def close(self) -> None:
        """Close the sockets; routes and rules stay."""
        for opened in (self._rtnl, self._query):
            if opened is not None:
                opened.close()
        self._rtnl = self._query = None

    def host(self, names: Iterable[str]) -> Host:
        """What is known about these devices and `lo`; one that does not exist is left out."""
        ipv6 = _IPV6_SYSCTL.exists()
        devices = {name: device for name in {"lo", *names} if (device := self._device(name)) is not None}
        self._names.update({device.index: name for name, device in devices.items()})
        return Host(devices, ipv6)

    def _device(self, name: str) -> Device | None:
        try:
            index = self._ask(_SIOCGIFINDEX, name, "i")
            flags, mtu = self._ask(_SIOCGIFFLAGS, name, "H"), self._ask(_SIOCGIFMTU, name, "i")
        except OSError:
            return None             # it does not exist, or vanished between two questions
        return Device(index, mtu, bool(flags & _IFF_UP), _takes_ipv6(name))

    def _ask(self, question: int, name: str, form: str) -> int:
        assert self._query is not None
        answer = fcntl.ioctl(self._query, question, struct.pack("16s24x", name.encode()))
        return int(struct.unpack_from(form, answer, 16)[0])

    async def routes(self, versions: Iterable[int]) -> frozenset[Route]:
        """All routes of ours, in all tables."""
        found = set()
        for version in versions:
            for message in await self._dump("route", family=_FAMILY[version], proto=PROTOCOL):
                if message["proto"] == PROTOCOL:
                    found.add(await self._route(version, message))
        return frozenset(found)

    async def rules(self, versions: Iterable[int]) -> frozenset[Rule]:
        """All policy rules of ours."""
        found = set()
        for version in versions:
            for message in await self._dump("rule", family=_FAMILY[version]):
                if message.get_attr("FRA_PROTOCOL") == PROTOCOL:
                    found.add(_rule(version, message))
        return frozenset(found)

    async def change(self, change: Change, host: Host, take_place: bool = False) -> None:
        """Add or remove a route or rule. Removing what is gone already is success; `take_place`: an added route may replace ours."""
        item, add = change.item, change.op is Op.ADD
        try:
            async with asyncio.timeout(TIMEOUT):
                if isinstance(item, Route):
                    command = ("replace" if take_place else "add") if add else "del"
                    await self._rtnl.route(command, **_route_arguments(item, host), **({} if add else {"scope": _ANY_SCOPE}))
                elif isinstance(item, Rule):
                    await self._rtnl.rule("add" if add else "del", **_rule_arguments(item))
        except NetlinkError as error:
            if add or error.code not in _GONE:
                raise

    async def _dump(self, what: str, **match: Any) -> list[Any]:
        for attempt in range(_ATTEMPTS):
            try:
                async with self._one, asyncio.timeout(TIMEOUT):
                    return [message async for message in await getattr(self._rtnl, what)("dump", **match)]
            except NetlinkDumpInterrupted:
                if attempt == _ATTEMPTS - 1:
                    raise
        return []

    async def _route(self, version: int, message: Any) -> Route:
        network = ANYWHERE[version] if message["dst_len"] == 0 else ip_network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}")
        table, kind = message.get_attr("RTA_TABLE") or message["table"], _KINDS.get(message["type"], str(message["type"]))
        index = message.get_attr("RTA_OIF")
        device = await self._name(index) if index and kind in ("unicast", "local") else None
        return Route(network, table, message.get_attr("RTA_PRIORITY") or 0, kind, device)

    async def _name(self, index: int) -> str:
        """A name may move to another device; ours are asked for by name in each `host`, so only foreign ones are looked up here."""
        if index not in self._names:
            try:
                self._names[index] = socket.if_indextoname(index)
            except OSError:
                return f"if{index}"
        return self._names[index]


def _takes_ipv6(name: str) -> bool:
    try:
        return (_IPV6_SYSCTL / name / "disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False                # not with IPv6 switched off, nor with an MTU below 1280


def _rule(version: int, message: Any) -> Rule:
    mark, mask = message.get_attr("FRA_FWMARK") or 0, message.get_attr("FRA_FWMASK")
    table = message.get_attr("FRA_TABLE") or message["table"]
    return Rule(version, mark, table, message.get_attr("FRA_PRIORITY") or 0, NO_MASK if mask is None else mask)


def _route_arguments(route: Route, host: Host) -> Mapping[str, Any]:
    """For pyroute2. A device that is gone gives index 0 for a removal, which matches any, and an error for an addition."""
    arguments: dict[str, Any] = {
        "family": _FAMILY[route.network.version], "dst_len": route.network.prefixlen, "table": route.table,
        "priority": route.metric, "proto": PROTOCOL, "type": _NUMBERS.get(route.kind) or int(route.kind),
    }
    if route.network.prefixlen:
        arguments["dst"] = str(route.network.network_address)
    if route.device is not None:
        device = host.devices.get(route.device)
        if device is not None:
            arguments["oif"] = device.index
    return arguments


def _rule_arguments(rule: Rule) -> Mapping[str, Any]:
    arguments: dict[str, Any] = {
        "family": _FAMILY[rule.version], "priority": rule.priority, "table": rule.table, "protocol": PROTOCOL, "action": _TO_TABLE,
    }
    if rule.mark:
        arguments |= {"fwmark": rule.mark, "fwmask": rule.mask}
    return arguments
