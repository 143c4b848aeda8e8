"""Asks the gateways of tunnels that fail whether they answer, and those of tunnels that work from time to
time, to know who ever does.

snapshot -> who is asked -> probes.gateway -> `EndpointSeen` -> inbox -> which leg is dead
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from supervisor.core.events import EndpointSeen, Event
from supervisor.core.state import Reach, Snapshot, TunnelState, Want, well
from supervisor.probes.gateway import answers
from tunnels.base import AnyKind
from tunnels.settings import Tunnel

LOOK = 3.0  # seconds between two looks at the tunnels
CALM = 60.0  # seconds between two echo requests to a gateway whose tunnels work
# seconds between two questions to one whose tunnels do not, when its silence is no news: strangers are soon
# banned
WORRY = 20.0
TIMEOUT = 2.0  # seconds that a gateway has to answer
SILENT = 2  # questions in a row without an answer that mean something
_AT_ONCE = 50  # gateways

Snapshots = Callable[[], Snapshot]


@dataclass(frozen=True, slots=True)
class ProbedGateway:
    """Who is asked, and how."""

    address: str
    port: int | None  # of TCP, where everybody is answered; None: it gets an echo request


class EndpointWatch:
    """Posts `EndpointSeen` when the answer of a tunnel's gateway means something new. Nobody is asked
    while the uplink is dead.
    """

    def __init__(
        self,
        snapshot: Snapshots,
        kinds: Mapping[str, AnyKind],
        post: Callable[[Event], None],
        look: float = LOOK,
    ) -> None:
        self._snapshot, self._kinds, self._post, self._look = snapshot, kinds, post, look
        self._gateways: dict[
            str, ProbedGateway
        ] = {}  # by tunnel: the last one that its client was connected with
        self._answered: set[ProbedGateway] = set()  # those that have answered
        self._unanswered: dict[ProbedGateway, int] = {}  # questions in a row
        self._asked_at: dict[ProbedGateway, float] = {}

    async def run(self) -> None:
        """Watch, for ever."""
        loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)
        while True:
            snapshot = self._snapshot()
            self._learn(snapshot)
            if snapshot.uplink.alive and not snapshot.uplink.doubted:
                await asyncio.gather(
                    *(self._ask(gateway, gate) for gateway in self._due(snapshot, loop.time()))
                )
            self._tell(self._snapshot())
            await asyncio.sleep(self._look)

    def _learn(self, snapshot: Snapshot) -> None:
        self._gateways = {
            name: gateway for name, gateway in self._gateways.items() if name in snapshot.tunnels
        }
        for name, (tunnel, state) in snapshot.tunnels.items():
            if state.session.peer is not None and _is_address(state.session.peer):
                self._gateways[name] = ProbedGateway(
                    state.session.peer, self._kinds[tunnel.kind].door(tunnel)
                )
        known = set(self._gateways.values())
        self._answered &= known
        self._unanswered = {gateway: count for gateway, count in self._unanswered.items() if gateway in known}
        self._asked_at = {gateway: moment for gateway, moment in self._asked_at.items() if gateway in known}

    def _due(self, snapshot: Snapshot, now: float) -> set[ProbedGateway]:
        """Those that are asked now: because something is wrong, or because it was long ago."""
        return {gateway for gateway, wrong in self._known(snapshot) if now >= self._next(gateway, wrong)}

    def _next(self, gateway: ProbedGateway, wrong: bool) -> float:
        if wrong and 0 < self._unanswered.get(gateway, 0) < SILENT:
            return 0.0
        if not wrong and gateway.port is not None:
            return float("inf")
        return self._asked_at.get(gateway, float("-inf")) + (WORRY if wrong else CALM)

    def _known(self, snapshot: Snapshot) -> Iterator[tuple[ProbedGateway, bool]]:
        for name, gateway in self._gateways.items():
            tunnel, state = snapshot.tunnels[name]
            if state.want is Want.UP:
                yield gateway, _wrong(tunnel, state)

    async def _ask(self, gateway: ProbedGateway, gate: asyncio.Semaphore) -> None:
        async with gate:
            answered = await answers(gateway.address, gateway.port, TIMEOUT)
        self._asked_at[gateway] = asyncio.get_running_loop().time()
        if answered:
            self._answered.add(gateway)
        self._unanswered[gateway] = 0 if answered else self._unanswered.get(gateway, 0) + 1

    def _tell(self, snapshot: Snapshot) -> None:
        for name, (tunnel, state) in snapshot.tunnels.items():
            gateway = self._gateways.get(name)
            concerns = state.want is Want.UP and _wrong(tunnel, state)
            reach = (
                self._reach(gateway, state.endpoint) if gateway is not None and concerns else Reach.UNKNOWN
            )
            if reach is not state.endpoint:
                self._post(EndpointSeen(name, reach=reach))

    def _reach(self, gateway: ProbedGateway, before: Reach) -> Reach:
        unanswered = self._unanswered.get(gateway)
        if unanswered is None or 0 < unanswered < SILENT:
            return before
        if unanswered == 0:
            return Reach.ANSWERS
        return Reach.SILENT if gateway.port is not None or gateway in self._answered else Reach.UNKNOWN


def _wrong(tunnel: Tunnel, state: TunnelState) -> bool:
    return state.liveness.misses > 0 or not well(tunnel, state)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
