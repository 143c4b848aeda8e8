"""Metrics: the names of the contract, what they say, and what real Prometheus tools think of them."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from supervisor.core.network.wanted import RouteCounts
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Health, Phase, Session, TunnelState
from supervisor.reports.metrics import loop_lag
from supervisor.reports.metrics.counters import MonotonicCounter, SentEvents
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.metrics.series import ScrapeSources
from supervisor.reports.paging.incident import Action, Incident, IncidentMessage
from supervisor.reports.paging.outbox import OutboxStatus
from tests.reports.worlds import snapshot, transition, tunnel, up
from tests.states import tunnel_state
from tunnels.base import Reason

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

# What stands in the contract and is known by now, with its labels.
CONTRACT = {
    "facilitator_build_info": {"version"},
    "facilitator_tunnel_info": {"tunnel", "kind"},
    "facilitator_tunnel_up": {"tunnel"},
    "facilitator_tunnel_phase": {"tunnel", "phase"},
    "facilitator_tunnel_connected_timestamp_seconds": {"tunnel"},
    "facilitator_tunnel_reconnects_total": {"tunnel", "reason"},
    "facilitator_tunnel_connect_seconds_bucket": {"tunnel", "le"},
    "facilitator_tunnel_connect_seconds_count": {"tunnel"},
    "facilitator_tunnel_connect_seconds_sum": {"tunnel"},
    "facilitator_tunnel_receive_bytes_total": {"tunnel"},
    "facilitator_tunnel_transmit_bytes_total": {"tunnel"},
    "facilitator_tunnel_probe_success": {"tunnel"},
    "facilitator_tunnel_probe_rtt_seconds": {"tunnel"},
    "facilitator_probe_target_success": {"tunnel", "target"},
    "facilitator_tunnel_path_mtu_bytes": {"tunnel"},
    "facilitator_tunnel_routes_wanted": {"tunnel"},
    "facilitator_tunnel_routes_installed": {"tunnel"},
    "facilitator_tunnel_availability_ratio": {"tunnel", "window"},
    "facilitator_tunnel_refused_packets_total": {"tunnel", "segment"},
    "facilitator_tunnel_client_cpu_seconds_total": {"tunnel"},
    "facilitator_tunnel_client_resident_memory_bytes": {"tunnel"},
    "facilitator_tunnel_login_failures_total": {"tunnel"},
    "facilitator_kernel_repairs_total": {"what"},
    "facilitator_config_last_reload_successful": set(),
    "facilitator_draining": set(),
    "facilitator_event_loop_lag_seconds": set(),
    "facilitator_pagerduty_events_total": {"action", "result"},
    "facilitator_pagerduty_outbox_pending": set(),
    "facilitator_pagerduty_outbox_oldest_age_seconds": set(),
}


@dataclass
class Use:
    cpu_seconds: float = 1.5
    resident_bytes: int = 9_000_000
    open_files: int | None = 12


class ScrapeWorld:
    """What a scrape reads."""

    def __init__(self) -> None:
        self.links: dict[str, tuple[int, int]] = {"t-acme": (1000, 500)}
        self.uses: dict[str, Use] = {"acme": Use()}
        self.outbox: OutboxStatus | None = OutboxStatus()
        self.sent = SentEvents()
        self.silenced: tuple[str, ...] = ()
        self.metrics = Metrics(
            "0.1.0",
            1_000_000.0,
            ScrapeSources(
                self.links.get,
                lambda tunnel, session: self.uses.get(tunnel),
                lambda: {"acme": RouteCounts(2, 1)},
                lambda: {"route": 1},
                lambda: self.outbox,
                lambda: 3,
                lambda: {("acme", "support"): 7, ("gone", ""): 1},
                silenced=lambda: self.silenced,
                sent_events=self.sent.counts,
                availability=lambda tunnels: {
                    (name, window): 0.5 for name in tunnels for window in ("1h", "24h", "7d", "30d")
                },
            ),
        )

    def scrape(self, snap: Snapshot, accept: str = "") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        body, content_type = self.metrics.render(snap, accept)
        parse = parse_openmetrics if "openmetrics" in content_type else parse_text
        return {
            (s.name, frozenset(s.labels.items())): s.value
            for family in parse(body.decode())
            for s in family.samples
        }

    def value(self, snap: Snapshot, name: str, **labels: str) -> float | None:
        return self.scrape(snap).get((f"facilitator_{name}", frozenset(labels.items())))


@pytest.fixture
def world() -> ScrapeWorld:
    return ScrapeWorld()


def busy(world: ScrapeWorld) -> Snapshot:
    """A world in which every series exists."""
    snap = snapshot(acme=up())
    world.metrics.record(transition(Phase.STARTING, Phase.UP, Reason.CONNECTED, lasted=1.5), snap)
    world.metrics.record(transition(Phase.UP, Phase.BACKOFF, Reason.PEER_TIMEOUT), snap)
    world.sent.count("trigger", "accepted")
    return snap


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_names_and_labels_are_the_contract(world: ScrapeWorld, accept: str) -> None:
    seen: dict[str, set[str]] = {}
    for name, labels in world.scrape(busy(world), accept):
        seen.setdefault(name, set()).update(key for key, _ in labels)
    assert {name: seen.get(name) for name in CONTRACT} == CONTRACT
    assert not [name for name in seen if name.endswith("_created")]


def families(body: bytes, accept: str) -> Iterator[Metric]:
    return (parse_openmetrics if accept else parse_text)(body.decode())


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_both_formats_name_the_types(world: ScrapeWorld, accept: str) -> None:
    body, content_type = world.metrics.render(busy(world), accept)
    assert ("openmetrics" in content_type) == bool(accept)
    types = {family.name: family.type for family in families(body, accept)}
    assert types["facilitator_tunnel_reconnects"] == "counter"
    assert types["facilitator_tunnel_connect_seconds"] == "histogram"
    assert types["facilitator_tunnel_up"] == "gauge"
    assert (types["facilitator_tunnel"] if accept else types["facilitator_tunnel_info"]) == (
        "info" if accept else "gauge"
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_no_complaint(world: ScrapeWorld) -> None:
    body, _ = world.metrics.render(busy(world), "")
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_what_a_healthy_tunnel_says(world: ScrapeWorld) -> None:
    snap = busy(world)
    assert world.value(snap, "tunnel_up", tunnel="acme") == 1
    assert world.value(snap, "tunnel_connected_timestamp_seconds", tunnel="acme") == 1_000_095.0
    assert world.value(snap, "tunnel_probe_success", tunnel="acme") == 1
    assert world.value(snap, "tunnel_probe_rtt_seconds", tunnel="acme") == 0.012
    assert world.value(snap, "probe_target_success", tunnel="acme", target="icmp://10.77.0.1") == 1
    assert world.value(snap, "probe_target_success", tunnel="acme", target="icmp://10.77.0.9") == 0
    assert world.value(snap, "tunnel_path_mtu_bytes", tunnel="acme") == 1400
    assert world.value(snap, "tunnel_reconnects_total", tunnel="acme", reason="peer-timeout") == 1
    assert world.value(snap, "tunnel_connect_seconds_bucket", tunnel="acme", le="1.0") == 0
    assert world.value(snap, "tunnel_connect_seconds_bucket", tunnel="acme", le="2.0") == 1
    assert world.value(snap, "tunnel_connect_seconds_sum", tunnel="acme") == 1.5
    assert [world.value(snap, "tunnel_phase", tunnel="acme", phase=phase.value) for phase in Phase] == [
        0,
        0,
        1,
        0,
        0,
        0,
    ]
    assert world.value(snap, "tunnel_client_open_files", tunnel="acme") == 12


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (up(), 1.0),
        (up(health=Health.UNKNOWN), 1.0),
        (up(health=Health.UNHEALTHY), 0.0),
        (tunnel_state(phase=Phase.STARTING), 0.0),
        (tunnel_state(phase=Phase.FAILED), 0.0),
    ],
)
def test_up_is_connected_and_not_known_to_be_sick(
    world: ScrapeWorld, state: TunnelState, value: float
) -> None:
    assert world.value(snapshot(acme=state), "tunnel_up", tunnel="acme") == value


def test_what_is_not_known_is_left_out(world: ScrapeWorld) -> None:
    proxy = up(session=Session(1, port=1080, connected=95.0), last_rtt=None)
    names = {name for name, labels in world.scrape(snapshot(own=proxy)) if ("tunnel", "own") in labels}
    assert "facilitator_tunnel_receive_bytes_total" not in names  # a proxy has no device
    assert "facilitator_tunnel_probe_success" not in names  # nothing was probed yet
    assert "facilitator_tunnel_probe_rtt_seconds" not in names
    assert "facilitator_tunnel_path_mtu_bytes" not in names
    assert "facilitator_tunnel_client_cpu_seconds_total" not in names
    assert "facilitator_tunnel_routes_wanted" not in names
    down = snapshot(
        acme=tunnel_state(
            phase=Phase.BACKOFF, last_rtt=0.01, session=Session(1, device="t-acme", connected=95.0)
        )
    )
    names = {name for name, labels in world.scrape(down) if ("tunnel", "acme") in labels}
    assert "facilitator_tunnel_connected_timestamp_seconds" not in names
    assert "facilitator_tunnel_probe_success" not in names


def test_a_missed_round_shows_at_once(world: ScrapeWorld) -> None:
    assert world.value(snapshot(acme=up(misses=1)), "tunnel_probe_success", tunnel="acme") == 0


def test_a_removed_tunnel_vanishes_and_comes_back_empty(world: ScrapeWorld) -> None:
    busy(world)
    both = snapshot(acme=up(), other=up())
    assert world.value(both, "tunnel_receive_bytes_total", tunnel="acme") == 1000
    assert not [labels for _, labels in world.scrape(snapshot(other=up())) if ("tunnel", "acme") in labels]
    assert world.value(both, "tunnel_reconnects_total", tunnel="acme", reason="peer-timeout") is None
    assert world.value(both, "tunnel_connect_seconds_count", tunnel="acme") == 0


def test_reconnects_count_ends_that_lead_to_another_attempt(world: ScrapeWorld) -> None:
    snap = snapshot(acme=up())
    for before, after, reason in (
        (Phase.UP, Phase.STOPPING, Reason.UNHEALTHY),
        (Phase.STOPPING, Phase.BACKOFF, Reason.UNHEALTHY),  # one
        (Phase.BACKOFF, Phase.STARTING, Reason.RETRY),
        (Phase.STARTING, Phase.BACKOFF, Reason.DNS),  # one
        (Phase.UP, Phase.STARTING, Reason.EXITED),  # one, without a pause
        (Phase.UP, Phase.STOPPING, Reason.STOPPED),
        (Phase.STOPPING, Phase.STOPPED, Reason.STOPPED),
        (Phase.STOPPED, Phase.STARTING, Reason.STARTED),
        (Phase.STARTING, Phase.FAILED, Reason.KEY),
        (Phase.UP, Phase.UP, Reason.HEALTHY),
    ):
        world.metrics.record(transition(before, after, reason), snap)
    counted = {
        dict(labels)["reason"]: value
        for (name, labels), value in world.scrape(snap).items()
        if name == "facilitator_tunnel_reconnects_total"
    }
    assert counted == {"unhealthy": 1, "dns": 1, "exited": 1}


def test_each_refused_login_counts_once(world: ScrapeWorld) -> None:
    snap = snapshot(acme=up())
    assert world.value(snap, "tunnel_login_failures_total", tunnel="acme") == 0
    for session, last in ((1, Phase.BACKOFF), (2, Phase.BACKOFF), (3, Phase.FAILED)):
        world.metrics.record(transition(Phase.STARTING, Phase.STOPPING, Reason.AUTH, session=session), snap)
        world.metrics.record(transition(Phase.STOPPING, last, Reason.AUTH, session=session), snap)
    assert world.value(snap, "tunnel_login_failures_total", tunnel="acme") == 3


def test_bytes_and_cpu_add_up_over_sessions(world: ScrapeWorld) -> None:
    def read(
        number: int, link: tuple[int, int] | None, cpu: float | None
    ) -> tuple[float | None, float | None]:
        world.links.clear() if link is None else world.links.update({"t-acme": link})
        world.uses.clear() if cpu is None else world.uses.update(acme=Use(cpu))
        snap = snapshot(acme=up(number))
        return (
            world.value(snap, "tunnel_receive_bytes_total", tunnel="acme"),
            world.value(snap, "tunnel_client_cpu_seconds_total", tunnel="acme"),
        )

    assert read(1, (1000, 1), 1.0) == (1000, 1.0)
    assert read(1, (1500, 1), 2.0) == (1500, 2.0)
    assert read(1, None, None) == (1500, 2.0)  # nothing to read at the moment
    assert read(2, (100, 1), 0.5) == (1600, 2.5)
    assert read(2, (2000, 1), 0.4) == (3500, 2.5)  # a child of the client has ended
    assert read(2, (10, 1), 0.6) == (3510, 2.6)  # its device was made anew
    assert read(3, (5000, 1), 3.0) == (8510, 5.6)  # the new one is ahead of the old one already


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000))), st.booleans())
def test_a_rising_counter_never_falls(readings: list[tuple[int, int]], resets: bool) -> None:
    counter, last = MonotonicCounter(resets=resets), 0.0
    for source, value in readings:
        now = counter.read(source, value)
        assert now >= last
        last = now


def test_the_pager_path_can_be_watched(world: ScrapeWorld) -> None:
    snap = snapshot(acme=up())
    assert world.value(snap, "pagerduty_outbox_oldest_age_seconds") == 0
    assert (
        world.value(snap, "pagerduty_events_total", action="resolve", result="rejected") == 0
    )  # there before it happens
    waits = Incident(
        "k",
        "acme",
        "file:x",
        0.0,
        wanted=True,
        message=IncidentMessage(Action.TRIGGER, "{}", time.time() - 100),
    )
    world.outbox = OutboxStatus((waits, replace(waits, message=None)), usable=False)
    age = world.value(snap, "pagerduty_outbox_oldest_age_seconds")
    assert age is not None
    assert 100 <= age < 130
    assert world.value(snap, "pagerduty_outbox_pending") == 1
    assert world.value(snap, "pagerduty_store_usable") == 0
    world.outbox = None  # no PagerDuty configured
    assert world.value(snap, "pagerduty_outbox_pending") is None


def test_the_daemon_itself(world: ScrapeWorld) -> None:
    world.metrics.reloaded(False)
    world.metrics.loop_lag(0.25)
    snap = snapshot(draining=True)
    assert world.value(snap, "config_last_reload_successful") == 0
    assert world.value(snap, "draining") == 1
    assert world.value(snap, "event_loop_lag_seconds") == 0.25
    assert world.value(snap, "log_events_dropped_total") == 3
    assert world.scrape(snap)["process_open_fds", frozenset()] > 0


def test_a_silence_about_everything_has_a_label_too(world: ScrapeWorld) -> None:
    assert world.value(snapshot(), "silenced", tunnel="*") is None
    world.silenced = ("", "acme")
    assert world.value(snapshot(), "silenced", tunnel="*") == 1
    assert world.value(snapshot(), "silenced", tunnel="acme") == 1


async def test_a_blocked_loop_is_seen() -> None:
    lags: list[float] = []
    task = asyncio.create_task(loop_lag.watch(lags.append, interval=0.01, window=100))
    while not lags:
        await asyncio.sleep(0)
    time.sleep(0.1)  # what must never happen in the loop
    seen = len(lags)
    while len(lags) == seen:
        await asyncio.sleep(0)
    task.cancel()
    assert lags[-1] >= 0.08


def test_counting_while_scraping(world: ScrapeWorld) -> None:
    snap = snapshot(acme=up())
    done = threading.Event()

    def count() -> None:
        for number in range(3000):
            reason = random.choice(list(Reason))
            world.metrics.record(transition(Phase.UP, Phase.BACKOFF, reason, session=number), snap)
        done.set()

    counter = threading.Thread(target=count)
    counter.start()
    while not done.is_set():
        world.metrics.render(snap, "")
    counter.join()
    total = sum(
        v for (name, _), v in world.scrape(snap).items() if name == "facilitator_tunnel_reconnects_total"
    )
    assert total == 3000


@pytest.mark.slow
def test_a_scrape_of_1000_tunnels(world: ScrapeWorld) -> None:
    names = [f"tunnel-{number}" for number in range(1000)]
    world.links.update({f"t-{name}": (1, 1) for name in names})
    world.uses.update({name: Use() for name in names})
    device = {name: up(session=Session(1, device=f"t-{name}", connected=1.0)) for name in names}
    snap = Snapshot({name: (tunnel(name), device[name]) for name in names}, 100.0)
    for name in names:
        world.metrics.record(transition(Phase.STARTING, Phase.UP, Reason.CONNECTED, name=name), snap)
        world.metrics.record(transition(Phase.UP, Phase.BACKOFF, Reason.EXITED, name=name), snap)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        body, _ = world.metrics.render(snap, "")
        took.append(time.perf_counter() - started)
    print(
        f"1000 tunnels, {body.count(10)} lines, {len(body)} bytes: "
        f"{min(took) * 1000:.0f} ms at best, {statistics.median(took) * 1000:.0f} ms median"
    )
    assert body.count(b"facilitator_tunnel_up{") == 1000


@pytest.mark.parametrize("resets", [True, False])
def test_sources_that_overlap_are_both_counted(resets: bool) -> None:
    counter = MonotonicCounter(resets=resets)
    counter.read(1, 1000.0)
    assert counter.read(2, 10.0) == 1010.0
    assert counter.read(1, 1005.0) == 1015.0
    counter.retire({2})
    assert counter.value == 1015.0
    assert counter.read(2, 20.0) == 1025.0
