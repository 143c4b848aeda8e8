"""Probes the remote gateways of tunnels that fail, to tell whether gateway or tunnel is dead; and those of
tunnels that work now and then, to learn which ones answer at all.

snapshot -> gateways that are due -> `supervisor.probes.gateway` -> `EndpointSeen` -> inbox
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from supervisor.core.events import EndpointSeen, Event
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Reach, TunnelState, Want, well
from supervisor.probes.gateway import answers
from supervisor.ticks import tick_after
from tunnels.base import AnyKind
from tunnels.settings import Tunnel

CHECK_SECONDS = 3.0  # between two checks of the tunnels while all gateways answer
SUSPECT_CHECK_SECONDS = 0.25  # the same while a tunnel fails: its gateway's return is to be seen at once
WORKING_PROBE_SECONDS = 60.0  # between two echo requests to a gateway whose tunnels work
# Between two probes of a gateway that answers although its tunnels fail: it may ban us for more.
FAILING_PROBE_SECONDS = 20.0
SILENT_PROBE_SECONDS = 0.25  # the same of one that does not answer: what reaches nobody harms nobody
ANSWER_TIMEOUT_SECONDS = 1.0
# While no more gateways than these are silent, a request does not wait for the timeout of the one before it.
OVERLAPPING_PROBES = 10
SILENT_AFTER_PROBES = 2  # unanswered in a row
_MAX_CONCURRENT_PROBES = 50

Snapshots = Callable[[], Snapshot]


@dataclass(frozen=True, slots=True)
class ProbedGateway:
    """A remote gateway, and how it is probed."""

    address: str
    port: int | None  # TCP port that answers everybody; None: echo requests
    name: str | None = None  # asked for its addresses before each probe of the port: the gateway may move


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What earlier probes of a gateway have shown."""

    probed_at: float = float("-inf")  # seconds of the loop's clock
    unanswered: int = 0  # probes in a row
    ever_answered: bool = False
    suspected: bool = False  # one of its tunnels failed when it was probed last

    def after(self, answered: bool, now: float, suspect: bool) -> ProbeRecord:
        """The record after one more probe."""
        unanswered = 0 if answered else self.unanswered + 1
        return ProbeRecord(now, unanswered, answered or self.ever_answered, suspect)

    @property
    def undecided(self) -> bool:
        """True if the last probes were not answered, but too few for a verdict."""
        return 0 < self.unanswered < SILENT_AFTER_PROBES

    def silent(self, gateway: ProbedGateway) -> bool:
        """True if it does not answer although it would if it were reachable."""
        decided = self.unanswered >= SILENT_AFTER_PROBES
        return decided and (gateway.port is not None or self.ever_answered)

    def due_at(self, gateway: ProbedGateway, suspect: bool, failing_seconds: float) -> float:
        """When the gateway is probed again; `suspect`: one of its tunnels fails."""
        if suspect and (self.undecided or not self.suspected):
            return 0.0
        if not suspect and gateway.port is not None:
            return float("inf")
        if suspect and self.silent(gateway):
            return self.probed_at + min(SILENT_PROBE_SECONDS, failing_seconds)
        return self.probed_at + (failing_seconds if suspect else WORKING_PROBE_SECONDS)


