"""What is done about drift: repaired, at a limited rate, or called a fight."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network.changes import Change, Op, diff
from supervisor.core.network.drift import (
    FIGHT,
    FIGHT_OVER_SECONDS,
    REPAIR_BURST,
    REPAIRING,
    REPAIRS_PER_SECOND,
    DriftGuard,
    RateLimited,
    Repair,
    follow_devices,
    is_drift,
    judge,
    no_repairs,
    repair_counts,
)
from supervisor.core.network.layout import Device, Element, HostFeatures, Layout, Route, Table
from supervisor.core.network.plan import Lane
from supervisor.core.network.rules import Rule
from supervisor.core.network.wanted import open_routes

CLOSED = Route(ip_network("10.77.0.0/24"), 254, 20_000)
FOREIGN = Route(ip_network("10.66.0.0/24"), 254, 0, "blackhole")
RULE = Rule(4, 173001, 173001)
UP = Element("up", (173001,))
BELIEVED = Layout(frozenset({CLOSED}), frozenset({RULE}), True, frozenset({UP}))
NOW = 1000.0
PUT_BACK = Change(Op.ADD, CLOSED)
WANTED_NEW = Change(Op.ADD, Route(ip_network("10.78.0.0/24"), 254, 20_000))


@pytest.mark.parametrize(
    ("change", "drift"),
    [
        (PUT_BACK, True),
        (Change(Op.REMOVE, FOREIGN), True),
        (Change(Op.ADD, RULE), True),
        (Change(Op.ADD, Table()), True),
        (Change(Op.REMOVE, Element("up", (173777,))), True),
        (WANTED_NEW, False),
        (Change(Op.REMOVE, CLOSED), False),
        (Change(Op.REMOVE, RULE), False),
        (Change(Op.ADD, Element("up", (173002,))), False),
    ],
)
def test_drift_is_what_undoes_the_doing_of_others(change: Change, drift: bool) -> None:
    assert is_drift(change, BELIEVED) is drift


def spent(fighting: str = "", over_at: float = 0.0) -> DriftGuard:
    """The rate limit lets nothing pass at NOW."""
    guard = DriftGuard()
    return replace(
        guard,
        bucket=replace(guard.bucket, spent=float(REPAIR_BURST), at=NOW),
        fighting=fighting,
        over_at=over_at,
    )


@pytest.mark.parametrize(
    ("changes", "guard", "kind", "announcement", "fighting", "recheck"),
    [
        ([], DriftGuard(), Repair, "", False, None),
        ([WANTED_NEW], spent(), Repair, "", False, None),
        ([PUT_BACK], DriftGuard(), Repair, REPAIRING, False, None),
        ([PUT_BACK, WANTED_NEW], DriftGuard(), Repair, REPAIRING, False, None),
        ([PUT_BACK], spent(), RateLimited, FIGHT, True, 1 / REPAIRS_PER_SECOND),
        ([PUT_BACK], spent("something", NOW + 1), RateLimited, "", True, 1 / REPAIRS_PER_SECOND),
        ([WANTED_NEW], spent("something", NOW + 1), Repair, "", True, 1.0),
        ([], spent("something", NOW), Repair, "", False, None),
        ([PUT_BACK], DriftGuard(fighting="something", over_at=NOW + 1), Repair, "", True, FIGHT_OVER_SECONDS),
        ([PUT_BACK], DriftGuard(fighting="something", over_at=NOW - 1), Repair, "", True, FIGHT_OVER_SECONDS),
    ],
)
def test_the_verdict(
    changes: list[Change],
    guard: DriftGuard,
    kind: type,
    announcement: str,
    fighting: bool,
    recheck: float | None,
) -> None:
    verdict = judge(BELIEVED, changes, guard, NOW)
    assert type(verdict) is kind
    assert verdict.announcement == announcement
    assert bool(verdict.guard.fighting) is fighting
    assert verdict.recheck_seconds == (None if recheck is None else pytest.approx(recheck))
    assert verdict.drift == tuple(change for change in changes if change is PUT_BACK)


def test_a_fight_says_what_it_is_about() -> None:
    changes = [Change(Op.REMOVE, Route(ip_network(f"10.{n}.0.0/16"), 254, 0)) for n in range(9)]
    verdict = judge(BELIEVED, changes, spent(), NOW)
    assert verdict.guard.fighting.startswith(f"{FIGHT}: - route 10.0.0.0/16 unreachable metric 0, ")
    assert verdict.guard.fighting.count("route") == 5


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_repairs_keep_the_rate_and_a_fight_is_announced_once(pauses: list[float]) -> None:
    """Another program changes something again and again, however fast: as the loop follows it."""
    guard, now, repairs, began = DriftGuard(), NOW, 0, 0
    for pause in pauses:
        now += pause
        verdict = judge(BELIEVED, [PUT_BACK], guard, now)
        repairs += isinstance(verdict, Repair)
        began += verdict.announcement == FIGHT
        assert verdict.guard.over_at == now + FIGHT_OVER_SECONDS
        guard = verdict.guard
    assert repairs <= REPAIR_BURST + (now - NOW) * REPAIRS_PER_SECOND + 1e-6
    assert began == bool(guard.fighting)
    calm = judge(BELIEVED, [], guard, now + FIGHT_OVER_SECONDS)
    assert isinstance(calm, Repair)
    assert calm.guard.fighting == ""


@given(st.lists(st.floats(0.5, 3), min_size=1, max_size=50))
def test_one_repair_in_half_a_second_is_never_a_fight(pauses: list[float]) -> None:
    guard, now = DriftGuard(), NOW
    for pause in pauses:
        now += pause
        verdict = judge(BELIEVED, [PUT_BACK], guard, now)
        assert isinstance(verdict, Repair)
        guard = verdict.guard


def test_repairs_are_counted_by_sort_and_a_new_table_without_its_elements() -> None:
    done = [PUT_BACK, Change(Op.REMOVE, FOREIGN), Change(Op.ADD, RULE), WANTED_NEW, Change(Op.ADD, UP)]
    assert repair_counts(done, BELIEVED) == {"route": 2, "rule": 1, "element": 1}
    assert repair_counts([Change(Op.ADD, Table()), Change(Op.ADD, UP)], BELIEVED) == {"table": 1}
    assert repair_counts(list(diff(Layout(), BELIEVED)), Layout()) == {}
    assert no_repairs() == {"route": 0, "rule": 0, "table": 0, "element": 0, "device": 0}


LANE = Lane("acme", 173001, "t-acme", True)
HOST = HostFeatures({"t-acme": Device(7, 1400, True, True)})
ROUTES = frozenset(open_routes(LANE, HOST))
NOTHING: frozenset[Route] = frozenset()


@pytest.mark.parametrize(
    ("lane", "installed", "added", "routed", "back", "after"),
    [
        (LANE, ROUTES, ROUTES, frozenset(), 0, {173001}),  # it came up
        (LANE, ROUTES, ROUTES, {173001}, 1, {173001}),  # it came back
        (LANE, ROUTES, NOTHING, {173001}, 0, {173001}),
        (LANE, ROUTES, NOTHING, frozenset(), 0, {173001}),
        (LANE, NOTHING, NOTHING, frozenset(), 0, set()),
        (replace(LANE, up=False), NOTHING, NOTHING, frozenset(), 0, set()),
        (replace(LANE, device=None), NOTHING, ROUTES, {173001}, 0, {173001}),
    ],
)
def test_a_route_that_went_with_its_interface_is_counted_when_it_is_back(
    lane: Lane,
    installed: frozenset[Route],
    added: frozenset[Route],
    routed: set[int],
    back: int,
    after: set[int],
) -> None:
    assert follow_devices([lane], HOST, installed, added, frozenset(routed)) == (back, after)
