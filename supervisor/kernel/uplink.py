"""Watches this host's own uplink: its default route, the interface behind it, and the gateway.

Default routes and interfaces are read again when the kernel notifies of a change of routing, while something
is wrong, and once a minute. Only gateways are asked all the time: without one, a notification is waited for.

The gateway is asked by the kernel itself (ARP, RFC 826; neighbour discovery, RFC 4861): an entry that it has
is set to PROBE, otherwise a datagram to the gateway's discard port makes it look. Its neighbour entry is the
answer. Gateways of clouds answer that, though no ping.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from common.netlink import NetlinkRequest, NetlinkSocket
from common.rtnetlink import (
    FAMILY,
    IPV4_ADDRESS_GROUP,
    IPV4_ROUTE_GROUP,
    IPV4_RULE_GROUP,
    IPV6_ADDRESS_GROUP,
    IPV6_ROUTE_GROUP,
    IPV6_RULE_GROUP,
    LINK_GROUP,
    Link,
    link_query,
    neighbour_change,
    neighbour_query,
    read_link,
    read_neighbour,
)
from supervisor.core.events import Event, UplinkChanged, UplinkDoubted
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.route.messages import read_lookup, route_query
from supervisor.ticks import until_tick
from tunnels.networks import IPAddress

CHECK_SECONDS = 1.0  # between two checks
ROUNDS = 3  # checks in a row that change the verdict
# How long an unanswered gateway may suspend probe verdicts; after that the uplink counts as alive until
# ROUNDS checks say otherwise.
DOUBT_SECONDS = 10.0
READ_SECONDS = 60.0  # between two readings of routes and interfaces of which no change is known
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


class RoutingChanges:
    """Notifications that routes, rules, addresses or interfaces changed, in the network namespace of the
    calling thread.
    """

    _GROUPS = (
        LINK_GROUP,
        IPV4_ADDRESS_GROUP,
        IPV6_ADDRESS_GROUP,  # with an interface's last address its routes go in silence
        IPV4_ROUTE_GROUP,
        IPV6_ROUTE_GROUP,
        IPV4_RULE_GROUP,
        IPV6_RULE_GROUP,
    )
    _BUFFER_BYTES = 4096  # a few notifications: those that get lost say the same

    def __init__(self) -> None:
        self._socket = NetlinkSocket(timeout=0, groups=self._GROUPS)
        self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._BUFFER_BYTES)

    def take(self) -> bool:
        """Something changed since the last call."""
        changed = False
        while True:
            try:
                self._socket.socket.recv(1)  # the rest of the datagram is dropped
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            changed = True

    async def wait(self, seconds: float) -> None:
        """Return as soon as something changes, or after these seconds."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, changed.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()
        finally:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


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
        self._known: list[
            NetlinkRequest
        ] = []  # of this look: what lets the kernel ask gateways that it knows
        self._alive, self._contrary = True, 0
        self._doubted, self._in_doubt_since = False, 0.0
        self._routes: list[DefaultRoute] = []
        self._links: dict[int, Link] = {}  # by index: the interfaces of these routes
        self._valid_until = 0.0  # loop time until which routes and links need not be read again

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
        async with contextlib.AsyncExitStack() as opened:
            netlink, changes = AsyncNetlink(), RoutingChanges()
            opened.callback(netlink.close)
            opened.callback(changes.close)
            netlink.open()
            while True:
                if changes.take():
                    self._valid_until = 0.0
                with contextlib.suppress(OSError):  # the next look will tell
                    self._judge(await self._problem(netlink))
                if self._nothing_to_ask():
                    await changes.wait(self._valid_until - asyncio.get_running_loop().time())
                    await until_tick(self._interval / 2)  # changes seldom come alone
                else:
                    await until_tick(self._interval)

    def _nothing_to_ask(self) -> bool:
        """All is well, and no gateway has to be asked to know that: only a notification can change it."""
        asked = any(route.gateway is not None for route in self._routes)
        return self._alive and not (asked or self._contrary or self._doubted)

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
        now = asyncio.get_running_loop().time()
        if now >= self._valid_until or not self._alive or self._contrary or self._doubted:
            self._valid_until = 0.0  # also if the reading fails
            await self._read(netlink)
            self._valid_until = now + READ_SECONDS
        self._had = frozenset(self._routes) or self._had
        if not self._had:
            return None
        if not self._routes:
            return "there is no default route any more"
        self._known = []
        problems = [await self._trouble(netlink, route) for route in self._routes]
        await self._ask_known(netlink)
        return None if None in problems else "; ".join(dict.fromkeys(filter(None, problems)))

    async def _read(self, netlink: AsyncNetlink) -> None:
        routes = await _default_routes(netlink)
        self._routes = sorted(routes, key=lambda route: (route.version, route.device))
        self._links = {
            index: read_link(await netlink.ask(link_query(index)))
            for index in {route.device for route in routes}
        }

    async def _trouble(self, netlink: AsyncNetlink, route: DefaultRoute) -> str | None:
        link = self._links[route.device]
        if not link.carrier:
            return f"{link.name} has no carrier"
        if route.gateway is None:
            return None
        state = await _neighbour_state(netlink, route.device, route.gateway)
        (self._looking.discard if state & (_KNOWN | _FOR_EVER) else self._looking.add)(route)
        if state & (_KNOWN | _FAILED | _FOR_EVER):  # otherwise the kernel is still looking
            self._silent[route] = bool(state & _FAILED)
        if state & _KNOWN:
            self._known.append(neighbour_change(route.device, route.gateway, _PROBE))
        elif not state & _FOR_EVER:
            _make_kernel_look(route.device, route.gateway)
        silent = self._silent.get(route)
        return f"the gateway {route.gateway} on {link.name} does not answer" if silent else None

    async def _ask_known(self, netlink: AsyncNetlink) -> None:
        """Let the kernel ask the gateways of which it has an entry. OSError: it does not."""
        for error in await netlink.change(self._known) if self._known else ():
            if error is not None:
                raise error


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
    try:
        entry = read_neighbour(await netlink.ask(neighbour_query(device, gateway)))
    except FileNotFoundError:
        return 0
    return 0 if entry is None else entry[1]


def _make_kernel_look(device: int, gateway: IPAddress) -> None:
    with contextlib.suppress(OSError), socket.socket(FAMILY[gateway.version], socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        scope: tuple[Any, ...] = (0, device) if gateway.version == 6 else ()
        probe.sendto(b"", (str(gateway), _DISCARD, *scope))