class EndpointWatch:
    """Posts `EndpointSeen` when the reachability of a tunnel's gateway changes. No probes while the uplink is
    dead.
    """

    def __init__(
        self,
        snapshot: Snapshots,
        kinds: Mapping[str, AnyKind],
        post: Callable[[Event], None],
        missed: asyncio.Event,
        interval: float = CHECK_SECONDS,
        failing_seconds: float = FAILING_PROBE_SECONDS,
    ) -> None:
        """`missed`: set when a probe was not answered, so that its gateway is asked at once."""
        self._snapshot, self._kinds, self._post = snapshot, kinds, post
        self._missed, self._interval, self._failing_seconds = missed, interval, failing_seconds
        # By tunnel: the last gateway that its client was connected with.
        self._gateways: dict[str, ProbedGateway] = {}
        self._records: dict[ProbedGateway, ProbeRecord] = {}  # of those that were probed
        # Nothing is to be done before `_due_at` (loop's clock) as long as the snapshot is this one.
        self._settled: Snapshot | None = None
        self._due_at = 0.0

    @property
    def records(self) -> Mapping[ProbedGateway, ProbeRecord]:
        """What is known of the gateways that were probed."""
        return self._records

    async def run(self) -> None:
        """Watch for ever."""
        loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(_MAX_CONCURRENT_PROBES)
        while True:
            snapshot = self._snapshot()
            if loop.time() >= self._due_at or not _same(snapshot, self._settled):
                await self._check(snapshot, gate)
            suspect = any(suspect for _, suspect in self._known(snapshot))
            pause = min(self._interval, SUSPECT_CHECK_SECONDS) if suspect else self._interval
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(tick_after(pause)):
                    await self._missed.wait()
            self._missed.clear()

    async def _check(self, snapshot: Snapshot, gate: asyncio.Semaphore) -> None:
        self._learn(snapshot)
        may_probe = snapshot.uplink.alive and not snapshot.uplink.doubted
        if may_probe:
            now = asyncio.get_running_loop().time()
            due = self._due(snapshot, now)
            overlapping = len(due) <= OVERLAPPING_PROBES
            probes = (self._probe(*each, gate, overlapping) for each in due.items())
            await asyncio.gather(*probes)
        published = self._publish(self._snapshot())
        self._settled = None if published else snapshot
        self._due_at = self._next_due(snapshot) if may_probe else float("inf")

    def _learn(self, snapshot: Snapshot) -> None:
        self._gateways = {
            name: gateway for name, gateway in self._gateways.items() if name in snapshot.tunnels
        }
        for name, (tunnel, state) in snapshot.tunnels.items():
            if state.session.peer is not None and _is_address(state.session.peer):
                self._gateways[name] = self._gateway(tunnel, state.session.peer)
        known = set(self._gateways.values())
        self._records = {gateway: record for gateway, record in self._records.items() if gateway in known}

    def _gateway(self, tunnel: Tunnel, peer: str) -> ProbedGateway:
        kind = self._kinds[tunnel.kind]
        port, host = kind.tcp_port(tunnel), kind.endpoint(tunnel)
        named = port is not None and host is not None and not _is_address(host)
        return ProbedGateway(peer, port, host if named else None)

    def _due(self, snapshot: Snapshot, now: float) -> dict[ProbedGateway, bool]:
        """The gateways to probe now, and whether one of their tunnels fails."""
        known: dict[ProbedGateway, bool] = {}
        for gateway, suspect in self._known(snapshot):
            known[gateway] = known.get(gateway, False) or suspect
        for gateway, suspect in known.items():
            if not suspect and gateway in self._records:  # at the next failure it is asked at once
                self._records[gateway] = replace(self._records[gateway], suspected=False)
        return {
            gateway: suspect
            for gateway, suspect in known.items()
            if now >= self._record(gateway).due_at(gateway, suspect, self._failing_seconds)
        }

    def _next_due(self, snapshot: Snapshot) -> float:
        """When the next gateway is to be probed, as long as no tunnel changes."""
        return min(
            (
                self._record(gateway).due_at(gateway, suspect, self._failing_seconds)
                for gateway, suspect in self._known(snapshot)
            ),
            default=float("inf"),
        )

    def _record(self, gateway: ProbedGateway) -> ProbeRecord:
        return self._records.get(gateway, ProbeRecord())

    def _known(self, snapshot: Snapshot) -> Iterator[tuple[ProbedGateway, bool]]:
        for name, gateway in self._gateways.items():
            tunnel, state = snapshot.tunnels[name]
            if state.want is Want.UP:
                yield gateway, _suspect(tunnel, state)

    async def _probe(
        self, gateway: ProbedGateway, suspect: bool, gate: asyncio.Semaphore, overlapping: bool
    ) -> None:
        again = SILENT_PROBE_SECONDS if overlapping and self._record(gateway).silent(gateway) else None
        async with gate:
            asked = gateway.address, gateway.port, ANSWER_TIMEOUT_SECONDS, gateway.name, again
            answered = await answers(*asked)
        now = asyncio.get_running_loop().time()
        self._records[gateway] = self._record(gateway).after(answered, now, suspect)

    def _publish(self, snapshot: Snapshot) -> bool:
        """Post what has changed; False: nothing has."""
        published = False
        for name, (tunnel, state) in snapshot.tunnels.items():
            gateway = self._gateways.get(name)
            concerns = state.want is Want.UP and _suspect(tunnel, state)
            reach = (
                self._reach(gateway, state.endpoint) if gateway is not None and concerns else Reach.UNKNOWN
            )
            if reach is not state.endpoint:
                self._post(EndpointSeen(name, reach=reach))
                published = True
        return published

    def _reach(self, gateway: ProbedGateway, before: Reach) -> Reach:
        record = self._records.get(gateway)
        if record is None or record.undecided:
            return before
        if record.unanswered == 0:
            return Reach.ANSWERS
        return Reach.SILENT if record.silent(gateway) else Reach.UNKNOWN


def _same(snapshot: Snapshot, before: Snapshot | None) -> bool:
    """All tunnels and the uplink are as they were: the engine replaces what changes."""
    return before is not None and snapshot.tunnels is before.tunnels and snapshot.uplink is before.uplink


def _suspect(tunnel: Tunnel, state: TunnelState) -> bool:
    return state.liveness.misses > 0 or not well(tunnel, state)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
