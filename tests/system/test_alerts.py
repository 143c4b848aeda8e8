"""The real daemon and its calls: one incident over a SIGKILL, one over many failures, and what
`facilitator alerts` says of it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import CUSTOMER, Lab
from tests.lab.config import Config, only
from tests.lab.daemon import LabDaemon, LabPagerDuty
from tests.lab.network import DATACENTRE
from tests.lab.wait import eventually

pytestmark = pytest.mark.root

KEY = "facilitator/lab/acme-dc"


@pytest.fixture
def called(lab: Lab, config: Config, pagerduty: LabPagerDuty) -> Iterator[LabDaemon]:
    """A daemon with one tunnel, short holds, and both receivers."""
    lab.set_secret("webhook-address", f"{pagerduty.url}/hook/token-of-the-hook\n")
    alerts = lab.configuration(pagerduty)["alerts"] | {
        "webhook": {"url": {"file": str(lab.directory / "webhook-address")}}
    }
    config = only(config, "acme-dc") | {"alerts": alerts}
    config["defaults"] |= {"alert": {"after": "3s", "clear_after": "4s"}}
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        yield daemon


def actions(pagerduty: LabPagerDuty) -> list[str]:
    return [event["event_action"] for event in pagerduty.state()["events"]]


def alerts(daemon: LabDaemon) -> dict[str, Any]:
    done = daemon.cli("alerts", "--json")
    assert done.returncode == 0, done.stderr
    return {receiver["name"]: receiver for receiver in json.loads(done.stdout)["receivers"]}


def test_one_incident_over_the_daemons_death(lab: Lab, called: LabDaemon, pagerduty: LabPagerDuty) -> None:
    tried = called.cli("alerts", "--test")
    assert (tried.returncode, tried.stdout.splitlines()) == (
        0,
        [
            f"{name}: {action}: accepted"
            for name in ("pagerduty", "webhook")
            for action in ("trigger", "resolve")
        ],
    )
    lab.blackhole(CUSTOMER)
    try:
        eventually(lambda: pagerduty.open() == [KEY], 30, "an incident is open")
        shown = alerts(called)
        assert [i["name"] for i in shown["pagerduty"]["incidents"]] == ["acme-dc"]
        called.kill9()
        called.start()
        assert pagerduty.open() == [KEY]
    finally:
        lab.unblock(CUSTOMER)
    eventually(lambda: pagerduty.open() == [], 60, "the incident is resolved")
    eventually(lambda: not any(r["incidents"] for r in alerts(called).values()), 20, "nothing waits")
    state = pagerduty.state()
    assert actions(pagerduty)[:2] == ["trigger", "resolve"], "the test's own"
    assert actions(pagerduty)[2:] == ["trigger", "resolve"]
    details = state["events"][2]["payload"]["custom_details"]
    assert details["destinations"] == str(DATACENTRE)
    assert details["since"].endswith("Z")
    assert "facilitator logs acme-dc" in details["look_further"]
    assert [post["action"] for post in state["posts"]] == ["trigger", "resolve"] * 2
    assert "token-of-the-hook" not in called.log.read_text()
    assert state["refusals"] == state["parallel"] == []


def test_a_client_that_dies_again_and_again_is_one_incident_and_changes_call_nobody(
    called: LabDaemon, pagerduty: LabPagerDuty
) -> None:
    for _ in range(8):
        called.wait_for("acme-dc", phase="up", health="healthy")
        os.kill(called.tunnel("acme-dc")["session"]["pid"], signal.SIGKILL)
        eventually(lambda: called.tunnel("acme-dc")["health"] != "healthy", 10, "it is noticed")
    eventually(lambda: pagerduty.open() == [KEY], 20, "an incident is open")
    eventually(lambda: pagerduty.open() == [], 60, "the incident is resolved")
    assert actions(pagerduty) == ["trigger", "resolve"]
    text = called.config_file.read_text()
    called.config_file.write_text(text.replace("description: ACME's data centre", "description: Frankfurt"))
    assert called.cli("reload").returncode == 0
    eventually(lambda: pagerduty.state()["changes"], 10, "the reload is told")
    assert called.stop() == 0
    summaries = [change["payload"]["summary"] for change in pagerduty.state()["changes"]]
    assert summaries == ["lab: the configuration was reloaded", "lab: stops on request"]
    assert actions(pagerduty) == ["trigger", "resolve"], "an end on purpose calls nobody"
