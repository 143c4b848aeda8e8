"""Does this host's own way out work: its default route, the device behind it, and the gateway at the other
end.

The gateway is asked by the kernel itself (ARP, RFC 826; neighbour discovery, RFC 4861): an entry that it has
is set to PROBE, otherwise a datagram to the gateway's discard port makes it look. Its neighbour entry is the
answer. Gateways of clouds answer that, though no ping.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError

from supervisor.core.events import Event, UplinkChanged, UplinkDoubted

INTERVAL = 1.0  # seconds between two looks
ROUNDS = 3  # looks in a row that change the verdict
# seconds for which it may be left open whether the way out works; then it does, until there is a verdict
PATIENCE = 10.0
_DISCARD = 9  # RFC 863
_CARRIER = 0x10000  # IFF_LOWER_UP
_FAILED = 0x20  # NUD_FAILED: states of a neighbour entry, linux/neighbour.h
_PROBE = 0x10  # NUD_PROBE
_KNOWN = 0x0E  # NUD_REACHABLE, NUD_STALE, NUD_DELAY
_FOR_EVER = 0xC0  # NUD_NOARP, NUD_PERMANENT
# Addresses that are nobody's (RFC 5737, RFC 3849): only a default route leads to them. To list all routes
# would cost too much.
_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """One default route."""

    family: int
    device: int
    address: str | None  # None: whoever is at the other end of the device


class UplinkWatch:
    """Posts `UplinkChanged` when every way out is dead, and when one is back, and `UplinkDoubted` at the
    first sign of it.

    A host that never had a default route has none to lose.
    """

    def __init__(self, post: Callable[[Event], None], interval: float = INTERVAL) -> None:
        self._post, self._interval = post, interval
        self._had: frozenset[DefaultRoute] = frozenset()
        self._silent: dict[DefaultRoute, bool] = {}
        self._looking: set[DefaultRoute] = set()
        self._alive, self._contrary = True, 0
        self._doubted, self._in_doubt_since = False, 0.0

    async def run(self) -> None:
        """Look, for ever. In the namespace in which it begins."""
        async with AsyncIPRoute() as rtnl:
            while True:
                with contextlib.suppress(NetlinkError, OSError, TimeoutError):  # the next look will tell
                    self._judge(await self._problem(rtnl))
                await asyncio.sleep(self._interval)

    def _judge(self, problem: str | None) -> None:
        self._doubt(self._alive and (problem is not None or self._had <= self._looking))
        self._contrary = self._contrary + 1 if (problem is None) is not self._alive else 0
        if self._contrary >= ROUNDS:
            self._alive, self._contrary = problem is None, 0
            self._post(UplinkChanged("", alive=self._alive, text=problem or ""))

    def _doubt(self, doubtful: bool) -> None:
        """Tell when doubts begin and when they are gone."""
        now = asyncio.get_running_loop().time()
        if not doubtful or not self._had:
            self._in_doubt_since = now
        doubted = 0.0 < now - self._in_doubt_since <= PATIENCE
        if doubted is not self._doubted:
            self._doubted = doubted
            self._post(UplinkDoubted("", doubted=doubted))

    async def _problem(self, rtnl: Any) -> str | None:
        """What is wrong with every way out; None: one works, or there never was one."""
        gateways = await _gateways(rtnl)
        self._had = gateways or self._had
        if not self._had:
            return None
        if not gateways:
            return "there is no default route any more"
        problems = [
            await self._trouble(rtnl, gateway)
            for gateway in sorted(gateways, key=lambda each: (each.family, each.device))
        ]
        return None if None in problems else "; ".join(dict.fromkeys(filter(None, problems)))

    async def _trouble(self, rtnl: Any, gateway: DefaultRoute) -> str | None:
        (link,) = await rtnl.link("get", index=gateway.device)
        name = dict(link["attrs"])["IFLA_IFNAME"]
        if not link["flags"] & _CARRIER:
            return f"{name} has no carrier"
        if gateway.address is None:
            return None
        state = await _neighbour(rtnl, gateway)
        (self._looking.discard if state & (_KNOWN | _FOR_EVER) else self._looking.add)(gateway)
        if state & (_KNOWN | _FAILED | _FOR_EVER):  # otherwise the kernel is still looking
            self._silent[gateway] = bool(state & _FAILED)
        if state & _KNOWN:
            await rtnl.neigh(
                "change", family=gateway.family, dst=gateway.address, ifindex=gateway.device, state=_PROBE
            )
        elif not state & _FOR_EVER:
            _ask(gateway)
        return (
            f"the gateway {gateway.address} on {name} does not answer" if self._silent.get(gateway) else None
        )


async def _gateways(rtnl: Any) -> frozenset[DefaultRoute]:
    found = set()
    for family, address in _OUTSIDE:
        with contextlib.suppress(NetlinkError):  # there is none
            for route in await rtnl.route("get", family=family, dst=address):
                attributes = dict(route["attrs"])
                found.add(DefaultRoute(family, attributes["RTA_OIF"], attributes.get("RTA_GATEWAY")))
    return frozenset(found)


async def _neighbour(rtnl: Any, gateway: DefaultRoute) -> int:
    """The state of its entry; 0: there is none."""
    async for entry in await rtnl.get_neighbours(family=gateway.family, ifindex=gateway.device):
        if dict(entry["attrs"]).get("NDA_DST") == gateway.address:
            return int(entry["state"])
    return 0


def _ask(gateway: DefaultRoute) -> None:
    """Make the kernel look for the gateway."""
    with contextlib.suppress(OSError), socket.socket(gateway.family, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        scope: tuple[Any, ...] = (0, gateway.device) if gateway.family == socket.AF_INET6 else ()
        probe.sendto(b"", (gateway.address, _DISCARD, *scope))
