"""Draining one of two OpenVPN servers, with real clients."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.hub.lab import HubLab
from tests.hub.test_sidecar import is_up
from tests.lab.wait import NOISE, eventually

pytestmark = [pytest.mark.root, pytest.mark.timed]


@pytest.fixture
def lab() -> Iterator[HubLab]:
    with HubLab() as lab:
        lab.service.start()
        for node in lab.nodes.values():
            node.start()
        yield lab


def test_a_drained_server_loses_nobody_and_ends_after_the_last(lab: HubLab) -> None:
    a = lab.nodes["a"]
    alice, bob = lab.client("alice"), lab.client("bob")
    alice.start()
    is_up(lab, alice)
    assert a.ask(command="drain", timeout=None) == {"clients": 1}
    with alice.pinging() as counted:
        began = time.monotonic()
        bob.begin()
        is_up(lab, bob)
        assert time.monotonic() - began <= 5 * NOISE
        assert {each.node for each in lab.service.up("bob")} == {"node-b"}
    assert counted[0] - counted[1] <= 1, "the old server lost pings; the last one may be under way"
    eventually(lambda: lab.service.nodes()["node-a"].draining, 5, "the service knows of the drain")
    assert not a.openvpn.ended
    alice.stop()
    # OpenVPN tells of a client that says farewell over TLS 5 s later.
    eventually(lambda: not lab.service.up("alice"), 10, "the service knows that she has left")
    left = time.monotonic()
    eventually(lambda: a.openvpn.ended, 1, "the drained server ends")
    assert time.monotonic() - left <= 1 * NOISE
    assert bob.up_count == 1


def test_at_the_deadline_everybody_is_on_the_other_server(lab: HubLab) -> None:
    a = lab.nodes["a"]
    clients = [lab.client(f"person{number}") for number in range(4)]
    for client in clients:
        client.begin()
    for client in clients:
        is_up(lab, client)
    assert {each.node for each in lab.service.open()} == {"node-a"}
    a.ask(command="drain", timeout=0.5)
    over = time.monotonic() + 0.5
    eventually(
        lambda: (
            {each.node for each in lab.service.open()} == {"node-b"}
            and all(lab.service.up(client.person) for client in clients)
        ),
        5,
        "all are on the other server",
    )
    assert time.monotonic() - over <= 3 * NOISE
    eventually(lambda: a.openvpn.ended, 5, "the drained server ends")
    for client in clients:
        eventually(client.pings, 5, "the other server answers")


def test_a_drain_outlives_the_sidecar_and_ends_with_the_server(lab: HubLab) -> None:
    a = lab.nodes["a"]
    alice = lab.client("alice")
    alice.start()
    is_up(lab, alice)
    a.ask(command="drain", timeout=None)
    a.end_sidecar()
    a.start_sidecar()
    assert a.status()["draining"] is True
    alice.stop()
    eventually(lambda: a.openvpn.ended, 5, "the drained server ends")
    a.openvpn.start()
    eventually(a.decides, 5, "the server was started again")
    assert a.status()["draining"] is False
    carol = lab.client("carol", nodes=["a"])
    carol.start()
    is_up(lab, carol)
