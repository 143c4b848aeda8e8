"""Named conditions: who sees which one when, and what explains what."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.conditions import DOWN, UPLINK, Condition, of_tunnels, visible
from supervisor.core.snapshot import Snapshot, Uplink
from supervisor.core.state import Failure, Health, Phase, Session, TunnelState, Want
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

NOW = 1000.0
WELL = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, reason=Reason.HEALTHY, well_since=0.0)
GONE = tunnel_state(
    phase=Phase.BACKOFF,
    reason=Reason.NETWORK,
    well_since=NOW - 180.0,
    failure=Failure(Reason.NETWORK, "no", NOW - 180.0),
)
LATE = but(GONE, well_since=NOW - 179.0)
OFF = tunnel_state(want=Want.DOWN, reason=Reason.STOPPED)
BAD = but(WELL, degraded="6 of the last 24 probe rounds unanswered")
DEAD = Condition("the uplink is dead")


def snapshot(*states: TunnelState, uplink: Uplink = Uplink()) -> Snapshot:
    probes = [Probe(targets=(f"icmp://10.{n}.0.1",)) for n in range(len(states))]
    tunnels = {
        f"t{n}": configured(Tunnel, name=f"t{n}", kind="test", destinations=(f"10.{n}.0.0/24",), probe=each)
        for n, each in enumerate(probes)
    }
    return Snapshot(
        {name: (tunnel, state) for (name, tunnel), state in zip(tunnels.items(), states, strict=True)},
        NOW,
        uplink=uplink,
    )


def test_tunnels_that_had_their_time_are_one_condition_with_the_part_that_is_dead() -> None:
    found = of_tunnels(
        snapshot(WELL, GONE, LATE, OFF, but(GONE, failure=Failure(Reason.LOCAL, "busy", NOW - 180.0)))
    )
    assert list(found) == [DOWN]
    assert found[DOWN].text == "2 of 4 tunnels do not work: t1 (endpoint), t4"
    assert not found[DOWN].pages
    assert of_tunnels(snapshot(WELL, GONE))[DOWN].text == "1 of 2 tunnels does not work: t1 (endpoint)"
    assert of_tunnels(snapshot(*[GONE] * 10))[DOWN].text.endswith("t7 (endpoint) and 2 more")
    assert of_tunnels(snapshot(WELL, LATE)) == {}


def test_after_the_uplink_each_tunnel_has_its_time_again() -> None:
    assert of_tunnels(snapshot(GONE, uplink=Uplink(since=NOW - 179.0))) == {}
    assert DOWN in of_tunnels(snapshot(GONE, uplink=Uplink(since=NOW - 180.0)))


def test_a_tunnel_that_works_badly_is_a_warning_of_its_own_after_its_time() -> None:
    found = of_tunnels(snapshot(WELL, BAD, but(BAD, health=Health.UNHEALTHY, well_since=NOW)))
    assert list(found) == ["degraded:t1"]
    condition = found["degraded:t1"]
    assert (condition.severity, condition.after, condition.tunnel, condition.pages) == (
        "warning",
        180.0,
        "t1",
        True,
    )
    assert visible({}, found, NOW).shown == {}
    sight = visible({}, found, NOW)
    assert sight.due == NOW + 180.0
    assert visible(sight.since, found, NOW + 179.9).shown == {}
    assert list(visible(sight.since, found, NOW + 180.0).shown) == ["degraded:t1"]


def test_what_the_uplink_explains_is_not_seen_and_begins_anew_afterwards() -> None:
    found = of_tunnels(snapshot(*[GONE] * 20, BAD))
    assert list(visible({}, found, NOW).shown) == [DOWN]
    during = visible(visible({}, found, NOW - 500.0).since, {UPLINK: DEAD, **found}, NOW)
    assert list(during.shown) == [UPLINK]
    after = visible(during.since, found, NOW + 1.0)
    assert list(after.shown) == [DOWN]
    assert after.due == NOW + 181.0


names = st.sampled_from("abcd")
conditions = st.builds(
    Condition,
    st.just("x"),
    after=st.sampled_from([0.0, 5.0, 60.0]),
    explained_by=st.sampled_from(["", *"abcd"]),
)
worlds = st.dictionaries(names, conditions)


@given(st.lists(st.tuples(worlds, st.floats(0.1, 30.0)), max_size=20))
def test_whatever_comes_and_goes(story: list[tuple[dict[str, Condition], float]]) -> None:
    since, now = {}, 0.0
    for found, passed in story:
        now += passed
        sight = visible(since, found, now)
        assert sight.shown.keys() <= sight.since.keys() <= found.keys()
        assert all(
            found[name].explained_by not in found and now - sight.since[name] >= found[name].after
            for name in sight.shown
        )
        assert sight.due is None or sight.due > now
        if sight.due is not None:
            assert len(visible(sight.since, found, sight.due).shown) > len(sight.shown)
        since = dict(sight.since)


def test_a_gateway_that_does_not_carry_all_destinations() -> None:
    narrow = but(WELL, session=Session(1, agreed=(ip_network("10.0.0.0/25"),)))
    found = of_tunnels(snapshot(narrow))
    assert list(found) == ["not-carried:t0"]
    assert found["not-carried:t0"].text == (
        "tunnel t0: the remote gateway agreed to carry only 10.0.0.0/25, which is not all of 10.0.0.0/24 in "
        "destinations; have it changed there, or change destinations"
    )
    assert found["not-carried:t0"].pages
    halves = (ip_network("10.0.0.0/25"), ip_network("10.0.0.128/25"))
    assert of_tunnels(snapshot(but(WELL, session=Session(1, agreed=halves)))) == {}
    assert of_tunnels(snapshot(but(GONE, session=Session(1, agreed=halves[:1]), well_since=NOW))) == {}
