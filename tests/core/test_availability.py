"""Availability against a count second by second, and what outages and deaths are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.state import Health, Phase, TunnelState, Want
from supervisor.core.views.availability import (
    ADOPTED,
    KEPT,
    LOST,
    WINDOWS,
    Standing,
    StandingChange,
    Timeline,
    death_class,
    failed,
    standing,
    worst,
)
from tests.settings import configured
from tests.states import tunnel_state
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

UP, DOWN, STOPPED, UNWATCHED, DEGRADED = (
    Standing.UP,
    Standing.DOWN,
    Standing.STOPPED,
    Standing.UNWATCHED,
    Standing.DEGRADED,
)
REASONS = (*(reason.value for reason in Reason), LOST, ADOPTED)

marks = st.lists(
    st.builds(
        StandingChange,
        st.integers(0, 300).map(float),
        st.sampled_from(Standing),
        st.sampled_from(REASONS),
        st.booleans(),
    ),
    max_size=30,
).map(lambda found: sorted(found, key=lambda mark: mark.at))
stretches = st.tuples(st.integers(-20, 320), st.integers(0, 200)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)


def line(*told: tuple[float, Standing, str]) -> Timeline:
    timeline = Timeline()
    for at, what, reason in told:
        timeline.add(StandingChange(at, what, reason, waits=what is DOWN and reason == "auth"))
    return timeline


def at_second(found: list[StandingChange], second: int) -> Standing | None:
    """What holds in [second, second + 1), as all marks lie on whole seconds."""
    return next((mark.standing for mark in reversed(found) if mark.at <= second), None)


@given(marks, stretches)
def test_seconds_are_those_of_a_count_second_by_second(
    found: list[StandingChange], stretch: tuple[int, int]
) -> None:
    timeline = Timeline()
    for mark in found:
        timeline.add(mark)
    counted = Counter(at_second(found, second) for second in range(*stretch))
    assert timeline.seconds(*stretch) == pytest.approx({s: counted[s] for s in Standing})


@given(marks, stretches)
def test_segments_follow_each_other_and_tell_the_same(
    found: list[StandingChange], stretch: tuple[int, int]
) -> None:
    timeline = Timeline()
    for mark in found:
        timeline.add(mark)
    segments = timeline.segments(*stretch)
    total = dict.fromkeys(Standing, 0.0)
    for start, end, what in segments:
        total[what] += end - start
    assert total == pytest.approx(timeline.seconds(*stretch))
    assert all(a[1] == b[0] for a, b in zip(segments, segments[1:], strict=False))
    assert not segments or segments[-1][1] == stretch[1]


@given(marks, st.integers(1, 30))
def test_parts_show_the_worst_of_each(found: list[StandingChange], count: int) -> None:
    timeline = Timeline()
    for mark in found:
        timeline.add(mark)
    width = 10
    parts = worst(timeline.segments(0, count * width), 0, count * width, count)
    order = (DOWN, UNWATCHED, DEGRADED, STOPPED, UP, None)
    assert parts == [
        min((at_second(found, second) for second in range(n * width, (n + 1) * width)), key=order.index)
        for n in range(count)
    ]


@given(marks, st.integers(-20, 320), st.integers(0, 200), st.integers(0, 200))
def test_adjoining_stretches_add_up(found: list[StandingChange], start: int, first: int, second: int) -> None:
    timeline = Timeline()
    for mark in found:
        timeline.add(mark)
    middle, end = start + first, start + first + second
    whole, parts = (
        timeline.seconds(start, end),
        (timeline.seconds(start, middle), timeline.seconds(middle, end)),
    )
    assert whole == pytest.approx({s: parts[0][s] + parts[1][s] for s in Standing})


@given(marks, stretches)
def test_outages_are_the_stretches_without_service(
    found: list[StandingChange], stretch: tuple[int, int]
) -> None:
    timeline = Timeline()
    for mark in found:
        timeline.add(mark)
    told = timeline.over(*stretch)
    inside = sum(
        min(o.ended if o.ended is not None else stretch[1], stretch[1]) - max(o.began, stretch[0])
        for o in told.outages
    )
    assert inside == pytest.approx(told.seconds[DOWN] + told.seconds[UNWATCHED])
    assert all(b.began >= a.ended for a, b in zip(told.outages, told.outages[1:], strict=False))
    assert told.healed + told.by_hand <= len(told.failures)
    assert told.ratio is None or 0.0 <= told.ratio <= 1.0
    assert timeline.ratios([stretch[1] - stretch[0]], stretch[1], at_least=0.0) == [pytest.approx(told.ratio)]


@pytest.mark.slow
@given(st.lists(st.sampled_from((UP, DOWN, STOPPED)), min_size=600, max_size=900), st.integers(1, 20))
def test_what_is_forgotten_changes_no_later_count(kinds: list[Standing], hours: int) -> None:
    """A timeline over months says the same of its last days as one that begins with them."""
    long, short, step = Timeline(), Timeline(), 3600.0 * hours
    for number, kind in enumerate(kinds):
        long.add(StandingChange(number * step, kind, "exited"))
    now = len(kinds) * step
    since = next((n for n in range(len(kinds)) if (n + 1) * step > now - KEPT), 0)
    for number, kind in enumerate(kinds[since:], since):
        short.add(StandingChange(number * step, kind, "exited"))
    for length in (3600.0, 30 * 86400.0):
        assert long.seconds(now - length, now) == pytest.approx(short.seconds(now - length, now))
    assert long.change_count <= KEPT / step + 2 * 256 + 2


def test_a_moment_before_the_last_one_counts_as_the_last_one() -> None:
    timeline = line((100.0, UP, "connected"), (50.0, DOWN, "exited"))
    assert timeline.seconds(0.0, 150.0) == {UP: 0.0, DEGRADED: 0.0, DOWN: 50.0, UNWATCHED: 0.0, STOPPED: 0.0}


def test_nothing_known_is_no_number() -> None:
    told = Timeline().over(0.0, 3600.0)
    assert (told.ratio, told.mttr, told.mtbf, told.outages, dict(told.deaths)) == (None, None, None, (), {})
    assert line((10.0, STOPPED, "stopped")).over(0.0, 3600.0).ratio is None


def test_a_failure_that_heals_by_itself() -> None:
    timeline = line(
        (0.0, UP, "healthy"), (100.0, DOWN, "unhealthy"), (101.0, DOWN, "retry"), (130.0, UP, "healthy")
    )
    timeline.died(100.0, "unhealthy")
    told = timeline.over(0.0, 1000.0)
    assert (told.healed, told.by_hand, told.mttr, told.mtbf) == (1, 0, 30.0, 970.0)
    assert (told.ratio, dict(told.deaths), told.failures[0].reason) == (0.97, {"unhealthy": 1}, "unhealthy")


def test_an_outage_that_began_earlier_counts_for_repair_and_not_as_a_new_failure() -> None:
    told = line((0.0, UP, "healthy"), (100.0, DOWN, "exited"), (300.0, UP, "healthy")).over(200.0, 400.0)
    assert (told.mttr, told.mtbf, told.healed, told.ratio) == (200.0, None, 1, 0.5)


@pytest.mark.parametrize("last", ["restarted", "started", "inputs-changed", "reconfigured"])
def test_one_that_somebody_ended_took_a_human(last: str) -> None:
    told = line((0.0, UP, "healthy"), (10.0, DOWN, "exited"), (20.0, DOWN, last), (30.0, UP, "healthy")).over(
        0.0, 40.0
    )
    assert (told.healed, told.by_hand) == (0, 1)


def test_one_that_waits_for_a_human_takes_one_and_so_does_one_that_was_given_up() -> None:
    assert line((0.0, UP, "healthy"), (10.0, DOWN, "auth")).over(0.0, 40.0).by_hand == 1
    assert (
        line((0.0, UP, "healthy"), (10.0, DOWN, "exited"), (20.0, STOPPED, "stopped")).over(0.0, 40.0).by_hand
        == 1
    )


def test_a_planned_stretch_in_which_something_fails_is_a_failure() -> None:
    told = line(
        (0.0, UP, "healthy"), (10.0, DOWN, "restarted"), (12.0, DOWN, "handshake"), (30.0, UP, "healthy")
    ).over(0.0, 40.0)
    assert [(o.planned, o.reason, o.by_hand) for o in told.outages] == [(False, "handshake", False)]
    smooth = line((0.0, UP, "healthy"), (10.0, DOWN, "restarted"), (12.0, UP, "connected")).over(0.0, 40.0)
    assert (smooth.failures, smooth.mttr, smooth.mtbf, smooth.ratio) == ((), None, None, 0.95)


def test_every_reason_has_a_class_and_only_wishes_and_progress_are_no_failures() -> None:
    assert {r.value for r in Reason if not failed(r)} == {
        r.value for r in Reason if death_class(r) == "asked"
    } - {"lock"} | {"retry", "connected", "healthy", "degraded"}  # a lock that nobody grants pages
    classes = [death_class(word) for word in ("auth", "exited", "key", LOST)]
    assert classes == ["login", "transient", "permanent", "daemon"]
    assert death_class("a word of a later version") == "transient"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (tunnel_state(phase=Phase.UP, health=Health.HEALTHY), UP),
        (tunnel_state(phase=Phase.UP, health=Health.UNKNOWN), DOWN),
        (tunnel_state(phase=Phase.BACKOFF), DOWN),
        (tunnel_state(phase=Phase.STOPPED, want=Want.DOWN, reason=Reason.STOPPED), STOPPED),
        (tunnel_state(phase=Phase.STOPPED, want=Want.DOWN, reason=Reason.SHUTDOWN), UNWATCHED),
    ],
)
def test_what_a_state_means(state: TunnelState, said: Standing) -> None:
    probed = configured(
        Tunnel,
        name="acme",
        kind="test",
        destinations=("10.77.0.0/24",),
        probe=Probe(targets=("icmp://10.77.0.1",)),
    )
    assert standing(probed, state) is said


def test_where_nothing_can_be_probed_being_connected_is_being_up() -> None:
    bare = configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",))
    assert standing(bare, tunnel_state(phase=Phase.UP)) is UP


def test_a_ratio_waits_until_enough_was_observed() -> None:
    """A first start that takes five minutes is not a bad day; six hours with as much downtime are a day."""
    timeline, hour = Timeline(), 3600.0
    timeline.add(StandingChange(0.0, Standing.DOWN, "network"))
    timeline.add(StandingChange(300.0, Standing.UP, "connected"))
    assert timeline.ratios(WINDOWS.values(), 0.4 * hour) == [None, None, None, None]
    hourly, *longer = timeline.ratios(WINDOWS.values(), 0.6 * hour)
    assert hourly == pytest.approx(1 - 300 / 2160)
    assert longer == [None, None, None]
    assert timeline.ratios(WINDOWS.values(), 6 * hour - 1)[1:] == [None, None, None]
    assert timeline.ratios(WINDOWS.values(), 6 * hour) == [1.0, *[pytest.approx(1 - 300 / 21600)] * 3]


def test_time_in_which_it_was_stopped_is_not_observed() -> None:
    timeline = Timeline()
    timeline.add(StandingChange(0.0, Standing.STOPPED, "stopped"))
    timeline.add(StandingChange(86000.0, Standing.DOWN, "network"))
    assert timeline.ratios([86400.0], 86400.0) == [None]
