"""Any history of any tunnels: whoever is down long enough is covered by exactly one incident that fires,
and incidents do not jump.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.alerting.flapping import FLAPS, OutageTracker, follow
from supervisor.core.alerting.grouping import PREFIX, SEVERITIES, SharedCause, cover, ties
from supervisor.core.alerting.incidents import IncidentState, called, resumed
from supervisor.core.alerting.verdict import Verdict, verdicts
from supervisor.core.conditions import Condition
from supervisor.core.state import Failure, Health, Phase, Snapshot, TunnelState, Uplink, Want
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import AlertSettings, Login, Probe, Secret, Tunnel

NAMES = [f"t{n}" for n in range(7)]
TUNNELS = {
    name: Tunnel(
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
TIES = ties(TUNNELS, GATEWAYS)
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
def test_every_down_tunnel_is_covered_by_exactly_one_incident(steps: list, left: frozenset[str]) -> None:
    now, calls = 1000.0, resumed(left, 1000.0)
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
        before = calls
        calls, alerts, due = called("vpn1", before, snapshot, {}, TIES)
        own, _ = verdicts("vpn1", snapshot, calls.troubles)
        assert due is None or due > now
        firing = {name for name, alert in alerts.items() if alert.verdict is Verdict.FIRING}
        for name in NAMES:
            covering = [n for n in firing if n == name or name in alerts[n].members]
            assert len(covering) <= 1
            if own[name].verdict is Verdict.FIRING:
                assert covering == [calls.under[name]]
            if own[name].verdict is Verdict.CLEAR:
                assert name not in calls.under
            elif name in before.under:
                assert calls.under[name] == before.under[name]  # nobody is called twice for one trouble
        for name in firing:
            members = alerts[name].members
            if name.startswith(PREFIX):
                assert all(any(tie.incident == name for tie in TIES[member]) for member in members)
                assert alerts[name].severity == min(
                    (TUNNELS[m].alert.severity for m in members), key=SEVERITIES.index
                )
                assert all(alerts[member].verdict is Verdict.CLEAR for member in members)
        if surroundings == "drain":
            assert {n for n in calls.under.values() if n not in before.under.values()} <= left


@given(
    st.integers(2, 7),
    st.lists(st.sampled_from(REASONS[:2]), min_size=7, max_size=7),
    st.lists(st.floats(0, 300), min_size=7, max_size=7),
)
def test_a_group_needs_three_or_all_that_fell_together_for_a_like_reason(
    count: int, reasons: list[Reason], falls: list[float]
) -> None:
    tunnels = {name: TUNNELS[name].model_copy(update={"login": Login()}) for name in NAMES[:count]}
    tied = ties(tunnels, dict.fromkeys(tunnels, "gw"))
    down = {
        name: tunnel_state(phase=Phase.BACKOFF, well_since=at, failure=Failure(reason, "", at))
        for name, reason, at in zip(tunnels, reasons, falls, strict=False)
    }
    snapshot = Snapshot({name: (tunnels[name], state) for name, state in down.items()}, 2000.0)
    own, _ = verdicts("vpn1", snapshot)
    under = cover({}, own, snapshot, tied)
    assert under.keys() == own.keys()
    classes = dict(zip(tunnels, reasons, strict=False))

    def peers(name: str) -> int:
        return sum(
            classes[n] is classes[name] and abs(down[n].well_since - down[name].well_since) <= 120.0
            for n in tunnels
        )

    for name, incident in under.items():
        if incident != name:
            assert classes[name] is not None
            assert max(peers(n) for n in tunnels if under[n] == incident) >= min(3, count)
    if all(peers(name) < min(3, count) for name in tunnels):
        assert all(under[name] == name for name in tunnels)
    if all(peers(name) == count for name in tunnels):
        assert set(under.values()) == {"group:gateway:gw"}


@given(st.lists(st.tuples(st.floats(0.5, 300), st.floats(0.5, 300)), min_size=1, max_size=20))
def test_trouble_adds_up_until_it_is_well_for_long_enough(cycles: list[tuple[float, float]]) -> None:
    tunnel, now, troubles = TUNNELS["t0"], 1000.0, {}
    began, lasted, drops = 0.0, 0.0, 0
    for down, up in cycles:
        began, lasted, drops = (now, 0.0, 1) if not drops else (began, lasted, drops + 1)
        state = tunnel_state(phase=Phase.BACKOFF, well_since=now)
        for moment in (now, now + down / 2):
            troubles = follow(troubles, Snapshot({"t0": (tunnel, state)}, moment))
        found = troubles["t0"]
        assert (found.since, found.drops, round(found.before, 3)) == (began, drops, round(lasted, 3))
        alerts, _ = verdicts("vpn1", Snapshot({"t0": (tunnel, state)}, now + down), troubles)
        called_for = lasted + down >= 180.0 or (drops >= FLAPS and now + down - began >= 180.0)
        assert (alerts["t0"].verdict is Verdict.FIRING) == called_for or abs(lasted + down - 180.0) < 1e-6
        lasted, now = lasted + down, now + down
        state = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=now)
        for moment in (now, now + up):
            troubles = follow(troubles, Snapshot({"t0": (tunnel, state)}, moment))
        now += up
        if up >= 120.0:
            drops = 0
        assert ("t0" in troubles) == bool(drops)


def test_a_dead_uplink_ends_a_trouble_and_it_begins_anew() -> None:
    state = tunnel_state(phase=Phase.BACKOFF, well_since=100.0)
    snapshot = Snapshot({"t0": (TUNNELS["t0"], state)}, 150.0)
    troubles = follow({}, snapshot)
    assert troubles == {"t0": OutageTracker(100.0, 100.0)}
    troubles = follow(troubles, replace(snapshot, uplink=Uplink(False, 160.0), now=160.0))
    assert troubles == {}
    assert follow(troubles, replace(snapshot, uplink=Uplink(True, 200.0), now=200.0)) == {
        "t0": OutageTracker(200.0, 200.0)
    }


def test_ties_are_what_is_shared() -> None:
    assert TIES["t0"] == (SharedCause("account", "svc:account0"), SharedCause("gateway", "one"))
    assert TIES["t6"] == (SharedCause("account", "svc:account0"),)
    alone = {"t0": TUNNELS["t0"], "t1": TUNNELS["t1"]}
    assert ties(alone, {"t0": "one", "t1": "two"}) == {}
    assert SharedCause("gateway", "gw", "team1").incident == "group:gateway:gw:team1"


def test_a_condition_keeps_its_beginning_and_fades() -> None:
    snapshot = Snapshot({}, 100.0)
    fight = {"kernel:fight": Condition("somebody else changes it")}
    calls, alerts, due = called("vpn1", IncidentState(), snapshot, fight, {})
    assert (alerts["kernel:fight"].since, due) == (100.0, None)
    calls, alerts, due = called("vpn1", calls, replace(snapshot, now=200.0), {}, {})
    assert (alerts["kernel:fight"].verdict, due) == (Verdict.HOLD, 260.0)
    calls, alerts, due = called("vpn1", calls, replace(snapshot, now=230.0), fight, {})
    assert (alerts["kernel:fight"].verdict, alerts["kernel:fight"].since, due) == (
        Verdict.FIRING,
        100.0,
        None,
    )
    calls, alerts, due = called("vpn1", calls, replace(snapshot, now=300.0), {}, {})
    calls, alerts, due = called("vpn1", calls, replace(snapshot, now=360.0), {}, {})
    assert (alerts, due, calls.conditions) == ({}, None, {})
