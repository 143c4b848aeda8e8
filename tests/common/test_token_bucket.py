"""The rate limit that repairs of the kernel and lines of clients have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.token_bucket import TokenBucket


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 5))
def test_never_more_than_the_burst_and_the_rate(pauses: list[float], burst: int) -> None:
    bucket, now, taken = TokenBucket(burst, rate=2.0), 0.0, 0
    for pause in pauses:
        now += pause
        bucket = bucket.at_time(now)
        if (rest := bucket.take()) is not None:
            bucket, taken = rest, taken + 1
        assert taken <= burst + now * 2 + 1e-6


def test_a_token_comes_back_in_time() -> None:
    empty = TokenBucket(1, rate=2.0).at_time(100.0).take()
    assert empty is not None
    later = empty.at_time(100.1)
    assert later.take() is None
    assert later.at_time(100.1 + later.wait_seconds - 1e-3).take() is None
    assert later.at_time(100.1 + later.wait_seconds + 1e-9).take() is not None


def test_a_full_bucket_waits_for_nothing_and_gets_no_fuller() -> None:
    bucket = TokenBucket(2, rate=1.0).at_time(1e6)
    assert bucket.wait_seconds == 0
    for _ in range(2):
        rest = bucket.take()
        assert rest is not None
        bucket = rest
    assert bucket.take() is None
    assert bucket.wait_seconds == 1.0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    empty = TokenBucket(1, rate=1.0).at_time(50.0).take()
    assert empty is not None
    assert empty.at_time(0.0).take() is None
