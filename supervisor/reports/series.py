"""The series of each tunnel: one function of the snapshot, the counts and what a scrape reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from supervisor.core.state import Phase, Snapshot, TunnelState, up
from supervisor.reports.outbox import OutboxStatus
from supervisor.reports.tally import Counts, Readings, cumulative

_TUNNEL = ("tunnel",)


class Usage(Protocol):
    """What a client's process tree uses."""

    @property
    def cpu_seconds(self) -> float:
        """Processor time since the session's start."""

    @property
    def resident_bytes(self) -> int:
        """Memory."""

    @property
    def open_files(self) -> int | None:
        """File descriptors; None: not known."""


class Routes(Protocol):
    """How many routes of a tunnel the kernel should have, and has."""

    @property
    def wanted(self) -> int:
        """In the plan."""

    @property
    def installed(self) -> int:
        """Of these, in the kernel."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is asked at scrape time, in the scrape's thread; None as an answer leaves the series out."""

    link_bytes: Callable[[str], tuple[int, int] | None] = lambda device: None           # received, sent
    usage: Callable[[str], Usage | None] = lambda tunnel: None
    routes: Callable[[], Mapping[str, Routes]] = lambda: MappingProxyType({})           # by tunnel
    repairs: Callable[[], Mapping[str, int]] = lambda: MappingProxyType({})            # things of ours put back into the kernel, by what
    pagerduty: Callable[[], OutboxStatus | None] = lambda: None
    log_dropped: Callable[[], int] = lambda: 0                                          # lines
    refused: Callable[[], Mapping[tuple[str, str], int]] = lambda: MappingProxyType({})    # packets, by tunnel and segment
    certificates: Callable[[], Mapping[str, float]] = lambda: MappingProxyType({})     # Unix time at which a tunnel's first one expires
    availability: Callable[[Iterable[str]], Mapping[tuple[str, str], float]] = lambda tunnels: MappingProxyType({})   # by tunnel and window
    history_usable: Callable[[], bool | None] = lambda: None


States = Mapping[str, TunnelState]
Row = tuple[str, float | None]     # tunnel and value; None: left out


