"""Who is called: the thresholds of both edges, and what never calls or resolves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.alerting.verdict import Verdict, verdicts
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Failure, Health, Phase, Session, TunnelState, Want, well
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import AlertSettings, Probe, Tunnel

ALERT = configured(AlertSettings, after="3m", clear_after="2m", severity="error")
TUNNEL = configured(
    Tunnel,
    name="acme",
    kind="test",
    description="Frankfurt",
    destinations=("10.77.0.0/24", "10.78.0.0/24"),
    probe=Probe(targets=("icmp://10.77.0.1",)),
    alert=ALERT,
)
DOWN = tunnel_state(
    phase=Phase.BACKOFF,
    reason=Reason.NETWORK,
    well_since=1000.0,
    failure=Failure(Reason.NETWORK, "no route", 1000.0),
)
WELL = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=1000.0)


def judge(state: TunnelState, now: float, *, draining: bool = False, tunnel: Tunnel = TUNNEL):
    alerts, due = verdicts("vpn1", Snapshot({tunnel.name: (tunnel, state)}, now, draining))
    return alerts[tunnel.name], due


@pytest.mark.parametrize(
    ("state", "after", "verdict", "due"),
    [
        (DOWN, 0.0, Verdict.HOLD, 1180.0),
        (DOWN, 179.9, Verdict.HOLD, 1180.0),
        (DOWN, 180.0, Verdict.FIRING, None),
        (WELL, 0.0, Verdict.HOLD, 1120.0),
        (WELL, 119.9, Verdict.HOLD, 1120.0),
        (WELL, 120.0, Verdict.CLEAR, None),
    ],
)
def test_both_edges_are_held_down(state, after, verdict, due) -> None:
    alert, moment = judge(state, 1000.0 + after)
    assert (alert.verdict, moment) == (verdict, due)


def test_a_tunnel_that_waits_for_a_human_calls_one_at_once() -> None:
    alert, due = judge(but(DOWN, phase=Phase.FAILED), 1000.0)
    assert (alert.verdict, due) == (Verdict.FIRING, None)
    assert "needs attention" in alert.summary


def test_a_tunnel_that_never_pages() -> None:
    tunnel = replace(TUNNEL, alert=replace(ALERT, enabled=False))
    for state in (DOWN, but(DOWN, phase=Phase.FAILED), WELL):
        alert, due = judge(state, 9999.0, tunnel=tunnel)
        assert (alert.verdict, due) == (Verdict.CLEAR, None)


def test_what_an_operator_stopped_calls_nobody() -> None:
    alert, due = judge(but(DOWN, want=Want.DOWN, phase=Phase.STOPPED), 9999.0)
    assert (alert.verdict, due) == (Verdict.CLEAR, None)


def test_connected_but_nothing_answers_is_not_well() -> None:
    alert, _ = judge(but(WELL, health=Health.UNKNOWN), 1180.0)
    assert alert.verdict is Verdict.FIRING


def test_without_probes_being_connected_is_being_well() -> None:
    blind = replace(TUNNEL, **{"probe": Probe()})
    alert, _ = judge(but(WELL, health=Health.UNKNOWN), 1120.0, tunnel=blind)
    assert alert.verdict is Verdict.CLEAR


@pytest.mark.parametrize(
    "state",
    [
        but(DOWN, want=Want.DOWN, phase=Phase.STOPPING, reason=Reason.SHUTDOWN),
        but(DOWN, want=Want.DOWN, phase=Phase.STOPPED, reason=Reason.SHUTDOWN),
        but(DOWN, phase=Phase.FAILED),
        DOWN,
    ],
    ids=["stopping", "stopped", "failed", "down"],
)
def test_the_end_of_the_daemon_neither_calls_nor_resolves(state) -> None:
    alert, due = judge(state, 99999.0, draining=True)
    assert (alert.verdict, due) == (Verdict.HOLD, None)


def test_health_still_resolves_while_draining() -> None:
    alert, _ = judge(WELL, 1120.0, draining=True)
    assert alert.verdict is Verdict.CLEAR


def test_what_a_tired_engineer_is_told() -> None:
    state = but(DOWN, session=Session(7), deadline=1190.0)
    alert, _ = judge(state, 1180.0)
    assert alert.summary == "vpn1: tunnel acme (Frankfurt) is down: network: no route"
    assert (alert.severity, alert.since, alert.reason) == ("error", 1000.0, "network")
    assert alert.details["destinations"] == "10.77.0.0/24, 10.78.0.0/24"
    assert alert.details["down_for_seconds"] == "180"
    assert alert.details["next_attempt_in_seconds"] == "10"
    assert alert.details["last_error"] == "network: no route"


STATES = st.builds(
    tunnel_state,
    want=st.sampled_from(Want),
    phase=st.sampled_from(Phase),
    health=st.sampled_from(Health),
    well_since=st.floats(0, 2000),
    failure=st.none() | st.just(DOWN.failure),
    deadline=st.none() | st.floats(0, 2000),
)


@given(STATES, st.floats(0, 4000), st.booleans())
def test_verdicts_agree_with_the_state(state, now, draining) -> None:
    alert, due = judge(state, now, draining=draining)
    if alert.verdict is Verdict.FIRING:
        assert state.want is Want.UP
        assert not draining
        assert not (well(TUNNEL, state) and state.phase is not Phase.FAILED)
    if alert.verdict is Verdict.CLEAR:
        assert well(TUNNEL, state) or state.want is Want.DOWN
    assert due is None or (due > now and alert.verdict is Verdict.HOLD)
    if due is not None:  # at that moment, without any event, it is not HOLD any more
        assert judge(state, due, draining=draining)[0].verdict is not Verdict.HOLD
