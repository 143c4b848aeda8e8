"""Whom a verdict blames, with real clients: neither a dead destination nor a dead uplink costs a session,
and the incident names it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config, only
from tests.lab.customers import Customers, customers
from tests.lab.daemon import LabPagerDuty
from tests.lab.network import CUSTOMER, DATACENTRE
from tests.lab.wait import eventually

pytestmark = pytest.mark.root

OPENVPNS, PROXIES = 14, 6
FLAPS = 15  # ten minutes at 20 s each


def sessions(daemon: LabDaemon) -> dict[str, Any]:
    """Which sessions run, in which processes."""
    return {
        tunnel["name"]: (tunnel["session"]["id"], tunnel["session"]["pid"])
        for tunnel in daemon.status()["tunnels"]
    }


@dataclass(frozen=True)
class PagerDutyCalls:
    """What PagerDuty is told from a moment on at which all was well."""

    pagerduty: LabPagerDuty
    earlier: int  # events: a busy machine may take its time for the start

    @classmethod
    def since(cls, daemon: LabDaemon, pagerduty: LabPagerDuty) -> PagerDutyCalls:
        """From now on."""
        daemon.wait_well(60)
        eventually(lambda: pagerduty.open() == [], 60, "nobody is called any more")
        return cls(pagerduty, len(pagerduty.state()["events"]))

    @property
    def events(self) -> list[dict[str, Any]]:
        """As they came."""
        found: list[dict[str, Any]] = self.pagerduty.state()["events"]
        return found[self.earlier :]

    @property
    def told(self) -> list[tuple[str, str]]:
        """What was done with which incident."""
        return [
            (event["event_action"], event["dedup_key"].removeprefix("facilitator/lab/"))
            for event in self.events
        ]


def with_calls(lab: Lab, config: Config, pagerduty: LabPagerDuty, after: str, clear_after: str) -> Config:
    config["defaults"] |= {"alert": {"after": after, "clear_after": clear_after}}
    return {**config, "alerts": lab.configuration(pagerduty)["alerts"]}


@pytest.fixture
def everyone(lab: Lab) -> Iterator[Customers]:
    with customers(lab) as made:
        made.openvpn()
        made.openconnect()
        made.wireguard()
        made.ipsec()
        made.sshuttle()
        made.command()
        yield made


def test_a_dead_destination_costs_no_session_of_any_kind(
    lab: Lab, config: Config, everyone: Customers, pagerduty: LabPagerDuty
) -> None:
    with lab.daemon(with_calls(lab, everyone.config(config), pagerduty, "3s", "2s")) as daemon:
        calls, before = PagerDutyCalls.since(daemon, pagerduty), sessions(daemon)
        with lab.network.mute("datacentre"), lab.network.mute("cloud"):
            for name in before:
                told = daemon.wait_for(name, 20, phase="up", health="unhealthy", leg="destination")
                print(name, told["last_error"])
            eventually(
                lambda: len(pagerduty.open()) == len(before), 20, "somebody is called for each destination"
            )
            assert sessions(daemon) == before
            for event in calls.events:
                assert "its destination is dead" in event["payload"]["summary"]
                assert event["payload"]["custom_details"]["dead_leg"].startswith("destination:")
                assert (
                    str(CLOUD_WEB if "sshuttle" in event["dedup_key"] else DATACENTRE_WEB)
                    in event["payload"]["summary"]
                )
            assert daemon.metric("facilitator_tunnel_dead_leg", leg="destination") == len(before)
        daemon.wait_well(20)
        eventually(lambda: pagerduty.open() == [], 20, "it is over")
        assert sessions(daemon) == before
    assert daemon.leftovers() == {}


def test_a_dead_gateway_is_told_from_a_dead_service_on_it(lab: Lab, config: Config) -> None:
    with lab.daemon(only(config, "acme-dc")) as daemon:
        daemon.wait_well()
        lab.openvpn.halt()
        try:
            daemon.wait_for("acme-dc", 30, leg="tunnel", endpoint="answers")
            lab.blackhole(CUSTOMER)
            daemon.wait_for("acme-dc", 60, leg="endpoint", endpoint="silent")
        finally:
            lab.unblock(CUSTOMER)
            lab.openvpn.go_on()
        daemon.wait_for("acme-dc", 60, leg=None, phase="up", health="healthy", endpoint="unknown")
    assert daemon.leftovers() == {}


def test_a_cut_uplink_with_twenty_tunnels_is_one_incident_and_costs_no_session(
    lab: Lab, config: Config, pagerduty: LabPagerDuty
) -> None:
    del config["defaults"]["probe"]
    with lab.daemon(with_calls(lab, twenty(lab, config), pagerduty, "2m", "1s")) as daemon:
        calls, before = PagerDutyCalls.since(daemon, pagerduty), sessions(daemon)
        assert len(before) == OPENVPNS + PROXIES
        with lab.network.cut():
            eventually(
                lambda: pagerduty.open() == ["facilitator/lab/uplink"],
                30,
                "somebody is called for the uplink",
            )
            eventually(
                lambda: {t["leg"] for t in daemon.status()["tunnels"]} == {"uplink"},
                30,
                "all of them blame the uplink",
            )
            assert [each["name"] for each in daemon.status()["conditions"]] == ["uplink"], (
                "it explains that the tunnels are down"
            )
        daemon.wait_well(30)
        eventually(lambda: pagerduty.open() == [], 120, "it is over")
        assert calls.told == [("trigger", "uplink"), ("resolve", "uplink")]
        assert "uplink is dead" in calls.events[0]["payload"]["summary"]
        assert sessions(daemon) == before
        assert {tunnel["reconnects"] for tunnel in daemon.status()["tunnels"]} == {0}
    assert daemon.leftovers() == {}


def test_a_path_that_flaps_is_one_incident(
    lab: Lab, config: Config, pagerduty: LabPagerDuty, request: pytest.FixtureRequest
) -> None:
    """The product's own times where it dies and lives 20 s each, for ten minutes; all of them shorter in
    the same measure otherwise.
    """
    period = float(request.config.getoption("--flap-seconds"))
    config["defaults"] |= {
        "probe": {"interval": seconds(period / 4), "timeout": seconds(period / 10)},
        "reconnect": {
            "first": seconds(period / 20),
            "max": seconds(period * 6),
            "stable_after": seconds(period * 3),
        },
    }
    with lab.daemon(
        only(with_calls(lab, config, pagerduty, seconds(period * 9), seconds(period * 6)), "acme-dc")
    ) as daemon:
        calls = PagerDutyCalls.since(daemon, pagerduty)
        try:
            for _ in range(FLAPS):
                lab.blackhole(CUSTOMER)
                time.sleep(period)  # the flapping itself
                lab.unblock(CUSTOMER)
                time.sleep(period)
        finally:
            lab.unblock(CUSTOMER)
        assert calls.told == [("trigger", "acme-dc")]
        daemon.wait_well(60)
        eventually(lambda: pagerduty.open() == [], 30 + period * 10, "it is over")
        assert calls.told == [("trigger", "acme-dc"), ("resolve", "acme-dc")]
        print("failures:", daemon.tunnel("acme-dc")["reconnects"], calls.events[0]["payload"]["summary"])
    assert daemon.leftovers() == {}


def test_a_tunnel_that_loses_every_fourth_probe_is_degraded(
    lab: Lab, config: Config, pagerduty: LabPagerDuty
) -> None:
    config["tunnels"]["acme-dc"]["probe"] = {"targets": [f"icmp://{DATACENTRE_WEB}"]}
    with lab.daemon(only(with_calls(lab, config, pagerduty, "2s", "1s"), "acme-dc")) as daemon:
        calls, before = PagerDutyCalls.since(daemon, pagerduty), sessions(daemon)
        with lab.network.lossy("datacentre", 4):
            told = eventually(lambda: daemon.tunnel("acme-dc")["degraded"], 20, "its quality is told")
            assert "probe rounds unanswered" in told
            eventually(
                lambda: pagerduty.open() == ["facilitator/lab/degraded:acme-dc"], 20, "somebody is told"
            )
            assert daemon.metric("facilitator_tunnel_degraded", tunnel="acme-dc") == 1
            assert daemon.metric("facilitator_tunnel_up", tunnel="acme-dc") == 1
            assert [each["name"] for each in daemon.status()["conditions"]] == ["degraded:acme-dc"]
            assert daemon.cli("status").returncode == 0
            assert "up, degraded" in daemon.cli("status").stdout
        event = calls.events[0]
        assert (event["payload"]["severity"], told in event["payload"]["summary"]) == ("warning", True)
        eventually(lambda: daemon.tunnel("acme-dc")["degraded"] is None, 20, "its quality is good again")
        assert sessions(daemon) == before
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
        assert [each["text"] for each in lines if each.get("reason") == "degraded"] == [told]
        history = json.loads(daemon.cli("history", "acme-dc", "--json").stdout)["tunnels"][0]["availability"][
            "1h"
        ]
        assert history["degraded_seconds"] > 0
        assert history["failures"] == 0
    assert daemon.leftovers() == {}


def seconds(number: float) -> str:
    """A duration as the configuration has it."""
    return f"{number * 1000:.0f}ms"


def twenty(lab: Lab, config: Config) -> Config:
    """OpenVPN clients, each with a certificate of its own, and sshuttle."""
    acme, cloud = config["tunnels"]["acme-dc"], config["tunnels"]["own-cloud"]
    tunnels = {}
    for number in range(OPENVPNS):
        profile = f"acme-{number}.ovpn"
        lab.set_secret(profile, lab.openvpn.client_config(str(CUSTOMER), name=f"svc-{number}"))
        there = [{"network": str(DATACENTRE), "presented_as": f"100.64.{number}.0/24"}]
        tunnels[f"acme-{number}"] = {**acme, "config": str(lab.directory / profile), "destinations": there}
    for number in range(PROXIES):
        tunnels[f"cloud-{number}"] = {**cloud, "priority": number}
    return {**config, "tunnels": tunnels}
