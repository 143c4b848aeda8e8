"""The clock of the host: set, synchronised for the first time, or only slewed; suspended hosts."""

from __future__ import annotations

import pytest

from supervisor.app.preflight.clock_watch import ClockWatch


class SettableClock:
    """A wall clock that somebody sets, and the time since boot, which nobody does."""

    def __init__(self) -> None:
        self.wall, self.boot = 1_000_000_000.0, 100.0

    def passes(self, seconds: float) -> None:
        self.wall, self.boot = self.wall + seconds, self.boot + seconds


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def watch(clock: SettableClock) -> ClockWatch:
    return ClockWatch(lambda: clock.wall, lambda: clock.boot)


@pytest.mark.parametrize("step", [-86400.0, -300.0, -1.5, 1.5, 300.0])
def test_a_clock_that_was_set_is_told_once(clock: SettableClock, watch: ClockWatch, step: float) -> None:
    clock.passes(5.0)
    assert not watch.corrected(True)
    clock.wall += step
    clock.passes(5.0)
    assert [watch.corrected(True), watch.corrected(True)] == [True, False]


def test_time_that_passes_and_a_slewed_clock_are_not_told(clock: SettableClock, watch: ClockWatch) -> None:
    for _ in range(1000):
        clock.passes(5.0)
        clock.wall += 0.0025  # 500 ppm, the most that the kernel slews
        assert not watch.corrected(None)


def test_a_suspended_host_has_not_set_its_clock(clock: SettableClock, watch: ClockWatch) -> None:
    clock.passes(8 * 3600.0)
    assert not watch.corrected(True)


def test_the_first_synchronisation_is_told_once(watch: ClockWatch) -> None:
    looks = [watch.corrected(each) for each in (False, False, True, True, True)]
    assert looks == [False, False, True, False, False]


def test_a_clock_that_was_synchronised_before_the_first_look_is_no_news(watch: ClockWatch) -> None:
    assert [watch.corrected(each) for each in (None, True, True)] == [False, False, False]