class TunnelSeries:
    """All families with the label `tunnel`. What is not known is left out, not made up."""

    def __init__(self, wall_offset: float, sources: Sources) -> None:
        """`wall_offset` is Unix time minus monotonic time."""
        self._wall_offset = wall_offset
        self._sources = sources
        self._readings = Readings()

    def collect(self, snapshot: Snapshot, counts: Mapping[str, Counts]) -> Iterator[Metric]:
        """One scrape. Reads device statistics and process usage; one thread at a time."""
        self._readings.keep(snapshot.tunnels)
        states = {name: state for name, (_, state) in snapshot.tunnels.items()}
        yield _info(snapshot)
        yield from self._states(states)
        yield from _counted({name: counts.get(name, Counts()) for name in states})
        yield from self._traffic(states)
        yield from self._routes(states)
        yield self._available(states)
        yield self._refused(states)
        yield from self._clients(states)
        yield self._certificates(states)

    def _states(self, states: States) -> Iterator[Metric]:
        yield _gauge("up", "1 if the tunnel is connected and not known to be sick.", ((n, up(s)) for n, s in states.items()))
        phases = GaugeMetricFamily("facilitator_tunnel_phase", "1 for the phase that the tunnel is in, 0 for all others.",
                                   labels=("tunnel", "phase"))
        for name, state in states.items():
            for phase in Phase:
                phases.add_metric((name, phase.value), state.phase is phase)
        yield phases
        yield _gauge("connected_timestamp_seconds", "Unix time at which the running session was connected.", (
            (n, s.session.connected + self._wall_offset)
            for n, s in states.items() if s.session.connected is not None and s.phase is Phase.UP
        ))
        yield _gauge("probe_success", "1 if the last probe round was answered.", (
            (n, s.misses == 0) for n, s in states.items() if s.phase is Phase.UP and (s.misses > 0 or s.last_rtt is not None)
        ))
        yield _gauge("probe_rtt_seconds", "Time to the answer of the last answered probe.", (
            (n, s.last_rtt) for n, s in states.items() if s.phase is Phase.UP
        ))
        yield _gauge("path_mtu_bytes", "The largest IP packet that passes through the tunnel, as probed.", (
            (n, s.session.path_mtu) for n, s in states.items() if s.phase is Phase.UP
        ))

    def _traffic(self, states: States) -> Iterator[Metric]:
        totals = {name: self._readings.bytes(name, state.session.number, self._link_bytes(state)) for name, state in states.items()}
        known = {name: total for name, total in totals.items() if total is not None}
        yield _counter("receive_bytes", "Bytes that came out of the tunnel's device.", ((n, total[0]) for n, total in known.items()))
        yield _counter("transmit_bytes", "Bytes that went into the tunnel's device.", ((n, total[1]) for n, total in known.items()))

    def _available(self, states: States) -> Metric:
        family = GaugeMetricFamily(
            "facilitator_tunnel_availability_ratio", "Part of the time in which the tunnel was wanted that it was proven to work.",
            labels=("tunnel", "window"),
        )
        for labels, ratio in self._sources.availability(states).items():
            family.add_metric(labels, ratio)
        return family

    def _refused(self, states: States) -> Metric:
        family = CounterMetricFamily("facilitator_tunnel_refused_packets", "Packets of staff whom the tunnel's `allow` does not let in.",
                                     labels=("tunnel", "segment"))
        for (name, segment), packets in self._sources.refused().items():
            if name in states:
                family.add_metric((name, segment), packets)
        return family

    def _certificates(self, states: States) -> Metric:
        family = GaugeMetricFamily("facilitator_certificate_expiry_timestamp_seconds", "Unix time at which our certificate for it expires.",
                                   labels=_TUNNEL)
        return _filled(family, ((name, at) for name, at in self._sources.certificates().items() if name in states))

    def _link_bytes(self, state: TunnelState) -> tuple[int, int] | None:
        return self._sources.link_bytes(state.session.device) if state.running and state.session.device is not None else None

    def _routes(self, states: States) -> Iterator[Metric]:
        routes = {name: count for name, count in self._sources.routes().items() if name in states}
        yield _gauge("routes_wanted", "Routes that the tunnel should have in the kernel now.", ((n, r.wanted) for n, r in routes.items()))
        yield _gauge("routes_installed", "Routes of these that the kernel has.", ((n, r.installed) for n, r in routes.items()))

    def _clients(self, states: States) -> Iterator[Metric]:
        usage = {n: use for n, s in states.items() if s.running and (use := self._sources.usage(n)) is not None}
        cpu = {n: self._readings.cpu(n, s.session.number, usage[n].cpu_seconds if n in usage else None) for n, s in states.items()}
        yield _counter("client_cpu_seconds", "Processor time of the client and its children, over all sessions.", cpu.items())
        yield _gauge("client_resident_memory_bytes", "Memory of the client and its children.",
                     ((n, use.resident_bytes) for n, use in usage.items()))
        yield _gauge("client_open_files", "File descriptors of the client and its children.",
                     ((n, use.open_files) for n, use in usage.items()))


def _info(snapshot: Snapshot) -> Metric:
    family = InfoMetricFamily("facilitator_tunnel", "What the tunnel is.", labels=_TUNNEL)
    for name, (tunnel, _) in snapshot.tunnels.items():
        family.add_metric((name,), {"kind": tunnel.kind})
    return family


def _counted(counts: Mapping[str, Counts]) -> Iterator[Metric]:
    reconnects = CounterMetricFamily("facilitator_tunnel_reconnects", "Sessions that ended and were followed by another attempt.",
                                     labels=("tunnel", "reason"))
    recoveries = CounterMetricFamily("facilitator_tunnel_recoveries", "Recoveries begun, by how far they go.", labels=("tunnel", "rung"))
    connects = HistogramMetricFamily("facilitator_tunnel_connect_seconds", "Time from the start of the client to the connected tunnel.",
                                     labels=_TUNNEL)
    for name, count in counts.items():
        for reason, number in count.reconnects.items():
            reconnects.add_metric((name, reason), number)
        for rung, number in count.recoveries.items():
            recoveries.add_metric((name, rung), number)
        connects.add_metric((name,), list(cumulative(count)), count.connect_seconds)
    yield reconnects
    yield recoveries
    yield connects
    yield _counter("login_failures", "Sessions whose login the far side refused.", ((n, c.login_failures) for n, c in counts.items()))


def _gauge(name: str, text: str, rows: Iterable[Row]) -> Metric:
    return _filled(GaugeMetricFamily(f"facilitator_tunnel_{name}", text, labels=_TUNNEL), rows)


def _counter(name: str, text: str, rows: Iterable[Row]) -> Metric:
    return _filled(CounterMetricFamily(f"facilitator_tunnel_{name}", text, labels=_TUNNEL), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Iterable[Row]) -> Metric:
    for name, value in rows:
        if value is not None:
            family.add_metric((name,), value)
    return family
