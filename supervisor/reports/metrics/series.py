"""The metric families with the label `tunnel`, as a function of the snapshot, the counts, and what a scrape
reads.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from supervisor.core.network.traffic import Carried
from supervisor.core.network.wanted import RouteCounts
from supervisor.core.session.liveness import dead_leg
from supervisor.core.session.probe_targets import answers
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, Session, TunnelState, up
from supervisor.reports.metrics.counters import CONNECT_BUCKETS_SECONDS, ScrapedCounters, TunnelCounts
from supervisor.reports.metrics.text_format import MetricFamily, escaped, labels, simple
from supervisor.reports.paging.outbox import OutboxStatus

_NO_RATIOS: Mapping[tuple[str, str], float] = MappingProxyType({})
_ANY = "\0"  # placeholder for the tunnel's name in lines that many tunnels share


class UsageSample(Protocol):
    """Resources used by a client's process tree (`clients.usage`)."""

    @property
    def cpu_seconds(self) -> float:
        """CPU time since the session's start."""

    @property
    def resident_bytes(self) -> int:
        """Resident memory."""

    @property
    def open_files(self) -> int | None:
        """Open file descriptors; None: not known."""


@dataclass(frozen=True, slots=True)
class ScrapeSources:
    """What is read at scrape time, in the scrape's thread. A source that gives None leaves the series out."""

    # Bytes received and sent by an interface.
    link_bytes: Callable[[str], tuple[int, int] | None] = lambda device: None
    # Of the client of a tunnel's session, by the session's number.
    usage: Callable[[str, int], UsageSample | None] = lambda tunnel, session: None
    # Routes in the plan and in the kernel, by tunnel.
    routes: Callable[[], Mapping[str, RouteCounts]] = lambda: MappingProxyType({})
    # Kernel objects of ours that were put back, by kind of object.
    repairs: Callable[[], Mapping[str, int]] = lambda: MappingProxyType({})
    pagerduty: Callable[[], OutboxStatus | None] = lambda: None
    # Log lines dropped.
    log_dropped: Callable[[], int] = lambda: 0
    # Packets refused by access rules, by tunnel and segment.
    refused: Callable[[], Mapping[tuple[str, str], int]] = lambda: MappingProxyType({})
    # Unix time at which a tunnel's first certificate expires.
    certificates: Callable[[], Mapping[str, float]] = lambda: MappingProxyType({})
    # Availability ratio by tunnel and window, of the given tunnels.
    availability: Callable[[Iterable[str]], Mapping[tuple[str, str], float]] = lambda names: _NO_RATIOS
    history_usable: Callable[[], bool | None] = lambda: None
    # What a tunnel's lanes have carried, by slot.
    carried: Callable[[str], Mapping[int, Carried]] = lambda tunnel: MappingProxyType({})
    # Contained faults of the daemon, by part.
    internal_errors: Callable[[], Mapping[str, int]] = lambda: MappingProxyType({})
    # Audit entries by event, and those `lost`.
    audit: Callable[[], Mapping[str, int] | None] = lambda: None
    # Whether each member of the fleet is up; None: there is no fleet.
    members: Callable[[], Mapping[str, bool] | None] = lambda: None
    # Tunnels about which nobody is paged for a while; empty text: everything.
    silenced: Callable[[], Iterable[str]] = tuple
    # Whether the lock engine answers, and which accounts' locks this member holds; None: there is no engine.
    locks: Callable[[], tuple[bool, Mapping[str, bool]] | None] = lambda: None
    # Seconds since the hub was last heard of; None: never, or there is none.
    book_age: Callable[[], float | None] = lambda: None
    # Metrics with which destinations are announced, by destination; None: nothing ever is.
    announced: Callable[[], Mapping[str, int] | None] = lambda: None
    # What the name service has counted (`names.counters`); empty: it does not run.
    names: Callable[[], Mapping[str, Any]] = lambda: MappingProxyType({})
    # Names of the open incidents.
    incidents: Callable[[], Collection[str]] = tuple
    # How often this process has changed its program.
    upgrades: Callable[[], int] = lambda: 0
    # Attempts to send an event to PagerDuty, by action and result.
    sent_events: Callable[[], Mapping[tuple[str, str], int]] = lambda: MappingProxyType({})


States = Mapping[str, TunnelState]
Row = tuple[str, float | None]  # tunnel and value; None leaves the sample out


