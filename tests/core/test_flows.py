"""Which flows hold up a drain: for as long as packets pass, and not for longer than the limit after the
last one.
"""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network.flow_counting import (
    GRAIN_SECONDS,
    Left,
    Memory,
    TrackedFlow,
    blocks,
    count,
    prefix,
)
from supervisor.core.network.lanes import FIRST_LANE, LAST_LANE

LANE, OTHER = FIRST_LANE, FIRST_LANE + 1
KEPT = 432_000.0  # seconds that the kernel keeps an entry without a packet


def entry(seen: float, packet: float, way: bytes = b"1", lane: int = LANE, over: bool = False) -> TrackedFlow:
    """A flow whose last packet was then. The kernel tells whole seconds."""
    return TrackedFlow(lane, way, over, seen, seen + math.floor(packet + KEPT - seen), 0.0)


def left(memory: Memory, *entries: TrackedFlow, idle: float = 60.0, now: float = 0.0) -> tuple[Memory, Left]:
    after, found = count(memory, entries, {LANE: idle}, max([now, *(each.seen for each in entries)]))
    return after, found[LANE]


def test_only_what_is_not_over_counts_and_each_lane_for_itself() -> None:
    entries = [
        entry(10.0, 10.0),
        entry(10.0, 10.0, b"2", over=True),
        entry(10.0, 10.0, b"3", OTHER),
        entry(10.0, 10.0, b"4", OTHER + 1),
    ]
    memory, found = count({}, entries, {LANE: 60.0, OTHER: 60.0}, 10.0)
    assert {lane: each.flows for lane, each in found.items()} == {LANE: 1, OTHER: 1}
    assert set(memory) == {b"1", b"3"}


def test_a_lane_without_flows_is_told() -> None:
    assert count({}, [], {LANE: 60.0}, 10.0) == ({}, {LANE: Left(0, 0.0)})


def test_what_is_known_to_be_silent_already_counts_from_then() -> None:
    known = entry(10.0, 10.0)._replace(silent=59.0)
    memory, found = left({}, known)
    assert found == Left(1, 59.0)
    assert left(memory, entry(12.0, 10.0))[1] == Left(0, 0.0)


def test_what_the_kernel_has_forgotten_before_its_time_is_only_silent() -> None:
    memory, _ = left({}, entry(10.0, 10.0))
    memory, found = left(memory, now=30.0)
    assert found == Left(1, 20.0)
    assert left(memory, now=70.0)[1] == Left(0, 0.0), "for too long"
    again, found = left(memory, entry(40.0, 40.0))
    assert found == Left(1, 0.0), "its next packet has made a new entry"
    assert left(memory, entry(40.0, 40.0, over=True))[1] == Left(0, 0.0)
    assert count(again, [], {OTHER: 60.0}, 41.0) == ({}, {OTHER: Left(0, 0.0)}), (
        "nobody asks for its lane any more"
    )


def test_what_has_expired_or_was_closed_is_over() -> None:
    short = entry(10.0, 10.0)._replace(expires=40.0)
    memory, _ = left({}, short)
    assert left(memory, now=39.0)[1].flows == 1
    assert left(memory, now=41.0)[1].flows == 0
    closed, _ = left(memory, short._replace(over=True))
    assert left(closed, now=12.0)[1].flows == 0


def test_a_flow_that_changes_its_lane_counts_there() -> None:
    memory, _ = count({}, [entry(10.0, 10.0)], {LANE: 60.0, OTHER: 60.0}, 10.0)
    assert count(memory, [entry(11.0, 10.0, lane=OTHER)], {LANE: 60.0, OTHER: 60.0}, 11.0)[1] == {
        LANE: Left(),
        OTHER: Left(1, 0.0),
    }
    assert count(memory, [entry(11.0, 10.0, lane=OTHER)], {LANE: 60.0}, 11.0)[1] == {LANE: Left()}


@given(st.floats(0.1, 50.0), st.lists(st.floats(0.05, 20.0), min_size=1, max_size=60))
def test_a_flow_with_packets_always_counts(period: float, pauses: list[float]) -> None:
    """However the looks fall between its packets."""
    memory, now = {}, 1000.0
    for pause in pauses:
        now += pause
        memory, found = left(
            memory, entry(now, math.floor(now / period) * period), idle=period + 20.0 + 2 * GRAIN_SECONDS
        )
        assert found.flows == 1


@given(st.lists(st.floats(0.05, 20.0), min_size=1, max_size=60))
def test_a_silent_flow_counts_until_the_limit_and_never_again(pauses: list[float]) -> None:
    memory, now, begun = {}, 1000.0, None
    for pause in pauses:
        now += pause
        begun = now if begun is None else begun
        memory, found = left(memory, entry(now, 900.0))
        assert found.flows == (now - begun < 60.0)
        assert found.idle <= 60.0


@given(st.sets(st.integers(FIRST_LANE, LAST_LANE)), st.integers(FIRST_LANE - 3000, LAST_LANE + 3000))
def test_only_our_own_flows_are_forgotten(lanes: set[int], mark: int) -> None:
    assert any(mark & mask == block for block, mask in blocks(lanes)) == (mark in lanes)
    assert len(blocks(range(FIRST_LANE, LAST_LANE + 1))) < 20


@given(st.sets(st.integers(FIRST_LANE, LAST_LANE), min_size=1))
def test_the_kernel_is_asked_for_all_lanes_at_once(lanes: set[int]) -> None:
    mark, mask = prefix(lanes)
    assert all(lane & mask == mark for lane in lanes)
    assert len(lanes) > 1 or mask == 0xFFFF_FFFF
    assert mask >= 0xFFFF_F000, "few others"
