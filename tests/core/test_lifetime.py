"""When a session is replaced: the age at which gateways end sessions is learned, and the moment before
it is chosen.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.validation import validated
from supervisor.core.session.lifetime import (
    CLOSE,
    ENOUGH_SESSIONS,
    REMEMBERED_SESSIONS,
    due,
    learned,
    lengthened,
    limit,
)
from supervisor.core.state import Health, Known, Length, Phase, Reach, Session, TunnelState
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import Planned, Reconnect, Tunnel

HOUR = 3600.0
ages = st.floats(300.0, 86_400.0)


def tunnel(**planned: object) -> Tunnel:
    settings = Reconnect() if not planned else configured(Reconnect, planned=validated(Planned, planned))
    return configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",), reconnect=settings)


def up(connected: float = 0.0, expires: float | None = None, *lengths: float) -> TunnelState:
    known = Known(lengths=tuple(Length(seconds, True) for seconds in lengths))
    return tunnel_state(phase=Phase.UP, session=Session(1, connected=connected, expires=expires), known=known)


# --- what is learned
# ----------------------------------------------------------------------------------------------------------


@given(ages, st.lists(st.floats(0.0, 11.0), min_size=5, max_size=5))
def test_the_limit_is_known_within_5_percent_after_5_sessions(age: float, noticed_after: list[float]) -> None:
    """A session's end is noticed a little later than it came."""
    found = learned([Length(age + late, True) for late in noticed_after], 60.0)
    assert found is not None
    assert abs(found - age) <= 0.05 * age


@given(ages, st.integers(0, 2**32))
def test_two_accidents_among_five_do_not_mislead(age: float, seed: int) -> None:
    dice = random.Random(seed)
    lengths = [Length(age, True)] * 3 + [
        Length(dice.uniform(60.0, age * 0.9), dice.random() < 0.5) for _ in range(2)
    ]
    dice.shuffle(lengths)
    assert learned(lengths, 60.0) == pytest.approx(age, rel=0.05)


@given(st.lists(st.builds(Length, ages, st.booleans()), max_size=REMEMBERED_SESSIONS))
def test_what_is_learned_is_never_outlived_and_was_seen_often_enough(lengths: list[Length]) -> None:
    found = learned(lengths, 60.0)
    if found is not None:
        assert (
            sum(length.ended_there and abs(length.seconds - found) <= 2 * CLOSE * found for length in lengths)
            >= ENOUGH_SESSIONS
        )
        assert max(length.seconds for length in lengths) <= found * (1 + 3 * CLOSE)


def test_ends_without_a_rule_teach_nothing() -> None:
    dice = random.Random(7)
    wrong = sum(
        learned([Length(dice.expovariate(1 / HOUR), True) for _ in range(REMEMBERED_SESSIONS)], 60.0)
        is not None
        for _ in range(1000)
    )
    assert wrong < 20, "deaths at random look like a limit in few cases"


def test_sessions_that_never_became_stable_say_nothing() -> None:
    assert learned([Length(30.0, True)] * 10, 60.0) is None


def test_ends_of_ours_only_show_what_a_session_outlives() -> None:
    assert learned([Length(HOUR, False)] * 10, 60.0) is None
    assert learned([*[Length(HOUR, True)] * 4, Length(2 * HOUR, False)], 60.0) is None
    assert learned([*[Length(HOUR, True)] * 4, Length(0.5 * HOUR, False)], 60.0) == HOUR


def test_only_the_last_sessions_are_remembered() -> None:
    known = Known()
    for number in range(REMEMBERED_SESSIONS + 5):
        reason = Reason.PEER_CLOSED if number % 2 else Reason.PLANNED
        known = lengthened(known, float(number), reason, Reach.UNKNOWN)
    assert [length.seconds for length in known.lengths] == [
        float(n) for n in range(5, REMEMBERED_SESSIONS + 5)
    ]
    assert [length.ended_there for length in known.lengths] == [
        n % 2 == 1 for n in range(5, REMEMBERED_SESSIONS + 5)
    ]


def test_a_gateway_that_does_not_answer_has_ended_nothing() -> None:
    told = [
        lengthened(Known(), HOUR, Reason.PEER_CLOSED, reach).lengths[0].ended_there
        for reach in (Reach.ANSWERS, Reach.UNKNOWN, Reach.SILENT)
    ]
    assert told == [True, True, False]


