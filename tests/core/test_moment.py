"""Each circumstance of a step has its effect, through the entry that the engine calls."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from supervisor.core import events as ev
from supervisor.core.lock_view import LockView
from supervisor.core.session.context import StepContext
from supervisor.core.session.step import step
from supervisor.core.state import Health, Known, Phase, Session, TunnelState
from tests.core.moments import moment
from tests.fakes import KIND
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Connected, Reason, Say
from tunnels.settings import Planned, Probe, Reconnect, Tunnel

TUNNEL = configured(
    Tunnel,
    name="acme",
    kind="test",
    destinations=("10.77.0.0/24",),
    probe=Probe(targets=("icmp://10.77.0.1",)),
)
UNPROBED = replace(TUNNEL, **{"probe": Probe()})
AT_NIGHT = replace(
    TUNNEL,
    **{"reconnect": configured(Reconnect, planned=configured(Planned, every="1d", window="02:00-03:00"))},
)
NOW = 1000.0
IDLE = TunnelState()
STARTING = tunnel_state(phase=Phase.STARTING, session=Session(1), deadline=NOW + 60)
UP = tunnel_state(
    phase=Phase.UP, health=Health.HEALTHY, session=Session(1, connected=0.0), healthy_since=0.0, known=Known()
)
DYING = but(UP, misses=2, rounds_without_traffic=2)
START, MISS, GONE = ev.Asked("acme", reason=Reason.STARTED), ev.Probed("acme", 1), ev.Exited("acme", 1, 1)
CONNECTED = ev.ClientSaid("acme", 1, Connected())
ENDS = replace(KIND, ends_within=lambda tunnel: 12.0)

# For each circumstance: a state, an event, and two values that lead to something different.
EFFECTS: dict[str, tuple[TunnelState, ev.Event, Any, Any, dict[str, Any]]] = {
    "tunnel": (UP, CONNECTED, TUNNEL, AT_NIGHT, {}),
    "kind": (DYING, MISS, KIND, replace(KIND, renew=(Say("renew"),)), {}),
    "now": (IDLE, START, NOW, NOW + 1.0, {}),
    "jitter": (but(STARTING, attempts=5), GONE, 0.1, 0.9, {}),
    "turn": (IDLE, START, 0.0, NOW + 5.0, {}),
    "retry_turn": (
        but(IDLE, phase=Phase.BACKOFF, reason=Reason.NETWORK),
        ev.Tick("acme", 0),
        0.0,
        NOW + 5.0,
        {},
    ),
    "uplink": (DYING, MISS, True, False, {}),
    "doubted": (DYING, MISS, False, True, {}),
    "lock": (IDLE, START, None, LockView("svc"), {}),
    "heard": (but(DYING, missed_since=NOW - 100.0), MISS, True, False, {"kind": ENDS}),
    "utc_offset": (STARTING, CONNECTED, 0.0, 6 * 3600.0, {"tunnel": AT_NIGHT}),
    "notice": (UP, ev.Asked("acme", reason=Reason.STOPPED), 0.0, 1.0, {}),
}


def test_no_circumstance_is_left_out() -> None:
    assert set(EFFECTS) == {field.name for field in fields(StepContext)}


@pytest.mark.parametrize("circumstance", EFFECTS)
def test_each_circumstance_changes_what_comes_of_some_step(circumstance: str) -> None:
    state, event, one, other, rest = EFFECTS[circumstance]
    usual = moment(TUNNEL, NOW)
    outcomes = [step(replace(usual, **rest, **{circumstance: value}), state, event) for value in (one, other)]
    assert outcomes[0] != outcomes[1]


def test_while_the_uplink_is_doubted_thirty_seconds_without_an_answer_cost_no_session() -> None:
    assert rounds_until(NOW + 30, doubted=True) == (Phase.UP, 1)
    assert rounds_until(NOW + 30, doubted=False)[0] is not Phase.UP


def rounds_until(end: float, doubted: bool) -> tuple[Phase, int]:
    """The phase and the session after a round of dead probes a second."""
    state, now = UP, NOW
    while now < end:
        now += 1.0
        state = step(moment(TUNNEL, now, doubted=doubted), state, MISS).tunnel
    return state.phase, state.session.number