class TunnelSeries:
    """All families with the label `tunnel`. Unknown values are left out."""

    def __init__(self, wall_offset: float, sources: ScrapeSources) -> None:
        """`wall_offset` is Unix time minus monotonic time."""
        self._wall_offset = wall_offset
        self._sources = sources
        self._counters = ScrapedCounters()

    def collect(self, snapshot: Snapshot, counts: Mapping[str, TunnelCounts]) -> Iterator[MetricFamily]:
        """One scrape. Reads interface statistics and process usage; one thread at a time."""
        self._counters.retain(snapshot.tunnels)
        states = {name: state for name, (_, state) in snapshot.tunnels.items()}
        yield simple(
            "facilitator_tunnel",
            "info",
            "What the tunnel is.",
            ((labels(tunnel=name, kind=tunnel.kind), 1) for name, (tunnel, _) in snapshot.tunnels.items()),
        )
        yield from self._states(states)
        yield _targets(snapshot)
        yield _dead_legs(snapshot)
        nothing = TunnelCounts()
        yield from _counted({name: counts.get(name, nothing) for name in states})
        yield from self._traffic(states)
        yield from self._routes(states)
        yield self._available(states)
        yield self._refused(states)
        yield from self._clients(states)
        yield self._certificates(states)

    def _states(self, states: States) -> Iterator[MetricFamily]:
        yield _gauge(
            "up",
            "1 if the tunnel is connected and not known to be sick.",
            ((n, up(s)) for n, s in states.items()),
        )
        yield MetricFamily(
            "facilitator_tunnel_phase",
            "gauge",
            "1 for the phase that the tunnel is in, 0 for all others.",
            "".join([_phases(state.phase).replace(_ANY, escaped(name)) for name, state in states.items()]),
        )
        yield _gauge(
            "connected_timestamp_seconds",
            "Unix time at which the running session was connected.",
            (
                (n, s.session.connected + self._wall_offset)
                for n, s in states.items()
                if s.session.connected is not None and s.phase is Phase.UP
            ),
        )
        yield _gauge(
            "degraded",
            "1 if it is degraded: it works, but loses packets or is slow.",
            ((n, s.liveness.degraded is not None) for n, s in states.items() if s.phase is Phase.UP),
        )
        yield _gauge(
            "probe_success",
            "1 if the last probe round was answered.",
            (
                (n, s.liveness.misses == 0)
                for n, s in states.items()
                if s.phase is Phase.UP and (s.liveness.misses > 0 or s.liveness.last_rtt is not None)
            ),
        )
        yield _gauge(
            "probe_rtt_seconds",
            "Time to the answer of the last answered probe.",
            ((n, s.liveness.last_rtt) for n, s in states.items() if s.phase is Phase.UP),
        )
        yield _gauge(
            "flows_left",
            "Flows for the end of which a tunnel waits that takes no new ones.",
            (
                (n, s.drain.left)
                for n, s in states.items()
                if s.drain is not None and s.drain.left is not None
            ),
        )
        yield _gauge(
            "path_mtu_bytes",
            "The largest IP packet that passes through the tunnel, as probed.",
            ((n, s.session.path_mtu) for n, s in states.items() if s.phase is Phase.UP),
        )

    def _traffic(self, states: States) -> Iterator[MetricFamily]:
        carried = {name: self._sources.carried(name) for name in states}
        totals = {
            name: self._counters.bytes(name, self._bytes(state, carried[name]))
            for name, state in states.items()
        }
        known = {name: total for name, total in totals.items() if total is not None}
        yield _counter(
            "receive_bytes",
            "Bytes that came out of the tunnel.",
            ((n, total[0]) for n, total in known.items()),
        )
        yield _counter(
            "transmit_bytes",
            "Bytes that went into the tunnel.",
            ((n, total[1]) for n, total in known.items()),
        )
        yield _counter(
            "flows",
            "Connections of staff that entered the tunnel.",
            (
                (n, self._counters.flows(n, {slot: count.flows for slot, count in counts.items()}))
                for n, counts in carried.items()
            ),
        )

    def _available(self, states: States) -> MetricFamily:
        return simple(
            "facilitator_tunnel_availability_ratio",
            "gauge",
            "Part of the time in which the tunnel was meant to be up that it was proven to work.",
            (
                (labels(tunnel=name, window=window), ratio)
                for (name, window), ratio in self._sources.availability(states).items()
            ),
        )

    def _refused(self, states: States) -> MetricFamily:
        return simple(
            "facilitator_tunnel_refused_packets",
            "counter",
            "Packets of staff that the tunnel's `allow` rejects.",
            (
                (labels(tunnel=name, segment=segment), packets)
                for (name, segment), packets in self._sources.refused().items()
                if name in states
            ),
        )

    def _certificates(self, states: States) -> MetricFamily:
        return simple(
            "facilitator_certificate_expiry_timestamp_seconds",
            "gauge",
            "Unix time at which the client certificate for it expires.",
            (
                (labels(tunnel=name), at)
                for name, at in self._sources.certificates().items()
                if name in states
            ),
        )

    def _bytes(
        self, state: TunnelState, carried: Mapping[int, Carried]
    ) -> Mapping[int, tuple[int, int] | None]:
        """Bytes received and sent, by the number of the session whose interface counts them, or by the slot
        whose lane does (proxies).
        """
        if not any(count.received is not None for count in carried.values()):
            return {each.session.number: self._link_bytes(each.session) for each in state.sessions}
        return {
            slot: None if count.received is None or count.sent is None else (count.received, count.sent)
            for slot, count in carried.items()
        }

    def _link_bytes(self, session: Session) -> tuple[int, int] | None:
        return None if session.device is None else self._sources.link_bytes(session.device)

    def _routes(self, states: States) -> Iterator[MetricFamily]:
        routes = {name: count for name, count in self._sources.routes().items() if name in states}
        yield _gauge(
            "routes_wanted",
            "Routes that the tunnel should have in the kernel now.",
            ((n, r.wanted) for n, r in routes.items()),
        )
        yield _gauge(
            "routes_installed",
            "Routes of these that the kernel has.",
            ((n, r.installed) for n, r in routes.items()),
        )

    def _clients(self, states: States) -> Iterator[MetricFamily]:
        usage = {
            n: {each.session.number: self._usage(n, each.session) for each in s.sessions}
            for n, s in states.items()
        }
        cpu = {
            n: self._counters.cpu(
                n, {number: None if use is None else use.cpu_seconds for number, use in of.items()}
            )
            for n, of in usage.items()
        }
        running = {
            n: uses for n, of in usage.items() if (uses := [use for use in of.values() if use is not None])
        }
        yield _counter(
            "client_cpu_seconds",
            "Processor time of the client and its children, over all sessions.",
            cpu.items(),
        )
        yield _gauge(
            "client_resident_memory_bytes",
            "Memory of the client and its children.",
            ((n, sum(use.resident_bytes for use in uses)) for n, uses in running.items()),
        )
        yield _gauge(
            "client_open_files",
            "File descriptors of the client and its children.",
            (
                (n, sum(files))
                for n, uses in running.items()
                if (files := [use.open_files for use in uses if use.open_files is not None])
            ),
        )

    def _usage(self, tunnel: str, session: Session) -> UsageSample | None:
        return self._sources.usage(tunnel, session.number)


