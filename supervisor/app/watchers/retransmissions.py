"""Lets TCP connections to gateways send again soon after a silence: `supervisor.core.network.retransmission`.

kernel (retransmission timeouts, once a second) -> timers of connections to gateways -> `helped` -> nftables
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from ipaddress import ip_address

import structlog

from supervisor.core.network.retransmission import NOBODY, helped
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, TunnelState
from supervisor.kernel.inspect.tcp_connections import TimeoutCounter, retransmission_timers
from supervisor.kernel.nft.retransmission_table import RetransmissionTable
from supervisor.ticks import until_tick
from tunnels.networks import IPAddress
from tunnels.settings import Tunnel

LOOK_SECONDS = 1.0  # between two looks at the counter
NAME_SECONDS = 5.0  # that a resolver has
REFUSED_SECONDS = 600.0  # until the kernel is asked again for what it cannot do

_log = structlog.get_logger()


class RetransmissionWatch:
    """Helps all TCP connections of this host to the gateways of sessions that are up."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._tunnels: object = None  # of the snapshot that `_known` is of
        self._known: frozenset[IPAddress] = frozenset()  # addresses of gateways
        self._names: dict[tuple[str, int], frozenset[IPAddress]] = {}  # by gateway's name and session
        self._refused = False

    async def run(self) -> None:
        """Watch, for ever. In the network namespace in which it begins."""
        with (
            contextlib.closing(TimeoutCounter()) as counter,
            contextlib.closing(RetransmissionTable()) as table,
        ):
            table.open()
            while True:
                try:
                    await self._follow(counter, table)
                except OSError as error:
                    _log.warning(
                        "TCP connections to gateways may come back late after a silence, because the kernel "
                        "refuses rules with `dup`: look whether nft_dup_ipv4 and nft_dup_ipv6 can be loaded",
                        error=str(error),
                    )
                    await asyncio.sleep(REFUSED_SECONDS)

    async def _follow(self, counter: TimeoutCounter, table: RetransmissionTable) -> None:
        loop, state, before = asyncio.get_running_loop(), NOBODY, counter.read()
        while True:
            await until_tick(LOOK_SECONDS)
            gateways, count = await self._gateways(), counter.read()
            if gateways and (count != before or state.since):
                timers = await asyncio.to_thread(retransmission_timers, gateways)
                state = helped(state, timers, loop.time())
                await table.answer(state.connections)
            before = count

    async def _gateways(self) -> frozenset[IPAddress]:
        """The addresses of those with which a session is up."""
        tunnels = self._snapshot().tunnels
        if tunnels is not self._tunnels:
            self._known = await self._found(tunnels)
            self._tunnels = tunnels
        return self._known

    async def _found(self, tunnels: Mapping[str, tuple[Tunnel, TunnelState]]) -> frozenset[IPAddress]:
        found: set[IPAddress] = set()
        names = []
        for _, state in tunnels.values():
            for session in (state.active, state.standby):
                if session is None or session.phase is not Phase.UP or session.session.peer is None:
                    continue
                try:
                    found.add(ip_address(session.session.peer))
                except ValueError:
                    names.append((session.session.peer, session.session.number))
        self._names = {name: self._names[name] for name in names if name in self._names}
        for name in names:
            if name not in self._names:
                self._names[name] = await _resolved(name[0])
        return frozenset(found.union(*self._names.values()))


async def _resolved(name: str) -> frozenset[IPAddress]:
    with contextlib.suppress(OSError, UnicodeError):
        async with asyncio.timeout(NAME_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(name, None)
            return frozenset(ip_address(str(where[0]).partition("%")[0]) for *_, where in found)
    return frozenset()
