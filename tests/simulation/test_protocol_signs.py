"""A filter behind the tunnel swallows the probes and the answers of the first hop, in virtual time: the
protocol's own sign of life keeps the session, and its absence does not.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core import events as ev
from supervisor.core.state import Health, Phase, Reach, TunnelState
from tests.fakes import KIND, Habits, World
from tests.settings import configured
from tunnels.base import Reason, Say, SignOfLife
from tunnels.settings import Probe, Tunnel

PING_SECONDS = 10.0
FILTERED, OPEN = 1000.0, 1480.0  # eight minutes
ASKED = replace(KIND, ask_sign_of_life=(Say("alive?"),))
ENDS = replace(KIND, ends_within=lambda tunnel: 12.0)


class Gateway:
    """Pings every PING_SECONDS while it lives. Its client says so when it is asked."""

    def __init__(self, dies: float = float("inf"), answers: bool = False) -> None:
        self.dies, self.answers, self._known = dies, answers, 0

    def sign(self, now: float) -> SignOfLife:
        """What the client says: the pings are counted, and a reading is compared with the one before."""
        before, self._known = self._known, int(min(now, self.dies) / PING_SECONDS)
        return SignOfLife(self._known > before, PING_SECONDS, self.answers)


def world(kind: object, gateway: Gateway | None = None, **probe: object) -> World:
    tunnel = configured(
        Tunnel,
        name="acme",
        kind="test",
        destinations=("10.77.0.0/24", "10.77.9.0/24"),
        probe=configured(Probe, targets=("icmp://10.77.0.1",), **probe),
    )
    habits = Habits(path_alive=lambda now: not FILTERED <= now < OPEN)
    if gateway is not None:
        habits.sign = gateway.sign
    simulated = World({"acme": tunnel}, habits, kind=kind)
    simulated.run(until=FILTERED)
    simulated.post(ev.EndpointSeen("acme", reach=Reach.ANSWERS))
    return simulated


def state(simulated: World) -> TunnelState:
    return simulated.engine.snapshot.tunnels["acme"][1]


@pytest.mark.parametrize(
    ("kind", "gateway", "most"),
    [
        pytest.param(ASKED, Gateway(answers=True), 0, id="the protocol answers"),
        pytest.param(ASKED, Gateway(), 1, id="the gateway pings"),
        pytest.param(ENDS, None, 1, id="the client would have ended"),
    ],
)
@pytest.mark.parametrize(
    "probe", [{}, {"interval": "1s", "timeout": "500ms"}, {"interval": "30s", "timeout": "5s"}]
)
def test_a_filter_of_eight_minutes_costs_at_most_one_login_and_blames_the_destination(
    kind: object, gateway: Gateway | None, most: int, probe: dict[str, str]
) -> None:
    simulated = world(kind, gateway, **probe)
    simulated.run(until=FILTERED + 90.0)
    assert (state(simulated).phase, state(simulated).health) == (Phase.UP, Health.UNHEALTHY)
    assert state(simulated).reason is Reason.DESTINATION
    assert simulated.engine.plan.carries, "other hosts behind the tunnel can be reached"
    simulated.run(until=OPEN)
    assert state(simulated).reason in (Reason.DESTINATION, Reason.CONNECTED)
    assert len(simulated.runner.spawned) - 1 <= most
    assert simulated.alerter.opened == ["acme"]
    assert "destination" in simulated.alerter.alerts["acme"].details["dead_leg"]
    simulated.run(until=OPEN + 300.0)
    assert state(simulated).health is Health.HEALTHY
    assert (simulated.alerter.open, simulated.alerter.resolved) == (set(), ["acme"])


def test_a_client_is_asked_only_while_probes_go_unanswered() -> None:
    simulated = world(ASKED, Gateway())
    assert simulated.runner.asked == []
    simulated.run(until=OPEN + 300.0)
    assert all(FILTERED <= at <= OPEN + 10.0 for at, _, _ in simulated.runner.asked)


def test_a_gateway_that_dies_behind_the_filter_costs_a_login_within_a_minute() -> None:
    simulated = world(ASKED, Gateway(dies=FILTERED + 100.0))
    simulated.run(until=FILTERED + 100.0)
    assert len(simulated.runner.spawned) == 1
    simulated.run(until=FILTERED + 140.0)
    assert len(simulated.runner.spawned) == 2


def test_a_dead_session_waits_no_longer_than_the_protocol_needs() -> None:
    simulated = world(ASKED, Gateway(dies=FILTERED - 100.0))
    simulated.run(until=FILTERED + 20.0)
    assert len(simulated.runner.spawned) == 2


def test_what_came_before_the_probes_were_missed_is_no_sign_of_life() -> None:
    gateway = Gateway(dies=FILTERED - 1.0)
    simulated = world(ASKED, gateway)
    simulated.run(until=FILTERED + 20.0)
    assert state(simulated).reason is not Reason.DESTINATION
    assert len(simulated.runner.spawned) == 2


def test_where_the_protocol_promises_nothing_a_silent_session_is_replaced_as_before() -> None:
    simulated = world(ASKED)
    simulated.habits.sign = lambda now: SignOfLife(False, 0.0)
    simulated.run(until=FILTERED + 13.0)
    assert len(simulated.runner.spawned) == 2