def _dead_legs(snapshot: Snapshot) -> MetricFamily:
    legs = (
        (name, dead_leg(tunnel, state, snapshot.uplink)) for name, (tunnel, state) in snapshot.tunnels.items()
    )
    return simple(
        "facilitator_tunnel_dead_leg",
        "gauge",
        "1 for the part of the way that is known to be dead; none while all is well.",
        ((labels(tunnel=name, leg=leg.value), 1) for name, leg in legs if leg is not None),
    )


def _targets(snapshot: Snapshot) -> MetricFamily:
    found = (
        (name, target, answers(state, target))
        for name, (tunnel, state) in snapshot.tunnels.items()
        for target in (tunnel.probe.targets if state.phase is Phase.UP else ())
    )
    return simple(
        "facilitator_probe_target_success",
        "gauge",
        "1 if the probe target answered in the last whole round.",
        ((labels(tunnel=name, target=target), seen) for name, target, seen in found),
    )


def _counted(counts: Mapping[str, TunnelCounts]) -> Iterator[MetricFamily]:
    yield simple(
        "facilitator_tunnel_reconnects",
        "counter",
        "Sessions that ended and were followed by another attempt.",
        (
            (labels(tunnel=name, reason=reason), number)
            for name, count in counts.items()
            for reason, number in count.reconnects.items()
        ),
    )
    yield simple(
        "facilitator_tunnel_recoveries",
        "counter",
        "Recoveries begun, by how far they go.",
        (
            (labels(tunnel=name, rung=rung), number)
            for name, count in counts.items()
            for rung, number in count.recoveries.items()
        ),
    )
    yield MetricFamily(
        "facilitator_tunnel_connect_seconds",
        "histogram",
        "Time from the start of the client to the connected tunnel.",
        "".join(
            [
                _histogram(tuple(count.connects), count.connect_seconds).replace(_ANY, escaped(name))
                for name, count in counts.items()
            ]
        ),
    )
    yield _counter(
        "login_failures",
        "Sessions whose login the remote gateway rejected.",
        ((n, c.login_failures) for n, c in counts.items()),
    )


@functools.cache
def _phases(now: Phase) -> str:
    return "".join(
        f'facilitator_tunnel_phase{{tunnel="{_ANY}",phase="{phase.value}"}} {int(phase is now)}\n'
        for phase in Phase
    )


# A tunnel's histogram changes when it connects, and is scraped far more often.
@functools.lru_cache(maxsize=4096)
def _histogram(connects: tuple[int, ...], seconds: float) -> str:
    start, where = "facilitator_tunnel_connect_seconds", f'tunnel="{_ANY}"'
    bounds = zip([*CONNECT_BUCKETS_SECONDS, "+Inf"], itertools.accumulate(connects), strict=True)
    buckets = [f'{start}_bucket{{{where},le="{bound}"}} {total}\n' for bound, total in bounds]
    return f"{''.join(buckets)}{start}_count{{{where}}} {sum(connects)}\n{start}_sum{{{where}}} {seconds!r}\n"


def _gauge(name: str, text: str, rows: Iterable[Row]) -> MetricFamily:
    return _of_tunnels(name, "gauge", text, rows)


def _counter(name: str, text: str, rows: Iterable[Row]) -> MetricFamily:
    return _of_tunnels(name, "counter", text, rows)


def _of_tunnels(name: str, kind: str, text: str, rows: Iterable[Row]) -> MetricFamily:
    return simple(
        f"facilitator_tunnel_{name}", kind, text, ((labels(tunnel=tunnel), value) for tunnel, value in rows)
    )
