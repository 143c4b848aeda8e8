"""What stands in the record: sessions with their bytes and ends, incidents, and how much of the past."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.network.traffic import Carried
from supervisor.core.state import Failure, Phase, Session
from supervisor.core.views.availability import Standing
from supervisor.reports.history.archive import FILE, MAX_AGE_SECONDS, Archive, ClockReading
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.history.session_traffic import TrafficSources
from tests.fakes import Habits
from tests.history.worlds import ROWS_ONLY, SimulatedHistory, SimulatedHost, surroundings, tunnel
from tests.reports.worlds import alert, ended, snapshot, transition, up
from tests.states import but, tunnel_state
from tunnels.base import Failed, Reason

DAY = 86400.0


def opened(directory: Path, machine: SimulatedHost, **around: object) -> History:
    known = surroundings(machine)
    history = History(
        Archive(directory, "test"), HistorySources(known.boot, known.clock, known.offset, **around), ROWS_ONLY
    )
    history.start()
    return history


def test_a_session_is_told_from_its_start_to_its_end(tmp_path: Path) -> None:
    machine = SimulatedHost()
    refused = [None, Failed(Reason.PEER_CLOSED, "closed by the remote gateway"), None]
    life = SimulatedHistory(tmp_path, machine, Habits(says=lambda: refused.pop(0)))
    life.run(100.0)
    life.ask(Reason.RESTARTED)
    life.run(100.0)
    third, second, first = life.history.read("acme", 9).sessions
    assert (first["started"], first["connected"]) == (machine.offset, machine.offset + 0.5)
    assert (first["ended"] - first["started"], first["lasted"]) == (
        pytest.approx(100.05),
        pytest.approx(100.05),
    )
    assert (first["id"], first["kind"], first["device"], first["address"]) == (
        "id-1",
        "test",
        "t-acme",
        "10.78.0.2",
    )
    assert (first["reason"], first["text"]) == ("restarted", "")
    assert (second["reason"], second["text"], second["connected"]) == (
        "peer-closed",
        "closed by the remote gateway",
        None,
    )
    assert (third["ended"], third["reason"]) == (None, None)
    life.history.close()


def test_bytes_are_those_of_the_session_also_where_its_device_is_made_anew(tmp_path: Path) -> None:
    counters = {"t-acme": (100, 50)}
    history = opened(tmp_path, SimulatedHost(100.0), traffic=TrafficSources(counters.get))
    world = snapshot(acme=up())
    history.record(transition(Phase.STARTING, Phase.UP, Reason.CONNECTED), world)
    history.measure_now("acme", 1)
    assert history.flush(10.0)
    counters["t-acme"] = (30, 20)
    stopping = snapshot(acme=up(phase=Phase.STOPPING))
    history.record(transition(Phase.UP, Phase.STOPPING, Reason.STOPPED), stopping)
    assert history.flush(10.0)
    del counters["t-acme"]
    history.record(
        transition(Phase.STOPPING, Phase.STOPPED, Reason.STOPPED), snapshot(acme=up(phase=Phase.STOPPED))
    )
    (row,) = history.read("acme", 9).sessions
    assert (row["received"], row["sent"], row["reason"]) == (130, 70, "stopped")
    history.close()


def test_flows_and_a_proxys_bytes_are_those_of_the_session_though_their_counters_go_on(
    tmp_path: Path,
) -> None:
    carried = {0: Carried(5, 500, 50)}
    history = opened(
        tmp_path, SimulatedHost(100.0), traffic=TrafficSources(carried=lambda tunnel, slot: carried.get(slot))
    )

    def session(number: int, *counts: Carried) -> None:
        state = up(session=replace(up(number).session, device=None))
        history.record(
            transition(Phase.STARTING, Phase.UP, Reason.CONNECTED, session=number), snapshot(acme=state)
        )
        for count in counts:
            carried[0] = count
            history.measure_now("acme", number)
            assert history.flush(10.0)
        ended = transition(Phase.UP, Phase.STOPPED, Reason.STOPPED, session=number)
        history.record(ended, snapshot(acme=but(state, phase=Phase.STOPPED)))
        assert history.flush(10.0)

    session(1, Carried(7, 700, 70), Carried(10, 1000, 100))
    session(2, Carried(11, 1100, 101), Carried(3, 30, 3))  # the table was made anew meanwhile
    second, first = history.read("acme", 9).sessions
    assert (first["flows"], first["received"], first["sent"]) == (10, 1000, 100)
    assert (second["flows"], second["received"], second["sent"]) == (4, 130, 4)
    history.close()


def test_texts_are_masked_and_harmless(tmp_path: Path) -> None:
    history = opened(tmp_path, SimulatedHost(100.0), mask=lambda text: text.replace("hunter2", "[secret]"))
    text = "hunter2 \x1b[31m\ud800" + "x" * 9000
    state = up(phase=Phase.BACKOFF, failure=Failure(Reason.LOCAL, text, 100.0))
    history.record(transition(Phase.UP, Phase.BACKOFF, Reason.LOCAL, text=text), snapshot(acme=state))
    read = history.read(None, 9)
    for row in (*read.transitions, *read.sessions):
        assert row["text"].startswith("[secret] \\x1b[31m\\ud800xxx")
        assert len(row["text"]) < 600
    assert read.problem is None
    history.close()


def test_incidents_are_opened_and_closed_once_also_over_a_restart(tmp_path: Path) -> None:
    machine = SimulatedHost(100.0)
    history = opened(tmp_path, machine)
    told: list[dict[str, Alert]] = [
        {"acme": alert(Verdict.HOLD)},
        {"acme": alert(Verdict.FIRING), "other": alert(Verdict.FIRING, "other")},
        {"acme": alert(Verdict.FIRING, summary="later words")},
        {"acme": alert(Verdict.HOLD)},
    ]
    for number, alerts in enumerate(told):
        machine.now = 200.0 + number
        history.set(alerts)
    history.close()
    history = opened(tmp_path, machine)
    history.set({"acme": alert(Verdict.HOLD)})
    machine.now = 300.0
    history.set({"acme": alert(Verdict.CLEAR)})
    history.set({"acme": alert(Verdict.CLEAR)})
    found = {row["name"]: row for row in history.read(None, 9).incidents}
    assert [
        (name, row["opened"] - machine.offset, row["closed"] - machine.offset)
        for name, row in sorted(found.items())
    ] == [("acme", 201.0, 300.0), ("other", 201.0, 202.0)]
    assert found["acme"]["summary"] == "tunnel acme is down"
    history.close()


def test_failures_of_earlier_runs_are_remembered(tmp_path: Path) -> None:
    machine = SimulatedHost()
    life = SimulatedHistory(tmp_path, machine, Habits(lives=lambda: 10.0))
    life.run(300.0)
    life.die()
    later = SimulatedHistory(tmp_path, SimulatedHost(400.0), Habits())
    known = later.past["acme"]
    assert (len(known), {failure.reason for failure in known}) == (5, {Reason.EXITED})
    assert 0.0 < known[0].at < known[-1].at < 300.0
    later.history.close()


def test_what_is_too_old_goes_but_never_what_a_tunnel_is(tmp_path: Path) -> None:
    machine = SimulatedHost()
    tunnels = {name: tunnel(name, targets=()) for name in ("quiet", "acme")}
    life = SimulatedHistory(tmp_path, machine, Habits(), **tunnels)
    life.run(10.0)
    life.ask(Reason.RESTARTED)
    life.run(2 * MAX_AGE_SECONDS)
    life.die()
    archive = Archive(tmp_path, "test")
    archive.begin(ClockReading(machine.now, machine.offset, "one"), {}, 0.0)
    archive.prune(ClockReading(machine.now, machine.offset, "one"))
    archive.close()
    later = SimulatedHistory(tmp_path, machine, Habits(), **tunnels)
    assert later.history.availability("quiet")["30d"].ratio == pytest.approx(1.0, abs=1e-4)
    assert len(later.history.read("quiet", 99).transitions) == 2, "the last one, and the start of this run"
    later.history.close()


@pytest.mark.slow
def test_the_file_is_bounded_and_the_newest_stays(tmp_path: Path) -> None:
    machine = SimulatedHost()
    archive = Archive(tmp_path, "test", size=300_000)
    history = History(archive, surroundings(machine), ROWS_ONLY)
    history.start()
    for number in range(1, 2501):
        machine.now = float(number)
        state = tunnel_state(phase=Phase.UP, session=Session(number, f"id-{number}", started=machine.now))
        for moved in (
            replace(
                transition(Phase.UP, Phase.STARTING, Reason.EXITED, session=number),
                ended=ended("acme", number - 1, Reason.EXITED),
            ),
            transition(Phase.STARTING, Phase.UP, Reason.CONNECTED, session=number),
        ):
            history.record(moved, snapshot(acme=state))
    assert history.flush(10.0)
    history.close()
    before = (tmp_path / FILE).stat().st_size
    archive.prune(surroundings(machine).now())
    archive.close()
    after = (tmp_path / FILE).stat().st_size
    assert before > 500_000 > 330_000 > after
    history = opened(tmp_path, machine)
    read = history.read("acme", 10_000)
    assert read.sessions[0]["id"] == "id-2500"
    assert 300 < len(read.sessions) < 2000
    history.close()


def test_a_day_strip_and_segments_tell_the_same(tmp_path: Path) -> None:
    machine = SimulatedHost()
    life = SimulatedHistory(tmp_path, machine, Habits())
    life.run(3 * 3600.0)
    life.ask(Reason.STOPPED)
    life.run(3600.0)
    wall = machine.now + machine.offset
    *_, (start, end, what) = life.history.segments("acme", DAY)
    assert (start, end, what) == (pytest.approx(wall - 3600.0, abs=1.0), wall, Standing.STOPPED)
    assert life.history.worst_by_part("acme", DAY, 24) == [None] * 20 + [
        Standing.DOWN,
        Standing.UP,
        Standing.UP,
        Standing.STOPPED,
    ]
    assert life.history.worst_by_part("nobody", DAY, 2) == [None, None]
    life.history.close()
