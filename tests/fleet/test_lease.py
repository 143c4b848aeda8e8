"""The lease of an account: every pair of phase and event, and that two members never send at one moment."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.fleet.lease import (
    EVENTS,
    TABLE,
    Acquired,
    GivenBack,
    Lease,
    LeaseLost,
    LeasePhase,
    LockRefused,
    Passed,
    Renewed,
    Unanswered,
    Vouched,
    Wished,
    call_budget,
    follow,
    interval,
    log_off,
    margin,
)
from tests.fleet.simulated import simulate

FREE, ASKING, HELD, UNKNOWN, ENDING = LeasePhase
STORIES = settings.default.max_examples if settings.default.max_examples >= 1000 else 25  # `make soak`: 1,000
SAMPLES = (
    Wished(True, False),
    Wished(True, True),
    Wished(False, True),
    Wished(False, False),
    Acquired(7, 103.0),
    Acquired(7, 90.0),
    LockRefused("vpn2"),
    LockRefused(None),
    Renewed(104.0),
    Vouched(104.0),
    Unanswered("no answer in time"),
    LeaseLost("gone"),
    GivenBack(),
    Passed(),
)
STATES = st.builds(
    Lease,
    st.sampled_from(LeasePhase),
    st.just(0.5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([float("-inf"), 99.0, 100.2, 103.5]),
)


def test_every_phase_knows_every_event() -> None:
    assert set(TABLE) == set(itertools.product(LeasePhase, EVENTS))
    assert {type(each) for each in SAMPLES} == set(EVENTS)


@given(STATES, st.lists(st.sampled_from(SAMPLES), max_size=12))
def test_permission_never_comes_from_nothing(lease: Lease, events: list[object]) -> None:
    """Only an answer of the service, or all other members, can extend it; no client starts beyond."""
    for event in events:
        after = follow(lease, event, 100.0)  # type: ignore[arg-type] # all of SAMPLES are events
        if after.until > lease.until:
            assert isinstance(event, Acquired | Renewed | Vouched)
        if after.may_start(100.0):
            assert after.phase is HELD
            assert after.until - 0.5 > 100.0
        if after.phase in (FREE, ASKING):
            assert not after.asks or not after.running
            assert after.must_end(100.0)
        lease = after


@pytest.mark.parametrize(
    ("phase", "event", "then"),
    [
        (FREE, Wished(True, False), ASKING),
        (FREE, Acquired(7, 103.0), ENDING),
        (ASKING, Acquired(7, 103.0), HELD),
        (ASKING, Acquired(7, 100.2), ENDING),
        (ASKING, Wished(False, False), ENDING),
        (ASKING, LockRefused("vpn2"), ASKING),
        (HELD, Unanswered("silent"), UNKNOWN),
        (UNKNOWN, Renewed(104.0), HELD),
        (UNKNOWN, Vouched(104.0), UNKNOWN),
        (HELD, LeaseLost("gone"), ENDING),
        (UNKNOWN, LockRefused("vpn2"), ENDING),
        (HELD, Wished(False, True), ENDING),
        (ENDING, Renewed(104.0), ENDING),
        (ENDING, GivenBack(), ASKING),
    ],
)
def test_phases_follow_each_other(phase: LeasePhase, event: object, then: LeasePhase) -> None:
    lease = Lease(phase, wanted=True, running=False, until=101.5)
    assert follow(lease, event, 100.0).phase is then  # type: ignore[arg-type]


def test_what_is_lost_is_closed_at_once_and_what_is_not_wanted_may_log_off() -> None:
    held = Lease(HELD, wanted=True, running=True, until=103.5)
    assert follow(held, LeaseLost("gone"), 100.0).until == float("-inf")
    leaving = follow(held, Wished(False, True), 100.0)
    assert leaving.until == 103.5
    assert leaving.must_end(100.0)
    assert not leaving.gives_back
    assert follow(leaving, Wished(False, False), 100.1).gives_back


@given(st.floats(2.0, 600.0))
def test_two_calls_fit_between_a_renewal_and_the_end(ttl: float) -> None:
    assert call_budget(ttl) > 0.1
    assert call_budget(ttl) <= (ttl - margin(ttl)) / 2
    assert interval(ttl) + 2 * call_budget(ttl) <= ttl - margin(ttl) - log_off(ttl) + 1e-9


@settings(max_examples=STORIES, deadline=None)
@given(st.integers(0, 10**9))
def test_two_members_never_send_at_one_moment(seed: int) -> None:
    twice, logins, _ = simulate(seed)
    assert twice == 0.0
    assert logins > 0


def test_without_the_fence_they_do() -> None:
    """The very same stories with the fence left out: else the test above could not fail."""
    caught = (seed for seed in range(12) if simulate(seed, fenced=False)[0] > 0.0)
    assert len(list(itertools.islice(caught, 3))) == 3
