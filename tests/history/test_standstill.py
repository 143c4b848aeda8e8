"""A host that stood still: what tunnels were meanwhile is not known, and nobody says that they were up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.state import Health, Phase, Want
from supervisor.core.views.availability import NOT_MONITORED, Standing
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.history.standstill import STANDSTILL_SECONDS
from tests.history.worlds import ROWS_ONLY
from tests.reports.worlds import snapshot, transition, up
from tests.states import but
from tunnels.base import Reason


class FreezableHost:
    """A host whose daemon says once a second that it lives, unless the host is frozen or suspended."""

    def __init__(self, directory: Path) -> None:
        self.now, self.slept, self.directory = 1000.0, 0.0, directory
        self.history = self.opened()

    def opened(self) -> History:
        sources = HistorySources("boot", lambda: self.now, lambda: 1e9, lambda: self.slept)
        history = History(Archive(self.directory, "test"), sources, ROWS_ONLY)
        history.start()
        return history

    def runs(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.history.alive()

    def comes_up(self) -> None:
        self.record(Phase.STARTING, Phase.UP, Reason.CONNECTED, Health.HEALTHY)

    def record(
        self, before: Phase, after: Phase, reason: Reason, health: Health = Health.UNKNOWN, **state: object
    ) -> None:
        told = replace(transition(before, after, reason, health=health), at=self.now)
        world = snapshot(acme=but(up(), phase=after, health=health, **state))
        self.history.record(told, world)

    def seconds(self) -> dict[Standing, float]:
        return dict(self.history.availability("acme")["24h"].seconds)


@pytest.fixture
def host(tmp_path: Path) -> FreezableHost:
    return FreezableHost(tmp_path)


def test_ninety_seconds_in_which_the_host_stood_still_were_not_monitored(host: FreezableHost) -> None:
    host.runs(1)
    host.comes_up()
    host.runs(60)
    host.now += 90.0
    host.runs(30)
    told = host.seconds()
    assert told[Standing.UNWATCHED] == pytest.approx(91.0, abs=1.0)
    assert told[Standing.UP] == pytest.approx(90.0, abs=1.0)
    assert told[Standing.DOWN] == 0.0


def test_what_is_found_afterwards_does_not_reach_back(host: FreezableHost) -> None:
    """The first thing that happens may be a dead session, before the next sign of life."""
    host.runs(1)
    host.comes_up()
    host.runs(60)
    host.now += 90.0
    host.record(Phase.UP, Phase.BACKOFF, Reason.UNHEALTHY)
    host.runs(10)
    told = host.seconds()
    assert (told[Standing.UP], told[Standing.UNWATCHED], told[Standing.DOWN]) == (
        pytest.approx(60.0),
        pytest.approx(90.0),
        pytest.approx(10.0),
    )


def test_a_busy_host_stood_not_still(host: FreezableHost) -> None:
    host.runs(1)
    host.comes_up()
    for _ in range(10):
        host.now += STANDSTILL_SECONDS - 0.1
        host.history.alive()
    assert host.seconds()[Standing.UNWATCHED] == 0.0


def test_it_stands_in_the_history_and_outlives_the_daemon(host: FreezableHost) -> None:
    host.runs(1)
    host.comes_up()
    host.now += 90.0
    host.runs(5)
    before = host.seconds()
    rows = host.history.read("acme", 9).transitions
    assert [row["reason"] for row in rows][:2] == ["connected", NOT_MONITORED]
    assert "stood still for 91 s" in rows[1]["text"]
    host.history.close()
    host.history = host.opened()
    assert host.seconds()[Standing.UNWATCHED] == pytest.approx(before[Standing.UNWATCHED], abs=0.1)


def test_a_suspended_host_is_told_though_its_clock_stood_too(host: FreezableHost) -> None:
    host.runs(1)
    host.comes_up()
    host.runs(60)
    host.slept += 90.0
    host.runs(60)
    assert host.seconds()[Standing.UP] == pytest.approx(120.0, abs=1.0)
    told = host.history.read("acme", 9).transitions
    assert any(
        row["reason"] == NOT_MONITORED and "90 s" in row["text"] or "91 s" in row["text"] for row in told
    )


def test_a_tunnel_that_was_stopped_stays_stopped(host: FreezableHost) -> None:
    host.runs(1)
    host.comes_up()
    host.now += 1.0
    host.record(Phase.UP, Phase.STOPPED, Reason.STOPPED, want=Want.DOWN)
    host.now += 5.0
    host.history.alive()
    before = host.seconds()
    host.now += 90.0
    host.runs(5)
    assert host.seconds()[Standing.UNWATCHED] == before[Standing.UNWATCHED]
