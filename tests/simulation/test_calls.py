"""Who is called in virtual time: what flaps is one incident, what has one cause is one incident, and what
was planned is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from supervisor.core import events as ev
from supervisor.core.state import Phase
from tests.fakes import KIND, Habits, World
from tests.settings import configured
from tunnels.base import Failed, Reason
from tunnels.settings import AlertSettings, Login, Probe, Secret, Tunnel

pytestmark = pytest.mark.slow


def tunnel(name: str, **settings: object) -> Tunnel:
    number = int(name.removeprefix("t") or 0)
    probe = Probe(targets=(f"icmp://10.{number}.0.1",))
    return configured(
        Tunnel, name=name, kind="test", destinations=(f"10.{number}.0.0/24",), probe=probe, **settings
    )


def world(
    count: int, habits: Habits, gateway: Callable[[str], str] = lambda name: "gw", **settings: object
) -> World:
    tunnels = {f"t{n}": tunnel(f"t{n}", **settings) for n in range(count)}
    return World(tunnels, habits, kind=replace(KIND, endpoint=lambda t: gateway(t.name)))


def cycles(down: float, up: float, begin: float, end: float) -> Callable[[float], bool]:
    """A path that is dead `down` seconds and alive `up` seconds, in turn."""
    return lambda now: not (begin <= now < end and (now - begin) % (down + up) < down)


@pytest.mark.parametrize(("down", "up"), [(20.0, 20.0), (10.0, 10.0), (15.0, 5.0), (40.0, 40.0)])
def test_a_path_that_flaps_for_ten_minutes_is_one_incident(down: float, up: float) -> None:
    simulated = world(1, Habits(path_alive=cycles(down, up, 100.0, 700.0)))
    simulated.run(until=700.0)
    assert simulated.alerter.opened == ["t0"]
    assert simulated.alerter.resolved == []
    simulated.run(until=1200.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (["t0"], ["t0"])


def test_a_client_that_dies_every_twenty_seconds_is_one_incident() -> None:
    simulated = world(1, Habits(lives=lambda: 20.0 if simulated_until(600.0) else float("inf")))

    def simulated_until(moment: float) -> bool:
        return simulated.now < moment

    simulated.run(until=600.0)
    assert simulated.alerter.opened == ["t0"]
    assert (
        "keeps failing" in simulated.alerter.alerts["t0"].summary
        or simulated.alerter.alerts["t0"].summary == ""
    )
    simulated.run(until=1200.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (["t0"], ["t0"])


def test_a_few_short_failures_call_nobody() -> None:
    simulated = world(1, Habits(path_alive=cycles(12.0, 100.0, 300.0, 700.0)))
    simulated.run(until=2000.0)
    assert simulated.alerter.opened == []


def test_a_condition_that_flaps_is_one_incident() -> None:
    simulated = world(20, Habits())
    for turn in range(30):
        simulated.run(until=100.0 + turn * 20.0)
        simulated.post(ev.UplinkChanged("", alive=bool(turn % 2), text="no carrier"))
    simulated.run(until=2000.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (["uplink"], ["uplink"])


def test_a_dead_gateway_is_one_incident_and_its_neighbours_are_not_named() -> None:
    where = lambda name: "gw" if int(name[1:]) < 20 else f"other-{name}"  # noqa: E731
    dead = lambda now: 1000.0 <= now < 3000.0  # noqa: E731
    habits = Habits()
    simulated = world(23, habits, where)
    habits.path_alive = lambda now: not (dead(now) and int(simulated.prober.asking[1:]) < 20)
    simulated.run(until=2900.0)
    assert simulated.alerter.opened == ["group:gateway:gw"]
    alert = simulated.alerter.alerts["group:gateway:gw"]
    assert set(alert.members) == {f"t{n}" for n in range(20)}
    assert "20 tunnels of gateway gw are down: t0, t1" in alert.summary
    assert "10.19.0.0/24" in alert.details["destinations"]
    simulated.run(until=4000.0)
    assert simulated.alerter.resolved == ["group:gateway:gw"]


def test_two_of_many_at_a_gateway_are_two_incidents_and_both_of_two_are_one() -> None:
    habits = Habits()
    simulated = world(7, habits, lambda name: "big" if int(name[1:]) < 5 else "small")
    habits.path_alive = lambda now: now < 500.0 or simulated.prober.asking not in ("t0", "t1", "t5", "t6")
    simulated.run(until=2000.0)
    assert sorted(simulated.alerter.opened) == ["group:gateway:small", "t0", "t1"]


def test_a_refused_account_is_one_incident() -> None:
    login = Login(username="svc", password=Secret(file="password"))
    habits = Habits(says=lambda: Failed(Reason.AUTH, "AUTH_FAILED"))
    simulated = world(5, habits, lambda name: name, login=login)
    simulated.run(until=86400.0)
    assert {simulated.phase(f"t{n}") for n in range(5)} == {Phase.FAILED}
    [group] = simulated.alerter.open
    assert group.startswith("group:account:svc:")
    habits.says = lambda: None
    for n in range(5):
        simulated.post(ev.InputsChanged(f"t{n}"))
    simulated.run(until=87000.0)
    assert simulated.alerter.open == set()
    assert simulated.alerter.opened.count(group) == 1


def test_a_group_stays_the_one_incident_while_its_members_come_back_one_by_one() -> None:
    habits = Habits()
    simulated = world(5, habits)
    habits.path_alive = lambda now: not 500.0 <= now < 1000.0 + 600.0 * int(simulated.prober.asking[1:])
    simulated.run(until=5000.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (
        ["group:gateway:gw"],
        ["group:gateway:gw"],
    )


def test_what_follows_later_comes_under_the_open_incident() -> None:
    habits = Habits()
    simulated = world(5, habits)
    habits.path_alive = lambda now: now < 500.0 or (simulated.prober.asking == "t4" and now < 1500.0)
    simulated.run(until=3000.0)
    assert simulated.alerter.opened == ["group:gateway:gw"]
    assert "t4" in simulated.alerter.alerts["group:gateway:gw"].members


@pytest.mark.parametrize("severities", [("warning", "critical")])
def test_teams_with_their_own_keys_are_called_apart(severities: tuple[str, str]) -> None:
    tunnels = {
        f"t{n}": tunnel(
            f"t{n}", alert=AlertSettings(severity=severities[n % 2], routing_key=Secret(file=f"team{n % 2}"))
        )
        for n in range(6)
    }
    simulated = World(
        tunnels, Habits(path_alive=lambda now: now < 500.0), kind=replace(KIND, endpoint=lambda t: "gw")
    )
    simulated.run(until=2000.0)
    assert simulated.alerter.opened == ["group:gateway:gw:team0", "group:gateway:gw:team1"]
    assert [simulated.alerter.alerts[f"group:gateway:gw:team{n}"].severity for n in (0, 1)] == list(
        severities
    )


@pytest.mark.parametrize("left", ["group:gateway:gw", "t1"])
def test_what_an_earlier_run_left_open_is_taken_up(left: str) -> None:
    habits = Habits()
    simulated = world(3, habits)
    simulated.alerter.open.add(left)
    simulated.engine.resume(frozenset({left, "uplink"}))
    simulated.alerter.open.add("uplink")
    habits.path_alive = lambda now: now >= 1000.0
    simulated.run(until=1000.0)
    assert simulated.alerter.opened == ([] if left.startswith("group:") else ["group:gateway:gw"])
    assert simulated.alerter.resolved == ["uplink"]
    assert left in simulated.alerter.open
    simulated.run(until=2000.0)
    assert simulated.alerter.open == set()


def test_a_group_of_an_earlier_run_is_over_when_all_is_well() -> None:
    simulated = world(3, Habits())
    simulated.alerter.open.add("group:gateway:gw")
    simulated.engine.resume(frozenset({"group:gateway:gw"}))
    simulated.run(until=60.0)
    assert simulated.alerter.resolved == []
    simulated.run(until=300.0)
    assert simulated.alerter.resolved == ["group:gateway:gw"]


def test_draining_opens_nothing_and_still_resolves() -> None:
    habits = Habits(path_alive=lambda now: not 100.0 <= now < 700.0)
    simulated = world(1, habits)
    simulated.run(until=600.0)
    assert simulated.alerter.opened == ["t0"]
    simulated.habits.flows = lambda name, now: 1
    simulated.engine.drain(until=5000.0)
    simulated.network.conditions["kernel:fight"] = "it is ours to leave"
    simulated.post(ev.Noticed(""))
    simulated.run(until=2000.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (["t0"], ["t0"])


def test_a_stop_by_an_operator_opens_nothing_and_resolves() -> None:
    habits = Habits(path_alive=lambda now: not now >= 100.0)
    simulated = world(2, habits, lambda name: name)
    simulated.run(until=150.0)
    simulated.post(ev.Asked("t1", reason=Reason.STOPPED))
    simulated.run(until=1000.0)
    assert simulated.alerter.opened == ["t0"]
    simulated.post(ev.Asked("t0", reason=Reason.STOPPED))
    simulated.run(until=1001.0)
    assert simulated.alerter.resolved == ["t0"]
