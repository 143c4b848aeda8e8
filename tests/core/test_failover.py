"""Which tunnel carries: by priority, without following one that flaps."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from supervisor.core.network.failover import choose
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Health, Phase, TunnelState
from tests.settings import configured
from tests.states import tunnel_state
from tunnels.settings import Probe, Reconnect, Tunnel

NETWORK = ip_network("10.77.0.0/24")
PROBED = Probe(targets=("icmp://10.77.0.1",))


def tunnel(name: str, priority: int) -> Tunnel:
    return configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=("10.77.0.0/24",),
        priority=priority,
        probe=PROBED,
        reconnect=configured(Reconnect, stable_after="1m"),
    )


def state(word: str, since: float = 0.0) -> TunnelState:
    phase = Phase.UP if word in ("well", "sick", "unproven") else Phase.BACKOFF
    health = {"well": Health.HEALTHY, "sick": Health.UNHEALTHY}.get(word, Health.UNKNOWN)
    return tunnel_state(phase=phase, health=health, well_since=since)


def carrier(
    before: str | None, main: TunnelState, spare: TunnelState, now: float = 1000.0
) -> tuple[str, float | None]:
    snapshot = Snapshot({"spare": (tunnel("spare", 200), spare), "main": (tunnel("main", 100), main)}, now)
    carriers, due = choose({} if before is None else {NETWORK: before}, snapshot)
    return carriers[NETWORK], due


@pytest.mark.parametrize(
    ("before", "main", "spare", "now_carries"),
    [
        (None, "well", "well", "main"),
        (None, "down", "well", "spare"),
        (None, "down", "down", "main"),
        (None, "unproven", "well", "spare"),
        ("main", "well", "well", "main"),
        ("main", "sick", "well", "spare"),
        ("main", "down", "well", "spare"),
        ("main", "sick", "sick", "main"),
        ("spare", "down", "down", "spare"),
        ("spare", "sick", "down", "spare"),
        ("gone", "down", "well", "spare"),
    ],
)
def test_who_carries(before: str | None, main: str, spare: str, now_carries: str) -> None:
    assert carrier(before, state(main), state(spare))[0] == now_carries


def test_a_tunnel_that_came_back_must_prove_itself_first() -> None:
    assert carrier("spare", state("well", since=990.0), state("well"), now=1000.0) == ("spare", 1050.0)
    assert carrier("spare", state("well", since=990.0), state("well"), now=1050.0) == ("main", None)


def test_no_waiting_where_the_carrier_is_sick() -> None:
    assert carrier("spare", state("well", since=999.0), state("sick"), now=1000.0)[0] == "main"