@pytest.mark.parametrize("reason", [Reason.PEER_CLOSED, Reason.EXITED, Reason.KICKED, Reason.AUTH])
def test_a_session_that_was_dead_before_its_end_shows_no_limit(reason: Reason) -> None:
    for health, told in ((Health.HEALTHY, True), (Health.UNHEALTHY, False)):
        known = lengthened(Known(), HOUR, reason, Reach.UNKNOWN, health)
        assert known.lengths[0].ended_there is told
    expired = lengthened(Known(), HOUR, Reason.SESSION_EXPIRED, Reach.UNKNOWN, Health.UNHEALTHY)
    assert expired.lengths[0].ended_there


@pytest.mark.parametrize("verdict", [Reason.UNHEALTHY, Reason.PEER_TIMEOUT, Reason.NETWORK, Reason.UPLINK])
def test_verdicts_of_this_host_teach_no_limit(verdict: Reason) -> None:
    known = Known()
    for _ in range(10):
        known = lengthened(known, HOUR, verdict, Reach.ANSWERS)
    assert learned(known.lengths, 60.0) is None


# --- when
# ----------------------------------------------------------------------------------------------------------


def test_the_earliest_limit_counts() -> None:
    plain = tunnel()
    assert limit(plain, up()) is None
    assert limit(plain, up(10.0, 500.0)) == 500.0
    assert limit(tunnel(every="1h"), up(10.0)) == 10.0 + HOUR
    assert limit(tunnel(every="1h"), up(10.0, 500.0)) == 500.0
    assert limit(plain, up(10.0, None, *[HOUR] * 5)) == 10.0 + HOUR


@given(ages, st.floats(0.0, 0.999))
def test_it_begins_before_the_limit_and_not_much_earlier(length: float, jitter: float) -> None:
    moment = due(tunnel(), up(100.0, 100.0 + length), jitter, 0.0)
    assert moment is not None
    assert 100.0 + 0.75 * length <= moment < 100.0 + length


def test_the_margin_is_what_the_settings_say() -> None:
    assert due(tunnel(every="4h", before="10m"), up(), 0.0, 0.0) == 4 * HOUR - 600.0
    assert (
        due(tunnel(every="4h", before="10m"), up(0.0, 300.0), 0.0, 0.0) == 150.0
    )  # announced: shorter than the margin


def test_many_tunnels_are_spread() -> None:
    dice = random.Random(1)
    moments = sorted(due(tunnel(every="4h"), up(), dice.random(), 0.0) for _ in range(20))
    assert moments[-1] - moments[0] > 300.0


def test_nothing_is_due_while_it_is_not_up() -> None:
    assert due(tunnel(every="4h"), but(up(), phase=Phase.STARTING), 0.0, 0.0) is None
    assert due(tunnel(), up(), 0.0, 0.0) is None


@given(st.floats(0.0, 86_400.0), st.floats(0.0, 86_400.0), st.floats(0.0, 0.999))
def test_the_preferred_time_of_day_is_kept_where_it_can_be(
    connected: float, utc_offset: float, jitter: float
) -> None:
    """Of a day's session the window of three hours always lies in the second half or cannot be had."""
    moment = due(tunnel(every="1d", before="10m", window="02:00-05:00"), up(connected), jitter, utc_offset)
    assert moment is not None
    assert connected + 12 * HOUR <= moment <= connected + 24 * HOUR - 600.0
    local = (moment + utc_offset) % 86_400.0
    opened_late = [
        (connected + 12 * HOUR + utc_offset + offset) % 86_400.0 for offset in range(0, int(11.8 * HOUR), 60)
    ]
    if any(2 * HOUR <= hour <= 5 * HOUR - 120 for hour in opened_late):
        assert 2 * HOUR - 60 <= local <= 5 * HOUR + 60


def test_a_window_over_midnight() -> None:
    moment = due(tunnel(every="1d", window="23:00-01:00"), up(12 * HOUR), 0.5, 0.0)
    assert moment is not None
    assert 23 * HOUR <= moment <= 25 * HOUR
