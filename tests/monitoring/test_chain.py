"""From a dead VPN server to a called human, and back: the daemon, Prometheus with the shipped rules,
Alertmanager, a webhook. All real.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.config import Config, only
from tests.lab.daemon import LabDaemon
from tests.lab.prometheus import PROGRAMS, MonitoringStack, chain, hasty
from tests.lab.wait import eventually
from tests.monitoring.shipped import RULES, dashboard, expressions, rules

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in PROGRAMS),
        reason=f"not installed: {' or '.join(PROGRAMS)}",
    ),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def daemon(lab: Lab) -> Iterator[LabDaemon]:
    config: Config = only(lab.configuration(), "acme-dc")
    config["defaults"] = {
        "reconnect": {"first": "100ms", "max": "1s", "stable_after": "300ms"},
        "probe": {"interval": "500ms", "timeout": "500ms"},
    }
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        yield daemon


@pytest.fixture
def chained(lab: Lab, daemon: LabDaemon) -> Iterator[MonitoringStack]:
    with chain(lab.network["facilitator"], lab.directory, hasty(RULES.read_text())) as found:
        yield found


def test_a_rule_fires_and_resolves(lab: Lab, daemon: LabDaemon, chained: MonitoringStack) -> None:
    webhook = chained.webhook
    eventually(
        lambda: chained.ask("query", query="facilitator_tunnel_up == 1")["result"],
        10,
        "Prometheus knows that the tunnel is up",
    )
    assert (chained.target()["health"], chained.target()["lastError"]) == ("up", "")

    lab.openvpn.kill()
    call = webhook.wait_for("firing", alertname="FacilitatorTunnelDown")
    assert call["labels"] == {
        "alertname": "FacilitatorTunnelDown",
        "severity": "critical",
        "about": "tunnel",
        "job": "facilitator",
        "instance": "127.0.0.1:9464",
        "tunnel": "acme-dc",
    }
    assert call["annotations"]["summary"] == "VPN tunnel acme-dc on 127.0.0.1:9464 is down"
    assert "Its phase is " in call["annotations"]["description"]

    lab.openvpn.start()
    webhook.wait_for("resolved", alertname="FacilitatorTunnelDown")
    daemon.wait_well()
    eventually(lambda: "FacilitatorTunnelDown" not in chained.firing(), 10, "it does not fire any more")

    all_of_them = {rule["name"]: rule for group in chained.ask("rules")["groups"] for rule in group["rules"]}
    assert {name: rule["lastError"] for name, rule in all_of_them.items() if rule["health"] != "ok"} == {}
    assert all_of_them.keys() == {rule["alert"] for rule in rules()}
    for query in expressions(dashboard()):
        chained.ask("query", query=query)  # against what is really there

    daemon.kill9()
    webhook.wait_for("firing", alertname="FacilitatorUnreachable", about="daemon")
    assert webhook.problems == []
