"""Routes and policy rules of ours in the kernel, and the state of interfaces (netdevice(7)).

Everything of ours carries the protocol number 173. Nothing that does not is ever touched: a foreign route
that stands in our place makes the change fail with EEXIST.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from supervisor.core.network.changes import Change, Op
from supervisor.core.network.layout import Device, HostFeatures, Route
from supervisor.core.network.rules import Rule
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.offload import run_offloaded
from supervisor.kernel.route.messages import RawRoute, pack, read_route, read_rule, route_dump, rule_dump

_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFINDEX = (
    0x8913,
    0x8921,
    0x8933,
)  # netdevice(7): quicker than netlink for few
_IFF_UP = 1
_IPV6_SYSCTL = Path("/proc/sys/net/ipv6/conf")


class RouteTable:
    """The routing half of the kernel. Errors are OSError (with the kernel's errno), TimeoutError
    among them.
    """

    def __init__(self) -> None:
        self.netlink = AsyncNetlink()  # to the kernel's routing, interfaces and addresses (rtnetlink(7))
        self._query: socket.socket | None = None
        self._names: dict[int, str] = {}  # of devices that were seen
        # By IP version: what was last read, as the kernel said it and as routes.
        self._known: dict[int, tuple[list[bytes], list[RawRoute]]] = {}

    def open(self) -> None:
        """Open the sockets, in the network namespace of the calling thread."""
        self._query = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.netlink.open()

    def close(self) -> None:
        """Close the sockets, a second time does nothing; routes and rules stay."""
        self.netlink.close()
        if self._query is not None:
            self._query.close()
        self._query = None

    def host(self, names: Iterable[str]) -> HostFeatures:
        """What is known about these devices and `lo`; one that does not exist is left out."""
        ipv6 = _IPV6_SYSCTL.exists()
        devices = {name: device for name in {"lo", *names} if (device := self._device(name)) is not None}
        self._names.update({device.index: name for name, device in devices.items()})
        return HostFeatures(devices, ipv6)

    def _device(self, name: str) -> Device | None:
        try:
            index = self._ask(_SIOCGIFINDEX, name, "i")
            flags, mtu = self._ask(_SIOCGIFFLAGS, name, "H"), self._ask(_SIOCGIFMTU, name, "i")
        except OSError:
            return None  # it does not exist, or vanished between two questions
        return Device(index, mtu, bool(flags & _IFF_UP), _takes_ipv6(name))

    def _ask(self, question: int, name: str, form: str) -> int:
        assert self._query is not None
        answer = fcntl.ioctl(self._query, question, struct.pack("16s24x", name.encode()))
        return int(struct.unpack_from(form, answer, 16)[0])

    async def routes(self, versions: Iterable[int]) -> frozenset[Route]:
        """All routes of ours, in all tables."""
        found = [raw for version in versions for raw in await self._read(version)]
        return await run_offloaded(len(found), lambda: frozenset(map(self._named, found)))

    async def _read(self, version: int) -> list[RawRoute]:
        """Of one IP version. They hardly ever change, and to parse them takes longer than all else."""
        bodies = await self.netlink.dump(route_dump(version), bytes)
        before, routes = self._known.get(version, ([], []))
        if bodies != before:
            routes = await run_offloaded(len(bodies), lambda: [*filter(None, map(read_route, bodies))])
            self._known[version] = bodies, routes
        return routes

    async def rules(self, versions: Iterable[int]) -> frozenset[Rule]:
        """All policy rules of ours."""
        return frozenset(
            [rule for version in versions for rule in await self.netlink.dump(rule_dump(version), read_rule)]
        )

    async def change_all(self, changes: Sequence[Change], host: HostFeatures) -> list[OSError | None]:
        """Carry out at most CHUNK changes of routes and rules, each by itself; what went wrong with each.
        Removing what is gone already is success.
        """
        said = await self.netlink.change([pack(change, _index(change.item, host)) for change in changes])
        return [
            None if error is not None and change.op is Op.REMOVE and error.errno in _GONE else error
            for change, error in zip(changes, said, strict=True)
        ]

    def _named(self, raw: RawRoute) -> Route:
        route, index = raw
        if not index or route.kind not in ("unicast", "local"):
            return route  # IPv6 gives `lo` for an unreachable route
        return route._replace(device=self._name(index))

    def _name(self, index: int) -> str:
        """A name may move to another device; ours are asked for by name in each `host`, so only foreign
        ones are looked up here.
        """
        if index not in self._names:
            try:
                self._names[index] = socket.if_indextoname(index)
            except OSError:
                return f"if{index}"
        return self._names[index]


def _takes_ipv6(name: str) -> bool:
    try:
        with open(f"{_IPV6_SYSCTL}/{name}/disable_ipv6") as file:
            return file.read().strip() == "0"
    except OSError:
        return False  # not with IPv6 switched off, nor with an MTU below 1280


def _index(item: object, host: HostFeatures) -> int:
    """Of the device. One that is gone gives 0, which for a removal matches any and for an addition is an
    error.
    """
    device = host.devices.get(item.device) if isinstance(item, Route) and item.device is not None else None
    return 0 if device is None else device.index
