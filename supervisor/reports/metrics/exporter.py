"""The Prometheus exporter: `/metrics` as a function of one snapshot and of what was counted
(`reports.metrics.counters`).

The event loop takes the snapshot, a worker thread calls `render`: interface statistics and process usage are
read there, at scrape time only. The series of a tunnel end when it leaves the configuration.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from supervisor.core.snapshot import Snapshot, Transition
from supervisor.reports.metrics.counters import TransitionCounters
from supervisor.reports.metrics.names import name_families
from supervisor.reports.metrics.series import ScrapeSources, TunnelSeries
from supervisor.reports.paging.incident import Action, SendOutcome
from supervisor.reports.paging.outbox import OutboxStatus

PREFIX = "facilitator"
_EVERYTHING = "*"  # in place of a tunnel's name: Prometheus drops an empty label
_EVENTS = tuple((action.value, outcome.value) for action in Action for outcome in SendOutcome)


@dataclass(slots=True)
class _DaemonValues:
    """Values of the daemon as a whole."""

    reload_ok: bool = True
    reload_at: float = 0.0  # Unix time of the last successful one, or of the start
    loop_lag: float = 0.0  # seconds


class Metrics:
    """The `Recorder` (`supervisor.outputs`) that counts, and renders what it counted. Thread-safe."""

    def __init__(self, version: str, wall_offset: float, sources: ScrapeSources) -> None:
        """`wall_offset` is Unix time minus monotonic time."""
        self._version = version
        self._sources = sources
        self._transitions = TransitionCounters()
        self._series = TunnelSeries(wall_offset, sources)
        self._daemon = _DaemonValues(reload_at=time.time())
        self._rendering = threading.Lock()
        self._process = ProcessCollector(registry=CollectorRegistry())

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Count a transition."""
        self._transitions.record(transition, snapshot)

    def reloaded(self, successful: bool) -> None:
        """Remember whether the last reload was successful."""
        self._daemon.reload_ok = successful
        if successful:
            self._daemon.reload_at = time.time()

    def loop_lag(self, seconds: float) -> None:
        """Remember how late the event loop was (`reports.metrics.loop_lag`)."""
        self._daemon.loop_lag = seconds

    def render(self, snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scraper with this `Accept` header, in Prometheus' text format or
        OpenMetrics (https://prometheus.io/docs/instrumenting/exposition_formats/). Blocks: for a worker
        thread; scrapes take turns.
        """
        from prometheus_client.exposition import choose_encoder  # brings three HTTP servers along

        encode, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        with self._rendering:
            of_tunnels = [
                family.written(openmetrics)
                for family in self._series.collect(snapshot, self._transitions.take(snapshot.tunnels))
            ]
            return "".join(of_tunnels).encode() + encode(
                _Families(list(self._others(snapshot)))
            ), content_type

    def _others(self, snapshot: Snapshot) -> Iterator[Metric]:
        yield InfoMetricFamily(f"{PREFIX}_build", "Version of the daemon.", value={"version": self._version})
        yield from self._of_changes()
        yield from self._of_daemon(snapshot)
        yield from self._of_fleet()
        yield from name_families(self._sources.names())
        yield from self._of_pagerduty(self._sources.pagerduty())
        yield from self._process.collect()

    def _of_changes(self) -> Iterator[Metric]:
        """What operators change, and what is open: the dashboard annotates its panels with these."""
        yield _gauge(
            "config_last_reload_successful",
            "1 if the last reading of the configuration was successful.",
            self._daemon.reload_ok,
        )
        yield _gauge(
            "config_last_reload_success_timestamp_seconds",
            "Unix time at which the configuration was last read successfully.",
            self._daemon.reload_at,
        )
        yield _counter(
            "upgrades",
            "Upgrades of this process: how often it has changed its program.",
            (),
            {(): self._sources.upgrades()},
        )
        yield _gauges(
            "incident_open",
            "1 for each open incident; none while there is none.",
            "incident",
            dict.fromkeys(self._sources.incidents(), 1),
        )

    def _of_daemon(self, snapshot: Snapshot) -> Iterator[Metric]:
        yield _counter(
            "kernel_repairs",
            "facilitator's kernel state (routes, rules, addresses) that was missing or changed, and was repaired.",
            ("what",),
            {(what,): count for what, count in dict(self._sources.repairs()).items()},
        )
        yield _gauge(
            "draining",
            "1 while the daemon takes no new sessions because it is about to end.",
            snapshot.draining,
        )
        yield _gauge(
            "event_loop_lag_seconds",
            "How late the event loop was at worst in the last minute.",
            self._daemon.loop_lag,
        )
        yield _counter(
            "internal_errors",
            "Faults of the daemon itself, by the part that had them.",
            ("part",),
            {(part,): count for part, count in self._sources.internal_errors().items()},
        )
        usable = self._sources.history_usable()
        if usable is not None:
            yield _gauge("history_usable", "1 if what happens is written to the history on disk.", usable)
        audit = self._sources.audit()
        if audit is not None:
            yield _counter(
                "audit_entries",
                "Entries of the audit by event; lost: those that are only counted, in a gap.",
                ("event",),
                {(event,): count for event, count in audit.items()},
            )
        if (members := self._sources.members()) is not None:
            yield _gauges(
                "fleet_member_up",
                "1 if this member of the fleet is up, as far as the one that answers knows.",
                "member",
                members,
            )
        yield from self._of_locks()
        if silenced := {each or _EVERYTHING: True for each in self._sources.silenced()}:
            text = f"1 while nobody is paged about the tunnel; {_EVERYTHING}: about anything."
            yield _gauges("silenced", text, "tunnel", silenced)
        if (age := self._sources.book_age()) is not None:
            yield _gauge("hub_book_age_seconds", "Time since the hub was last heard of.", age)
        yield _counter(
            "log_events_dropped",
            "Log lines dropped because nobody read them in time.",
            (),
            {(): self._sources.log_dropped()},
        )

    def _of_locks(self) -> Iterator[Metric]:
        locks = self._sources.locks()
        if locks is not None:
            yield _gauge("fleet_lock_up", "1 if the lock engine answers.", locks[0])
            yield _gauges(
                "fleet_lease_held", "1 if this member holds the lock of the account.", "account", locks[1]
            )

    def _of_fleet(self) -> Iterator[Metric]:
        announced = self._sources.announced()
        if announced is None:
            return
        family = GaugeMetricFamily(
            f"{PREFIX}_fleet_announced",
            "Metric with which the destination is announced to routers: 5000 while it drains, 9000 while it does not "
            "work here; 0: they are not told.",
            labels=("destination",),
        )
        for destination, metric in announced.items():
            family.add_metric((destination,), metric)
        yield family

    def _of_pagerduty(self, status: OutboxStatus | None) -> Iterator[Metric]:
        if status is None:
            return
        sent = self._sources.sent_events()
        events: dict[tuple[str, ...], int] = {pair: sent.get(pair, 0) for pair in _EVENTS}
        yield _counter(
            "pagerduty_events", "Attempts to send an event to PagerDuty.", ("action", "result"), events
        )
        yield _gauge("pagerduty_outbox_pending", "Events that PagerDuty has not taken yet.", status.pending)
        age = 0.0 if status.oldest is None else max(0.0, time.time() - status.oldest)
        yield _gauge(
            "pagerduty_outbox_oldest_age_seconds", "Age of the oldest of them; 0 when there is none.", age
        )
        yield _gauge(
            "pagerduty_store_usable",
            "1 if incidents would survive a crash: their store on disk can be written.",
            status.usable,
        )


class _Families(Collector):
    """One scrape, as the encoders of `prometheus_client` expect it."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families, in their order."""
        return self._families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
