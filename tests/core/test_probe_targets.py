"""What users' packets prove, and in which destination a target lies."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from supervisor.core.session.liveness import ROUNDS
from supervisor.core.session.probe_targets import dead_targets, destination_of, judged, traffic_proof
from supervisor.core.state import Liveness, Proof
from tests.settings import configured
from tunnels.settings import Tunnel

NETWORKS = (ip_network("10.77.0.0/28"), ip_network("10.77.0.16/28"))


@pytest.mark.parametrize(
    ("replied", "targets", "proof"),
    [
        ((), ("icmp://10.77.0.1",), None),
        (("10.77.0.5",), ("icmp://10.77.0.1",), Proof.TRAFFIC),
        (("10.77.0.20",), ("icmp://10.77.0.1",), Proof.ANSWERED),
        (("10.77.0.20", "10.77.0.5"), ("icmp://10.77.0.1",), Proof.TRAFFIC),
        (("10.77.0.20",), ("icmp://10.77.0.1", "tcp://10.77.0.17:443"), Proof.TRAFFIC),
        (("10.77.0.20",), ("icmp://10.99.0.1",), Proof.TRAFFIC),  # it is about all destinations
        (("10.99.0.1",), ("icmp://10.77.0.1",), None),  # of no destination: not opened by staff
        (("fd00::1",), ("icmp://10.77.0.1",), None),
    ],
)
def test_what_replies_prove(replied: tuple[str, ...], targets: tuple[str, ...], proof: Proof | None) -> None:
    assert traffic_proof([ip_address(each) for each in replied], targets, NETWORKS) is proof


def test_a_target_is_dead_after_some_rounds_in_a_row() -> None:
    seen = None
    for moment in range(ROUNDS + 2):
        seen = judged(seen, ("icmp://10.77.0.1",), float(moment))
        dead = dead_targets(Liveness(silent=seen))
        assert [each.since for each in dead] == ([0.0] if moment + 1 >= ROUNDS else [])
    assert judged(seen, None, 9.0) is seen, "a round that is not over says nothing"
    assert judged(seen, (), 9.0) == ()


def test_the_destination_of_a_target() -> None:
    tunnel = configured(
        Tunnel,
        name="acme",
        kind="test",
        destinations=({"network": "10.77.0.0/24", "presented_as": "100.64.0.0/24"}, "10.78.0.0/24"),
    )
    assert str(destination_of(tunnel, "http://10.77.0.9/health").staff_side) == "100.64.0.0/24"
    assert destination_of(tunnel, "icmp://[fd00::1]") is None
