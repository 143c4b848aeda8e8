"""The numbers of availability against a count of its own, in simulated days."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from supervisor.core.state import Session
from supervisor.core.views.availability import Standing
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.recorder import History
from tests.fakes import Habits
from tests.history.worlds import (
    ROWS_ONLY,
    ObservedTruth,
    SimulatedHistory,
    SimulatedHost,
    surroundings,
    tunnel,
)
from tunnels.base import Failed, Reason

pytestmark = pytest.mark.slow

DAY, HOUR = 86400.0, 3600.0


def drops(seed: int) -> Habits:
    """Clients that hang, die and ignore SIGTERM, and a path that goes dead for a minute now and then."""
    dice, begun = random.Random(seed), itertools.count()
    return Habits(
        connects_in=lambda: None if next(begun) and dice.random() < 0.05 else dice.uniform(0.2, 9.0),
        lives=lambda: dice.expovariate(1 / 1800),
        obeys_sigterm=lambda: dice.random() > 0.2,
        path_alive=lambda now: (now + 2500.0) % 5000.0 > 60.0,
    )


def assert_true(life: SimulatedHistory, window: str, truth: ObservedTruth, within: float = 1.0) -> None:
    said = life.history.availability("acme")[window].seconds
    assert said[Standing.UP] == pytest.approx(truth.seconds["up"], abs=within)
    assert said[Standing.DOWN] == pytest.approx(truth.seconds["down"], abs=within)
    assert said[Standing.STOPPED] == pytest.approx(truth.seconds["stopped"], abs=within)


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_drops_is_told_to_within_a_second(tmp_path: Path, seed: int) -> None:
    life = SimulatedHistory(tmp_path, SimulatedHost(), drops(seed))
    life.run(DAY)
    told = life.history.availability("acme")["24h"]
    assert_true(life, "24h", life.truth)
    assert 0.9 < told.ratio < 0.999
    assert told.ratio == pytest.approx(life.truth.seconds["up"] / DAY, abs=1e-5)
    first, *repairs = life.truth.repairs  # the first connection was no repair
    assert (told.healed, told.by_hand) == (len(repairs), 0)
    assert told.mttr == pytest.approx(sum(repairs) / len(repairs))
    assert told.mtbf == pytest.approx(life.truth.seconds["up"] / len(told.failures))
    assert sum(told.deaths.values()) == len(life.world.runner.spawned) - 1
    life.history.close()


def test_a_step_of_the_clock_adds_and_takes_nothing(tmp_path: Path) -> None:
    machine = SimulatedHost()
    life = SimulatedHistory(tmp_path, machine, drops(4))
    for step in (0.0, -7200.0, 30_000_000.0, -29_000_000.0, 3.0):
        life.run(HOUR / 2)
        machine.offset += step
    assert_true(life, "24h", life.truth, within=1e-3)
    life.run(HOUR)
    assert sum(life.history.availability("acme")["1h"].seconds.values()) == pytest.approx(HOUR)
    life.history.close()


@pytest.mark.parametrize(("reboot", "away"), [(False, 300.0), (True, 1234.0)])
def test_a_crash_of_the_daemon_is_time_in_which_nobody_watched(
    tmp_path: Path, reboot: bool, away: float
) -> None:
    machine = SimulatedHost()
    life = SimulatedHistory(tmp_path, machine, drops(5))
    life.run(2 * HOUR)
    life.die()
    machine.now += away
    if reboot:
        machine.boot, machine.offset, machine.now = "two", machine.offset + machine.now - 60.0, 60.0
    again = SimulatedHistory(tmp_path, machine, drops(6), truth=life.truth)
    again.run(3 * HOUR)
    assert_true(again, "24h", life.truth)
    said = again.history.availability("acme")["24h"]
    assert said.seconds[Standing.UNWATCHED] == pytest.approx(away, abs=1.0)
    assert sum(said.seconds.values()) == pytest.approx(5 * HOUR + away, abs=0.01)
    assert [o.reason for o in said.outages].count("daemon-lost") == 1
    assert said.deaths["daemon-lost"] == 1
    again.history.close()


def test_what_was_asked_for_is_no_failure(tmp_path: Path) -> None:
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(100.0)
    life.ask(Reason.RESTARTED)
    life.run(100.0)
    life.ask(Reason.STOPPED)
    life.run(1000.0)
    life.ask(Reason.STARTED)
    life.run(100.0)
    said = life.history.availability("acme")["1h"]
    assert (said.failures, dict(said.deaths), len(said.outages)) == ((), {}, 3)
    assert said.seconds[Standing.STOPPED] == pytest.approx(1000.0, abs=0.2)
    assert said.ratio == pytest.approx(300 / 300, abs=0.01)
    life.end()
    later = SimulatedHistory(tmp_path, SimulatedHost(life.machine.now + 50.0), Habits())
    later.run(200.0)
    said = later.history.availability("acme")["1h"]
    assert said.failures == ()
    assert said.seconds[Standing.UNWATCHED] == pytest.approx(51.0, abs=0.1)
    later.history.close()


def test_a_stopped_tunnel_is_nobodys_loss_while_the_daemon_is_away(tmp_path: Path) -> None:
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(100.0)
    life.ask(Reason.STOPPED)
    life.run(100.0)
    life.die()
    later = SimulatedHistory(tmp_path, SimulatedHost(1000.0), Habits(), other=tunnel("other"))
    later.run(10.0)
    said = later.history.availability("acme")["1h"]
    assert (said.seconds[Standing.UNWATCHED], said.failures) == (0.0, ())
    assert said.seconds[Standing.STOPPED] == pytest.approx(910.0, abs=0.1)
    later.history.close()


def test_a_wrong_password_takes_a_human(tmp_path: Path) -> None:
    refused = [True]
    life = SimulatedHistory(
        tmp_path,
        SimulatedHost(),
        Habits(says=lambda: Failed(Reason.AUTH, "AUTH_FAILED") if refused[0] else None),
    )
    life.run(600.0)
    said = life.history.availability("acme")["1h"]
    assert (said.by_hand, said.healed, said.mttr, said.ratio) == (1, 0, None, 0.0)
    assert said.deaths == {"auth": 3}
    refused[0] = False
    life.ask(Reason.STARTED)
    life.run(600.0)
    said = life.history.availability("acme")["1h"]
    assert (said.by_hand, said.healed) == (1, 0)
    assert said.mttr == pytest.approx(600.0, abs=1.0)
    life.history.close()


def test_a_session_that_a_later_daemon_goes_on_with_is_one_session(tmp_path: Path) -> None:
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(500.0)
    life.die()
    around = surroundings(SimulatedHost(520.0))
    history = History(Archive(tmp_path, "test"), around, ROWS_ONLY)
    history.start(adopted={"acme": (Session(1, "id-1"),)})
    said = history.availability("acme")["1h"]
    assert (said.seconds[Standing.UNWATCHED], said.failures) == (0.0, ())
    assert said.seconds[Standing.UP] == pytest.approx(519.5, abs=0.1)
    assert [(s["id"], s["ended"]) for s in history.read("acme", 9).sessions] == [("id-1", None)]
    history.close()
