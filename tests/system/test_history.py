"""One record over deaths, a crash of the daemon and a stop: what `facilitator history` and the metric say
of real tunnels.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.lab import DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.wait import eventually

pytestmark = pytest.mark.root


def history(daemon: LabDaemon, *arguments: str) -> dict[str, Any]:
    done = daemon.cli("history", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_deaths_a_crash_and_a_stop_stand_in_one_record(lab: Lab, daemon: LabDaemon) -> None:
    assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
    first = daemon.tunnel("acme-dc")["session"]
    os.kill(first["pid"], signal.SIGKILL)
    second = eventually(lambda: _another(daemon, first["id"]), 20, "another session is well")
    daemon.kill9()
    daemon.start()
    assert daemon.tunnel("acme-dc")["session"]["id"] == second["id"], "a crash ends no session"
    daemon.kill9()
    os.kill(second["pid"], signal.SIGKILL)
    daemon.start()
    third = eventually(
        lambda: _another(daemon, second["id"]), 20, "a session that ended unseen is followed by another one"
    )
    assert daemon.cli("stop", "acme-dc").returncode == 0

    record = history(daemon, "acme-dc")
    told = {session["id"]: session for session in record["sessions"]}
    assert [told[one["id"]]["reason"] for one in (first, second, third)] == ["killed", "exited", "stopped"]
    assert told[first["id"]]["text"] == "client ended by signal 9"
    assert told[second["id"]]["text"] == "client ended, and nobody saw how"
    assert (told[first["id"]]["kind"], told[first["id"]]["device"]) == ("openvpn", first["device"])
    assert told[third["id"]]["address"] == third["address"]
    assert told[third["id"]]["received"] > 100, "read when it was told to end, as its device went with it"
    assert {entry["reason"] for entry in record["transitions"]} >= {
        "configured",
        "connected",
        "healthy",
        "killed",
        "stopped",
    }

    said = record["tunnels"][0]["availability"]["1h"]
    assert said["deaths"] == {"transient": {"killed": 1, "exited": 1}}
    assert (said["failures"], said["healed"], said["by_hand"]) == (2, 2, 0)
    assert 0.0 < said["ratio"] < 1.0
    assert said["unwatched_seconds"] == 0.0 < said["down_seconds"]
    scraped = daemon.metrics()
    assert "facilitator_tunnel_availability_ratio{" not in scraped, "too little was observed for a figure"
    assert daemon.metric("facilitator_history_usable") == 1

    text = daemon.cli("history", "acme-dc").stdout
    assert "killed: client ended by signal 9" in text
    assert "adopted" in text
    overview = daemon.cli("history").stdout
    assert "acme-dc" in overview
    assert "own-cloud" in overview
    assert daemon.cli("history", "nobody").returncode == 1
    assert "killed" in daemon.cli("why", str(DATACENTRE_WEB)).stdout, (
        "failures of an earlier daemon are remembered"
    )


def test_a_history_that_cannot_be_read_is_set_aside_and_stops_nothing(lab: Lab, daemon: LabDaemon) -> None:
    assert daemon.stop() == 0
    state = daemon.directory / "state"
    for file in state.glob("history.db*"):
        file.write_bytes(b"not a database" * 500)
    daemon.start()
    daemon.wait_well()
    assert len(list(state.glob("history.db.corrupt-*"))) >= 1
    assert "a new one is begun" in daemon.log.read_text()
    assert history(daemon)["problem"] is None
    assert len(history(daemon)["sessions"]) == 2


def _another(daemon: LabDaemon, id: str) -> dict[str, Any] | None:
    entry = daemon.tunnel("acme-dc")
    well = entry["phase"] == "up" and entry["health"] == "healthy" and entry["session"]["id"] != id
    return entry["session"] if well else None
