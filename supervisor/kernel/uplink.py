"""Watches this host's own uplink: its default route, the interface behind it, and the gateway.

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
from ipaddress import ip_address
from typing import Any

from common.rtnetlink import FAMILY, link_query, neighbour_change, neighbour_dump, read_link, read_neighbour
from supervisor.core.events import Event, UplinkChanged, UplinkDoubted
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.route.messages import read_lookup, route_query
from tunnels.settings import IPAddress

CHECK_SECONDS = 1.0  # between two checks
ROUNDS = 3  # checks in a row that change the verdict
# How long an unanswered gateway may suspend probe verdicts; after that the uplink counts as alive until
# ROUNDS checks say otherwise.
DOUBT_SECONDS = 10.0
_DISCARD = 9  # port, RFC 863
_FAILED = 0x20  # NUD_FAILED: states of a neighbour entry, linux/neighbour.h
_PROBE = 0x10  # NUD_PROBE
_KNOWN = 0x0E  # NUD_REACHABLE, NUD_STALE, NUD_DELAY
_FOR_EVER = 0xC0  # NUD_NOARP, NUD_PERMANENT
# Documentation addresses (RFC 5737, RFC 3849): only a default route leads to them. To list all routes would
# cost too much.
_OUTSIDE = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """One default route."""

    version: int  # of IP
    device: int  # index of the interface
    gateway: IPAddress | None  # None: the peer at the other end of the interface


class UplinkWatch:
    """Posts `UplinkChanged` when every way out is dead, and when one is back, and `UplinkDoubted` at the
    first sign of it.

    A host that never had a default route has none to lose.
    """

    def __init__(self, post: Callable[[Event], None], interval: float = CHECK_SECONDS) -> None:
        self._post, self._interval = post, interval
        self._had: frozenset[DefaultRoute] = frozenset()
        self._silent: dict[DefaultRoute, bool] = {}
        self._looking: set[DefaultRoute] = set()
        self._alive, self._contrary = True, 0
        self._doubted, self._in_doubt_since = False, 0.0

    @property
    def default_routes(self) -> frozenset[DefaultRoute]:
        """The last default routes that this host had."""
        return self._had

    @property
    def silent(self) -> frozenset[DefaultRoute]:
        """Routes whose gateway does not answer."""
        return frozenset(route for route, silent in self._silent.items() if silent)

    @property
    def settled(self) -> bool:
        """True if it is known of every gateway whether it answers."""
        return bool(self._silent) and not self._looking

    async def run(self) -> None:
        """Look, for ever. In the namespace in which it begins."""
        netlink = AsyncNetlink()
        try:
            netlink.open()
            while True:
                with contextlib.suppress(OSError):  # the next look will tell
                    self._judge(await self._problem(netlink))
                await asyncio.sleep(self._interval)
        finally:
            netlink.close()

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
        doubted = 0.0 < now - self._in_doubt_since <= DOUBT_SECONDS
        if doubted is not self._doubted:
            self._doubted = doubted
            self._post(UplinkDoubted("", doubted=doubted))

    async def _problem(self, netlink: AsyncNetlink) -> str | None:
        """What is wrong with every way out; None: one works, or there never was one."""
        routes = await _default_routes(netlink)
        self._had = routes or self._had
        if not self._had:
            return None
        if not routes:
            return "there is no default route any more"
        problems = [
            await self._trouble(netlink, route)
            for route in sorted(routes, key=lambda each: (each.version, each.device))
        ]
        return None if None in problems else "; ".join(dict.fromkeys(filter(None, problems)))

    async def _trouble(self, netlink: AsyncNetlink, route: DefaultRoute) -> str | None:
        link = read_link(await netlink.ask(link_query(route.device)))
        if not link.carrier:
            return f"{link.name} has no carrier"
        if route.gateway is None:
            return None
        state = await _neighbour_state(netlink, route.device, route.gateway)
        (self._looking.discard if state & (_KNOWN | _FOR_EVER) else self._looking.add)(route)
        if state & (_KNOWN | _FAILED | _FOR_EVER):  # otherwise the kernel is still looking
            self._silent[route] = bool(state & _FAILED)
        if state & _KNOWN:
            (error,) = await netlink.change([neighbour_change(route.device, route.gateway, _PROBE)])
            if error is not None:
                raise error
        elif not state & _FOR_EVER:
            _make_kernel_look(route.device, route.gateway)
        silent = self._silent.get(route)
        return f"the gateway {route.gateway} on {link.name} does not answer" if silent else None


async def _default_routes(netlink: AsyncNetlink) -> frozenset[DefaultRoute]:
    found = set()
    for address in _OUTSIDE:
        try:
            route = read_lookup(await netlink.ask(route_query(address)))
        except TimeoutError:
            raise
        except OSError:  # there is none
            continue
        gateway = route.gateway
        # The neighbour of an IPv4 route via an IPv6 gateway is not asked.
        known = gateway is not None and gateway.version == address.version
        found.add(DefaultRoute(address.version, route.device, gateway if known else None))
    return frozenset(found)


async def _neighbour_state(netlink: AsyncNetlink, device: int, gateway: IPAddress) -> int:
    """0: there is no entry."""
    entries = await netlink.dump(neighbour_dump(device, gateway.version), read_neighbour)
    return dict(entries).get(gateway, 0)


def _make_kernel_look(device: int, gateway: IPAddress) -> None:
    with contextlib.suppress(OSError), socket.socket(FAMILY[gateway.version], socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        scope: tuple[Any, ...] = (0, device) if gateway.version == 6 else ()
        probe.sendto(b"", (str(gateway), _DISCARD, *scope))
