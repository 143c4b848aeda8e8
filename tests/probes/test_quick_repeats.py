"""Repeats while a round goes on: an answer to any of them ends the suspicion, silence for a second is one."""

from __future__ import annotations

import asyncio
import random

import pytest

from supervisor.probes.quick_repeats import REPEAT_SECONDS, SUSPICION_SECONDS, QuickRepeats


class ProbedWorld:
    """Targets that answer the request with this number, and users' packets."""

    def __init__(self, *, answers_at: int | None = None, passes: bool = False) -> None:
        self.asked, self.suspicions, self._answers_at = 0, 0, answers_at
        self._passes, self.looked = passes, 0
        self.repeats = QuickRepeats(self.ask, self.passes, self.suspect)

    async def ask(self, seconds: float) -> bool:
        assert 0.0 < seconds <= SUSPICION_SECONDS
        self.asked += 1
        return self.asked == self._answers_at

    async def passes(self) -> bool:
        self.looked += 1
        return self._passes and self.looked > 1

    def suspect(self) -> None:
        self.suspicions += 1

    async def round(self) -> None:
        self.repeats.begin()
        await asyncio.sleep(SUSPICION_SECONDS + 0.3)


async def test_silence_is_a_suspicion_once_until_an_answer() -> None:
    world = ProbedWorld()
    await world.round()
    assert world.suspicions == 1
    assert 3 <= world.asked <= SUSPICION_SECONDS / REPEAT_SECONDS
    asked = world.asked
    await world.round()
    assert (world.suspicions, world.asked) == (1, asked)
    world.repeats.end()
    await world.round()
    assert world.suspicions == 2
    world.repeats.end()


async def test_a_round_that_is_answered_at_once_costs_no_further_request() -> None:
    world = ProbedWorld()
    for _ in range(3):
        world.repeats.begin()
        await asyncio.sleep(0.01)
        world.repeats.end()
    await asyncio.sleep(0.3)
    assert (world.asked, world.suspicions) == (0, 0)


@pytest.mark.parametrize("answers_at", [1, 3])
async def test_an_answer_to_a_repeat_ends_it(answers_at: int) -> None:
    world = ProbedWorld(answers_at=answers_at)
    await world.round()
    assert (world.asked, world.suspicions, world.repeats.answered) == (answers_at, 0, True)
    world.repeats.end()


async def test_users_packets_that_come_back_end_it() -> None:
    world = ProbedWorld(passes=True)
    await world.round()
    assert (world.suspicions, world.looked) == (0, 2)
    world.repeats.end()


def test_at_ten_percent_of_loss_in_each_direction_half_an_hour_brings_no_suspicion() -> None:
    """By the numbers alone: a round and its repeats, of a single target, a round each 2 s."""
    chance = random.Random(0)
    requests = 1 + round((SUSPICION_SECONDS - 0.2) / REPEAT_SECONDS)
    rounds = 50 * 900  # fifty times as many
    lost = sum(all(chance.random() < 1 - 0.9 * 0.9 for _ in range(requests)) for _ in range(rounds))
    assert lost == 0
