"""What the status page shows of a facilitator in virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from supervisor.app.api.status_page_model import (
    SAMPLE_SECONDS,
    SAMPLES,
    UNSEEN_TRAFFIC_SECONDS,
    StatusPageInputs,
    StatusPageModel,
)
from supervisor.control.page import pieces, render_page
from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.state import Session
from supervisor.core.views.status_json import DaemonIdentity, status_document
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.last_failures import LastFailures
from supervisor.reports.history.recorder import History, HistorySources
from tests.fakes import Habits, World
from tests.simulation.test_worlds import tunnel

SECRET = "correct horse"


class Night:
    """A facilitator whose only tunnel goes up and down, and its status page."""

    def __init__(self, directory: Path, habits: Habits) -> None:
        self.deaths = LastFailures()
        around = HistorySources(clock=lambda: self.world.now, offset=lambda: 1_790_000_000.0)
        self.history = History(Archive(directory, "0"), around)
        self.world = World({"acme": tunnel()}, habits, recorder=self)
        self.bytes = {"t-acme": (0, 0)}
        self.readings = 0  # of the traffic counters
        self.clock = 1000.0  # of the status page
        self.model = StatusPageModel(
            StatusPageInputs(
                lambda: self.world.engine.snapshot,
                lambda: self.deaths.by_tunnel,
                self.traffic,
                self.history,
                1_790_000_000.0,
                lambda text: text.replace(SECRET, "***"),
                lambda: self.clock,
            )
        )

    def traffic(self, tunnel: str, session: Session) -> tuple[int, int] | None:
        self.readings += 1
        return self.bytes.get(session.device or "")

    def record(self, transition, snapshot) -> None:
        self.deaths.record(transition, snapshot)
        self.history.record(transition, snapshot)

    async def shown(self):
        engine = self.world.engine
        document = status_document(
            DaemonIdentity("test", "0", 1, 1_790_000_000.0, 1_790_000_000.0),
            engine.snapshot,
            engine.plan,
            engine.conditions,
        )
        return await self.model.document(document, engine.snapshot)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    lives = iter((100.0, 100.0))
    return Night(tmp_path, Habits(lives=lambda: next(lives, float("inf"))))


async def test_the_document_is_json_and_a_page(night: Night) -> None:
    night.world.run(until=1000.0)
    shown = await night.shown()
    entry = shown["tunnels"][0]
    assert len(entry["deaths"]) == 2
    assert entry["deaths"][0]["at"] > entry["deaths"][1]["at"], "the latest first"
    assert entry["availability"]["ratio"] is None, "a quarter of an hour is too little for a figure"
    assert "observed since" in render_page(shown)
    assert entry["availability"]["last_day"][-1] == "down", (
        "the worst that was in this quarter of an hour, or in the one before"
    )
    assert json.loads(json.dumps(shown)) == shown
    assert "last 2 session ends" in render_page(shown)


async def test_a_figure_for_less_than_a_day_says_since_when(night: Night) -> None:
    night.world.run(until=7 * 3600.0)
    shown = await night.shown()
    entry = shown["tunnels"][0]["availability"]
    assert 0.9 < entry["ratio"] < 1.0
    assert f"available since {datetime.fromisoformat(entry['since']):%d %b %H:%M}" in render_page(shown)


async def test_samples_are_taken_while_it_runs_and_only_so_many_are_kept(night: Night) -> None:
    night.world.run(until=50.0)
    await night.shown()  # somebody looks
    running = asyncio.create_task(night.model.run(0.001))
    async with asyncio.timeout(30):
        for _ in range(SAMPLES + 5):
            await night.model.changed()
            night.clock += 0.1
            received, sent = night.bytes["t-acme"]
            night.bytes["t-acme"] = (received + 1000, sent + 500)
    running.cancel()
    measures = (await night.shown())["measures"]["acme"]
    assert measures["rtts"] == [0.01] * SAMPLES
    assert measures["received_per_second"] > measures["sent_per_second"] > 0


async def test_traffic_is_measured_seldom_while_nobody_looks_and_at_once_when_somebody_does(
    night: Night,
) -> None:
    night.world.run(until=50.0)
    running = asyncio.create_task(night.model.run(0.001))
    async with asyncio.timeout(30):
        for _ in range(24):
            await night.model.changed()
            night.clock += SAMPLE_SECONDS
    running.cancel()
    assert night.readings == 1 + 24 * SAMPLE_SECONDS // UNSEEN_TRAFFIC_SECONDS - 1
    night.bytes["t-acme"] = (4000, 2000)
    night.clock += 20.0
    measures = (await night.shown())["measures"]["acme"]
    assert measures["received_per_second"] == pytest.approx(2 * measures["sent_per_second"], abs=2)
    assert measures["sent_per_second"] > 0, "since the last sample, however old that is"


async def test_incidents_stay_open_on_hold_and_secrets_are_masked(night: Night) -> None:
    firing = Alert("acme", Verdict.FIRING, "critical", f"acme is down: {SECRET}", 10.0, {})
    for alert, count in (
        (replace(firing, verdict=Verdict.HOLD), 0),
        (firing, 1),
        (replace(firing, since=20.0), 1),
        (replace(firing, verdict=Verdict.HOLD), 1),
        (replace(firing, verdict=Verdict.CLEAR), 0),
    ):
        waiting = asyncio.create_task(night.model.changed())
        await asyncio.sleep(0)
        night.model.set({"acme": alert})
        await asyncio.wait_for(waiting, 10)
        incidents = (await night.shown())["incidents"]
        assert len(incidents) == count
        for each in incidents:
            assert each["summary"] == "acme is down: ***"
            assert each["since"] == "2026-09-21T14:13:30Z", "when it was first told of"


async def test_no_piece_of_the_page_changes_while_nothing_happens(night: Night) -> None:
    night.world.run(until=50.0)
    first, second = pieces(await night.shown()), pieces(await night.shown())
    assert {key: piece.value for key, piece in first.items()} == {
        key: piece.value for key, piece in second.items()
    }
