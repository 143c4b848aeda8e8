"""What `facilitator doctor` says of members, lock engine and routes."""

from __future__ import annotations

import pytest

from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Severity
from supervisor.core.preflight.fleet import fleet
from supervisor.core.preflight.fleet_facts import EngineAnswer, EngineNode, FleetFacts, MemberAnswer

URL = "https://172.31.2.2:9464"
NODES = tuple(EngineNode(f"https://10.0.0.{number}:2379", "", "3.5.9") for number in (1, 2, 3))


def said(facts: FleetFacts) -> list[tuple[Severity, str]]:
    return [(finding.severity, finding.text) for finding in fleet(HostFacts(fleet=facts))]


@pytest.mark.parametrize(
    ("answer", "severity", "text"),
    [
        (MemberAnswer("vpn2", URL, "", "vpn2", "0.1.0", 0.4), Severity.OK, "member vpn2 answers"),
        (MemberAnswer("vpn2", None), Severity.INFO, "no `api`"),
        (MemberAnswer("vpn2", URL, "no answer in time"), Severity.WARNING, "no answer in time"),
        (MemberAnswer("vpn2", URL, "", "vpn3", "0.1.0"), Severity.PROBLEM, "facilitator 'vpn3'"),
        (MemberAnswer("vpn2", URL, "", "vpn2", "0.1.0", -7.0), Severity.WARNING, "7 s behind this one"),
        (MemberAnswer("vpn2", URL, "", "vpn2", "0.1.0", 7.0), Severity.WARNING, "7 s ahead of this one"),
    ],
)
def test_a_member(answer: MemberAnswer, severity: Severity, text: str) -> None:
    ((found, sentence),) = said(FleetFacts((answer,)))
    assert (found, text in sentence) == (severity, True)


@pytest.mark.parametrize(
    ("answer", "severity", "text"),
    [
        (EngineAnswer("etcd", seconds=0.004, nodes=NODES), Severity.OK, "etcd gives locks in 4 ms"),
        (EngineAnswer("etcd", seconds=0.9, nodes=NODES), Severity.WARNING, "slow for a ttl of 5 s"),
        (EngineAnswer("etcd", "no answer in time", nodes=NODES), Severity.PROBLEM, "cannot be used"),
        (
            EngineAnswer("etcd", denied=(("take locks", "permission denied"),), nodes=NODES),
            Severity.PROBLEM,
            "does not let this member take locks: permission denied",
        ),
    ],
)
def test_the_lock_engine(answer: EngineAnswer, severity: Severity, text: str) -> None:
    ((found, sentence),) = said(FleetFacts(engine=answer))
    assert (found, text in sentence) == (severity, True)


@pytest.mark.parametrize(
    ("node", "severity", "text"),
    [
        (EngineNode("http://n", "no answer in time"), Severity.WARNING, "http://n cannot be used"),
        (EngineNode("http://n", "", "3.4.23", leader=False), Severity.PROBLEM, "no majority"),
        (EngineNode("http://n", "", "3.3.10"), Severity.PROBLEM, "version 3.3.10"),
    ],
)
def test_a_node_of_etcd(node: EngineNode, severity: Severity, text: str) -> None:
    first, *_ = said(FleetFacts(engine=EngineAnswer("etcd", nodes=(node, *NODES))))
    assert (first[0], text in first[1]) == (severity, True)


def test_one_node_and_routes() -> None:
    found = said(FleetFacts(engine=EngineAnswer("etcd", nodes=NODES[:1]), routes=("denied",)))
    assert [severity for severity, _ in found] == [Severity.INFO, Severity.OK, Severity.PROBLEM]
    assert said(FleetFacts(routes=()))[0][0] is Severity.OK
    assert said(FleetFacts()) == []
    assert list(fleet(HostFacts())) == []
