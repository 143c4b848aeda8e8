"""Faults of the daemon itself: how often they are told, and when they are over."""

from __future__ import annotations

import pytest

from supervisor.core.faults import LOG_AGAIN_SECONDS, VISIBLE_SECONDS, Faults


class Clocked:
    """Faults, in a time that the test sets."""

    def __init__(self) -> None:
        self.now, self.told, self.changes = 0.0, list[tuple[str, str, str]](), 0
        self.faults = Faults(
            lambda: self.now,
            lambda part, place, error: self.told.append((part, place, str(error))),
            self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def shown(self) -> list[str]:
        return list(self.faults.conditions)


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


def fails(text: str = "x") -> None:
    raise ValueError(text)


def fails_elsewhere() -> None:
    raise ValueError("y")


def test_one_kind_of_fault_is_told_once_an_hour_and_always_counted(clocked: Clocked) -> None:
    for number in range(100):
        assert not clocked.faults.run("a", fails, str(number))
    assert [(part, error) for part, _, error in clocked.told] == [("a", "0")]
    assert clocked.told[0][1].startswith("test_faults.py:")
    clocked.faults.run("a", fails_elsewhere)
    clocked.faults.run("b", fails)
    assert [(part, error) for part, _, error in clocked.told] == [("a", "0"), ("a", "y"), ("b", "x")]
    clocked.now = LOG_AGAIN_SECONDS
    clocked.faults.run("a", fails)
    assert len(clocked.told) == 4
    assert clocked.faults.counts == {"a": 102, "b": 1}


def test_what_comes_back_is_the_answer_or_its_stand_in(clocked: Clocked) -> None:
    assert clocked.faults.ask("a", 7, int, "5") == 5
    assert clocked.faults.ask("a", 7, int, "no number") == 7
    assert clocked.faults.run("a", int, "5")


def test_it_is_shown_until_the_part_works_and_a_while_has_passed(clocked: Clocked) -> None:
    clocked.faults.run("a", fails)
    clocked.now = 10 * VISIBLE_SECONDS
    assert clocked.shown() == ["internal-error:a"]
    assert clocked.faults.due is None, "it does not go away by itself"
    clocked.faults.run("a", int)
    assert clocked.shown() == []
    assert clocked.changes == 2, "it came, and it went"

    clocked.faults.run("a", fails)
    clocked.faults.run("a", int)
    assert clocked.shown() == ["internal-error:a"]
    assert clocked.faults.due == clocked.now + VISIBLE_SECONDS
    clocked.now += VISIBLE_SECONDS
    assert clocked.shown() == []


def test_a_part_that_fails_now_and_then_is_one_condition(clocked: Clocked) -> None:
    for _ in range(50):
        clocked.now += 1.0
        clocked.faults.run("a", fails)
        clocked.faults.run("a", int)
    assert clocked.changes == 1


def test_the_condition_does_not_say_what_the_error_says(clocked: Clocked) -> None:
    """It is sent to others, and the text of an error may hold a secret."""
    clocked.faults.run("kind:openvpn", fails, "hunter2")
    (condition,) = clocked.faults.conditions.values()
    assert "kind:openvpn (ValueError)" in condition.text
    assert "hunter2" not in condition.text


def test_of_a_group_the_first_counts(clocked: Clocked) -> None:
    clocked.faults.note("a", ExceptionGroup("two", [ValueError("one"), KeyError("two")]))
    assert [(part, error) for part, _, error in clocked.told] == [("a", "one")]


def test_who_ends_the_daemon_is_not_held_up(clocked: Clocked) -> None:
    def ends() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clocked.faults.run("a", ends)
    assert clocked.faults.counts == {}
