"""Any history of any tunnels: whoever is down long enough is covered by exactly one incident that fires,
and incidents do not jump.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.alerting.flapping import FLAPPING_FAILURES, OutageTracker, track_outages
from supervisor.core.alerting.grouping import GROUP_PREFIX, SEVERITIES, SharedCause, assign, shared_causes
from supervisor.core.alerting.incidents import IncidentState, decide, inherit
from supervisor.core.alerting.verdict import Verdict, verdicts
from supervisor.core.conditions import Condition
from supervisor.core.snapshot import Snapshot, Uplink
from supervisor.core.state import Failure, Health, Phase, TunnelState, Want
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import AlertSettings, Login, Probe, Secret, Tunnel

NAMES = [f"t{n}" for n in range(7)]
TUNNELS = {
    name: configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=(f"10.{n}.0.0/24",),
        probe=Probe(targets=(f"icmp://10.{n}.0.1",)),
        alert=AlertSettings(severity=SEVERITIES[n % 4]),
        login=Login(username="svc", password=Secret(file=f"account{n % 3}")),
    )
    for n, name in enumerate(NAMES)
}
GATEWAYS = {name: "one" if n < 4 else "two" for n, name in enumerate(NAMES[:6])}
CAUSES = shared_causes(TUNNELS, GATEWAYS)
REASONS = [Reason.NETWORK, Reason.AUTH, Reason.CERTIFICATE, Reason.MISSING_BINARY, Reason.START_TIMEOUT]

# One step of a history: seconds that pass, and what becomes of some tunnels (None: well; "stop": stopped;
# else down for that reason).
FATES = st.none() | st.just("stop") | st.sampled_from(REASONS) | st.tuples(st.sampled_from(REASONS))
STEPS = st.tuples(
    st.sampled_from([0.0, 1.0, 30.0, 119.0, 121.0, 180.0, 900.0]),
    st.dictionaries(st.sampled_from(NAMES), FATES),
    st.sampled_from(["", "", "", "uplink", "drain"]),
)


def state_of(before: TunnelState, fate: object, now: float) -> TunnelState:
    if fate == "stop":
        return but(before, want=Want.DOWN, phase=Phase.STOPPED, reason=Reason.STOPPED, well_since=now)
    was_well = before.health is Health.HEALTHY and before.phase is Phase.UP
    if fate is None:
        return but(
            before,
            want=Want.UP,
            phase=Phase.UP,
            health=Health.HEALTHY,
            reason=Reason.HEALTHY,
            well_since=before.well_since if was_well else now,
        )
    reason, phase = (fate[0], Phase.FAILED) if isinstance(fate, tuple) else (fate, Phase.BACKOFF)
    return but(
        before,
        want=Want.UP,
        phase=phase,
        health=Health.UNKNOWN,
        reason=reason,
        failure=Failure(reason, "it is", now),
        well_since=now if was_well or before.want is Want.DOWN else before.well_since,
    )


@given(st.lists(STEPS, max_size=25), st.frozensets(st.sampled_from([*NAMES, "group:gateway:one", "uplink"])))
def test_every_down_tunnel_is_covered_by_exactly_one_incident(steps: list, inherited: frozenset[str]) -> None:
    now, incidents = 1000.0, inherit(inherited, 1000.0)
    states = {name: tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=now) for name in NAMES}
    for seconds, fates, surroundings in steps:
        now += seconds
        states |= {name: state_of(states[name], fate, now) for name, fate in fates.items()}
        snapshot = Snapshot(
            {n: (TUNNELS[n], states[n]) for n in NAMES},
            now,
            surroundings == "drain",
            Uplink(surroundings != "uplink"),
        )
        before = incidents
        incidents, alerts, due = decide("vpn1", before, snapshot, {}, CAUSES)
        own, _ = verdicts("vpn1", snapshot, incidents.outages)
        assert due is None or due > now
        firing = {name for name, alert in alerts.items() if alert.verdict is Verdict.FIRING}
        for name in NAMES:
            covering = [n for n in firing if n == name or name in alerts[n].members]
            assert len(covering) <= 1
            if own[name].verdict is Verdict.FIRING:
                assert covering == [incidents.covered_by[name]]
            if own[name].verdict is Verdict.CLEAR:
                assert name not in incidents.covered_by
            elif name in before.covered_by:
                assert (
                    incidents.covered_by[name] == before.covered_by[name]
                )  # nobody is called twice for one trouble
        for name in firing:
            members = alerts[name].members
            if name.startswith(GROUP_PREFIX):
                assert all(any(cause.incident == name for cause in CAUSES[member]) for member in members)
                assert alerts[name].severity == min(
                    (TUNNELS[m].alert.severity for m in members), key=SEVERITIES.index
                )
                assert all(alerts[member].verdict is Verdict.CLEAR for member in members)
        if surroundings == "drain":
            assert {
                n for n in incidents.covered_by.values() if n not in before.covered_by.values()
            } <= inherited


@given(
    st.integers(2, 7),
    st.lists(st.sampled_from(REASONS[:2]), min_size=7, max_size=7),
    st.lists(st.floats(0, 300), min_size=7, max_size=7),
)
def test_a_group_needs_three_or_all_that_fell_together_for_a_like_reason(
    count: int, reasons: list[Reason], falls: list[float]
) -> None:
    tunnels = {name: replace(TUNNELS[name], **{"login": Login()}) for name in NAMES[:count]}
    causes = shared_causes(tunnels, dict.fromkeys(tunnels, "gw"))
    down = {
        name: tunnel_state(phase=Phase.BACKOFF, well_since=at, failure=Failure(reason, "", at))
        for name, reason, at in zip(tunnels, reasons, falls, strict=False)
    }
    snapshot = Snapshot({name: (tunnels[name], state) for name, state in down.items()}, 2000.0)
    own, _ = verdicts("vpn1", snapshot)
    covered_by = assign({}, own, snapshot, causes)
    assert covered_by.keys() == own.keys()
    classes = dict(zip(tunnels, reasons, strict=False))

    def peers(name: str) -> int:
        return sum(
            classes[n] is classes[name] and abs(down[n].well_since - down[name].well_since) <= 120.0
            for n in tunnels
        )

    for name, incident in covered_by.items():
        if incident != name:
            assert classes[name] is not None
            assert max(peers(n) for n in tunnels if covered_by[n] == incident) >= min(3, count)
    if all(peers(name) < min(3, count) for name in tunnels):
        assert all(covered_by[name] == name for name in tunnels)
    if all(peers(name) == count for name in tunnels):
        assert set(covered_by.values()) == {"group:gateway:gw"}


@given(st.lists(st.tuples(st.floats(0.5, 300), st.floats(0.5, 300)), min_size=1, max_size=20))
def test_an_outage_adds_up_until_it_is_well_for_long_enough(cycles: list[tuple[float, float]]) -> None:
    tunnel, now, outages = TUNNELS["t0"], 1000.0, {}
    began, lasted, failures = 0.0, 0.0, 0
    for down, up in cycles:
        began, lasted, failures = (now, 0.0, 1) if not failures else (began, lasted, failures + 1)
        state = tunnel_state(phase=Phase.BACKOFF, well_since=now, reason=Reason.NETWORK)
        for moment in (now, now + down / 2):
            outages = track_outages(outages, Snapshot({"t0": (tunnel, state)}, moment))
        found = outages["t0"]
        assert (found.since, found.failures, round(found.earlier_down_seconds, 3)) == (
            began,
            failures,
            round(lasted, 3),
        )
        alerts, _ = verdicts("vpn1", Snapshot({"t0": (tunnel, state)}, now + down), outages)
        pages = lasted + down >= 180.0 or (failures >= FLAPPING_FAILURES and now + down - began >= 180.0)
        assert (alerts["t0"].verdict is Verdict.FIRING) == pages or abs(lasted + down - 180.0) < 1e-6
        lasted, now = lasted + down, now + down
        state = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=now)
        for moment in (now, now + up):
            outages = track_outages(outages, Snapshot({"t0": (tunnel, state)}, moment))
        now += up
        if up >= 120.0:
            failures = 0
        assert ("t0" in outages) == bool(failures)


def test_a_dead_uplink_ends_an_outage_and_it_begins_anew() -> None:
    state = tunnel_state(phase=Phase.BACKOFF, well_since=100.0, reason=Reason.NETWORK)
    snapshot = Snapshot({"t0": (TUNNELS["t0"], state)}, 150.0)
    outages = track_outages({}, snapshot)
    assert outages == {"t0": OutageTracker(100.0, 100.0)}
    outages = track_outages(outages, replace(snapshot, uplink=Uplink(False, 160.0), now=160.0))
    assert outages == {}
    assert track_outages(outages, replace(snapshot, uplink=Uplink(True, 200.0), now=200.0)) == {
        "t0": OutageTracker(200.0, 200.0)
    }


def test_causes_are_what_is_shared() -> None:
    assert CAUSES["t0"] == (SharedCause("account", "svc:account0"), SharedCause("gateway", "one"))
    assert CAUSES["t6"] == (SharedCause("account", "svc:account0"),)
    alone = {"t0": TUNNELS["t0"], "t1": TUNNELS["t1"]}
    assert shared_causes(alone, {"t0": "one", "t1": "two"}) == {}
    assert SharedCause("gateway", "gw", "team1").incident == "group:gateway:gw:team1"


def test_a_condition_keeps_its_beginning_and_fades() -> None:
    snapshot = Snapshot({}, 100.0)
    fight = {"kernel:fight": Condition("somebody else changes it")}
    incidents, alerts, due = decide("vpn1", IncidentState(), snapshot, fight, {})
    assert (alerts["kernel:fight"].since, due) == (100.0, None)
    incidents, alerts, due = decide("vpn1", incidents, replace(snapshot, now=200.0), {}, {})
    assert (alerts["kernel:fight"].verdict, due) == (Verdict.HOLD, 260.0)
    incidents, alerts, due = decide("vpn1", incidents, replace(snapshot, now=230.0), fight, {})
    assert (alerts["kernel:fight"].verdict, alerts["kernel:fight"].since, due) == (
        Verdict.FIRING,
        100.0,
        None,
    )
    incidents, alerts, due = decide("vpn1", incidents, replace(snapshot, now=300.0), {}, {})
    incidents, alerts, due = decide("vpn1", incidents, replace(snapshot, now=360.0), {}, {})
    assert (alerts, due, incidents.conditions) == ({}, None, {})


@pytest.mark.parametrize(
    ("then", "failures"), [(Reason.RESTARTED, 0), (Reason.CONNECTED, 0), (Reason.AUTH, 10)]
)
def test_what_an_operator_restarts_again_and_again_does_not_flap(then: Reason, failures: int) -> None:
    """Unless a restart fails on its own."""
    tunnel, outages = TUNNELS["t0"], {}
    for turn in range(10):
        now = 1000.0 + 60.0 * turn
        for reason, moment in ((Reason.RESTARTED, now), (then, now + 1.0)):
            down = tunnel_state(phase=Phase.STARTING, well_since=now, reason=reason)
            outages = track_outages(outages, Snapshot({"t0": (tunnel, down)}, moment))
        up = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=now + 5.0)
        outages = track_outages(outages, Snapshot({"t0": (tunnel, up)}, now + 5.0))
    assert outages["t0"].failures == failures
    assert outages["t0"].flapping is (failures > 0)
