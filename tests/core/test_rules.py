"""Which table a packet looks into, given the policy rules and somebody who removes some of them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network.lanes import FIRST_LANE, LAST_LANE
from supervisor.core.network.rules import FEW_LANES, PRIORITY, Rule, leading

MAIN = 254
lanes = st.lists(st.integers(FIRST_LANE, LAST_LANE), unique=True, max_size=60).map(tuple)


def table(rules: frozenset[Rule], mark: int) -> tuple[int, int]:
    """The first table that a packet with this mark looks into, as the kernel walks its rules, and how many
    it looked at.
    """
    ahead, steps = sorted(rules, key=lambda rule: rule.priority), 0
    while ahead:
        rule, steps = ahead.pop(0), steps + 1
        if mark & rule.mask != rule.mark:
            continue
        if rule.kind == "lookup":
            return rule.table, steps
        if rule.kind == "goto" and any(each.priority == rule.target for each in ahead):
            ahead = [each for each in ahead if each.priority >= rule.target]
    return MAIN, steps


@given(lanes, st.integers(FIRST_LANE - 50, LAST_LANE + 50) | st.integers(0, 2**32 - 1))
def test_every_mark_looks_where_it_should(numbers: tuple[int, ...], mark: int) -> None:
    rules = leading(numbers, (4,))
    for one in (0, mark, *numbers):
        assert table(rules, one)[0] == (one if one in numbers else MAIN)


@given(lanes, st.randoms(use_true_random=False))
def test_whatever_is_removed_nobody_looks_into_anothers_table(
    numbers: tuple[int, ...], dice: random.Random
) -> None:
    rules = leading(numbers, (4,))
    left = frozenset(rule for rule in rules if dice.random() < 0.6)
    for mark in (0, *numbers):
        assert table(left, mark)[0] == (
            mark if any(rule.kind == "lookup" and rule.mark == mark for rule in left) else MAIN
        )


def test_few_lanes_have_one_rule_each_and_many_are_found_in_a_few_steps() -> None:
    few, many = tuple(range(FIRST_LANE, FIRST_LANE + FEW_LANES)), tuple(range(FIRST_LANE, FIRST_LANE + 200))
    assert len(leading(few, (4, 6))) == 2 * FEW_LANES
    rules = leading(many, (4,))
    assert table(rules, 0)[1] == 2
    assert max(table(rules, lane)[1] for lane in many) <= 1 + 14 + 16
    everything = leading(tuple(range(FIRST_LANE, LAST_LANE + 1)), (4,))
    places = {
        lane >> 4: {
            rule.priority for rule in everything if rule.kind == "lookup" and rule.mark >> 4 == lane >> 4
        }
        for lane in many
    }
    assert all(len(place) == 1 for place in places.values())
    assert len(set().union(*places.values())) == len(places)
    assert max(rule.priority for rule in everything) == PRIORITY


def test_a_jump_goes_forward_to_a_rule_that_exists() -> None:
    rules = leading(tuple(range(FIRST_LANE, FIRST_LANE + 200)), (4, 6))
    jumps = [rule for rule in rules if rule.kind == "goto"]
    assert jumps
    assert all(rule.priority < rule.target for rule in jumps)
    assert all(
        (jump.version, jump.target) in {(rule.version, rule.priority) for rule in rules} for jump in jumps
    )
