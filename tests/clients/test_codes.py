"""One-time codes: each step once, whoever asks and whatever ends in between."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.clients.questions import Questions
from supervisor.clients.totp import MOST_AHEAD_STEPS, Codes, parse_seed
from supervisor.core.events import Delayed, Event
from tunnels.base import Question, Wanted

SEED = b"JBSWY3DPEHPK3PXP"
OTHER = b"KRSXG5CTMVRXEZLU"


class FixedClock:
    def __init__(self, now: float = 1_000_000_010.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_the_code_is_that_of_the_present_step(tmp_path: Path) -> None:
    clock = FixedClock()
    booking = Codes(tmp_path / "codes.json", clock).book(SEED)
    assert (booking.code, booking.wait) == (parse_seed(SEED).at(int(clock.now)), 0.0)


def test_the_codes_of_the_rfc(tmp_path: Path) -> None:
    """RFC 6238, appendix B: SHA-1, eight digits."""
    uri = b"otpauth://totp/rfc?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&digits=8"
    for moment, code in ((59, "94287082"), (1111111109, "07081804"), (2000000000, "69279037")):
        assert parse_seed(uri).at(moment) == code


def test_a_second_code_waits_for_the_next_step_also_after_a_restart(tmp_path: Path) -> None:
    clock = FixedClock(1_000_000_010.0)  # the next step begins at ...020
    first = Codes(tmp_path / "codes.json", clock).book(SEED)
    second = Codes(tmp_path / "codes.json", clock).book(SEED)
    third = Codes(tmp_path / "codes.json", clock).book(SEED)
    assert (first.wait, second.wait, third.wait) == (0.0, 10.0, 40.0)
    assert len({first.code, second.code, third.code}) == 3


def test_seeds_do_not_disturb_each_other_but_spellings_of_one_are_one(tmp_path: Path) -> None:
    codes = Codes(tmp_path / "codes.json", FixedClock())
    uri = b"otpauth://totp/acme:svc?issuer=acme&secret=" + SEED
    spelt = [SEED, uri, b" jbsw y3dp-ehpk 3pxp \n"]
    waits = [codes.book(seed).wait for seed in spelt]
    assert waits[0] == 0.0 < waits[1] < waits[2]
    assert codes.book(OTHER).wait == 0.0


def test_a_step_that_is_nearly_over_is_left_out(tmp_path: Path) -> None:
    assert Codes(tmp_path / "codes.json", FixedClock(1_000_000_019.5)).book(SEED).wait == pytest.approx(0.5)


def test_a_clock_that_is_set_back_uses_no_step_again(tmp_path: Path) -> None:
    clock = FixedClock()
    codes = Codes(tmp_path / "codes.json", clock)
    first = codes.book(SEED)
    clock.now -= 15.0
    assert codes.book(SEED).code != first.code


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"a": "x"}', "null"])
def test_a_damaged_file_is_no_reason_to_stay_away(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "codes.json").write_text(damaged)
    assert Codes(tmp_path / "codes.json", FixedClock()).book(SEED).wait == 0.0


def test_the_file_tells_nobody_the_seed(tmp_path: Path) -> None:
    Codes(tmp_path / "codes.json", FixedClock()).book(SEED)
    path = tmp_path / "codes.json"
    assert SEED.decode() not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"not base32 !",
        b"0189",
        b"otpauth://hotp/x?secret=JBSWY3DPEHPK3PXP&counter=1",
        b"otpauth://totp/x",
    ],
)
def test_what_is_no_seed(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"login\.totp is neither") as error:
        parse_seed(wrong)
    assert not wrong or wrong.decode() not in str(error.value)


@given(
    st.binary(max_size=60)
    | st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567= -", max_size=40).map(str.encode)
)
def test_any_seed_is_understood_or_refused(seed: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(parse_seed(seed).generate_otp(1)) == 6


def test_a_code_that_nobody_was_shown_is_free_for_the_next_login(tmp_path: Path) -> None:
    codes = Codes(tmp_path / "codes.json", FixedClock())
    first, second, third = (codes.book(SEED) for _ in range(3))
    codes.give_back(second)
    assert codes.book(SEED) == second
    codes.give_back(third)
    assert Codes(tmp_path / "codes.json", FixedClock()).book(SEED) == third, "also after a restart"
    assert len({first.code, second.code, third.code}) == 3


def test_a_code_that_is_given_back_too_late_is_not_used(tmp_path: Path) -> None:
    clock = FixedClock()
    codes = Codes(tmp_path / "codes.json", clock)
    first, _ = codes.book(SEED), codes.book(SEED)
    codes.give_back(first)
    clock.now += 60.0
    assert codes.book(SEED).step > first.step + 1


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ahead", [90.0, 300.0, 86400.0])
def test_a_clock_that_was_ahead_and_is_corrected_delays_nobody(
    tmp_path: Path, ahead: float, restarted: bool
) -> None:
    clock = FixedClock(1_000_000_010.0 + ahead)
    codes = Codes(tmp_path / "codes.json", clock)
    codes.book(SEED)
    clock.now = 1_000_000_020.0
    again = Codes(tmp_path / "codes.json", clock) if restarted else codes
    booking = again.book(SEED)
    assert (booking.wait, booking.code) == (0.0, parse_seed(SEED).at(int(clock.now)))
    assert again.book(SEED).wait == 30.0


def test_waiting_logins_are_no_sign_of_a_wrong_clock(tmp_path: Path) -> None:
    codes = Codes(tmp_path / "codes.json", FixedClock())
    steps = [codes.book(SEED).step for _ in range(MOST_AHEAD_STEPS)]
    assert steps == list(range(steps[0], steps[0] + MOST_AHEAD_STEPS))


def test_a_step_of_the_far_future_in_a_file_of_an_earlier_version_is_forgotten(tmp_path: Path) -> None:
    clock = FixedClock()
    codes = Codes(tmp_path / "codes.json", clock)
    name = codes.book(SEED).seed
    (tmp_path / "codes.json").write_text(f'{{"format": 1, "used": {{"{name}": 99999999}}}}')
    assert Codes(tmp_path / "codes.json", clock).book(SEED).wait == 0.0


class AskedSession:
    """One session that is asked for codes, and what came of it."""

    def __init__(self, codes: Codes, seed: bytes = SEED, ages: dict[str, float] | None = None) -> None:
        self.posted: list[Event] = []
        self.codes: list[str] = []
        self.questions = Questions(
            "acme",
            1,
            seed,
            codes,
            self.posted.append,
            lambda tunnel, session, code: self.codes.append(code),
            ages or {},
        )

    def ask(self) -> None:
        self.questions.ask(Question(Wanted.CODE, "code?"))

    async def gets(self, count: int) -> list[str]:
        async with asyncio.timeout(10.0):
            while len(self.codes) < count:
                await asyncio.sleep(0.01)
        return self.codes

    @property
    def waits(self) -> list[float]:
        return [event.seconds for event in self.posted if isinstance(event, Delayed)]

    @property
    def wait(self) -> float:
        (delayed,) = [event for event in self.posted if isinstance(event, Delayed)]
        return delayed.seconds


async def test_a_session_that_ends_before_its_turn_costs_no_code(tmp_path: Path) -> None:
    codes = Codes(tmp_path / "codes.json", FixedClock())
    first, second = AskedSession(codes), AskedSession(codes)
    for one in (first, second):
        one.questions.ask(Question(Wanted.CODE, "code?"))
    assert (first.wait, second.wait) == (0.0, 10.0)
    second.questions.close()
    third = AskedSession(codes)
    third.questions.ask(Question(Wanted.CODE, "code?"))
    assert third.wait == 10.0, "not 40"


async def test_a_code_that_waits_while_the_clock_is_set_back_is_replaced_by_the_right_one(
    tmp_path: Path,
) -> None:
    clock = FixedClock(1_000_000_319.9)  # five minutes ahead; the next step begins at once
    one = AskedSession(Codes(tmp_path / "codes.json", clock))
    one.questions.ask(Question(Wanted.CODE, "code?"))
    clock.now = 1_000_000_010.0
    async with asyncio.timeout(5.0):
        while not one.codes:
            await asyncio.sleep(0.01)
    assert one.codes == [parse_seed(SEED).at(int(clock.now))]


async def test_a_code_is_booked_before_a_renegotiation_and_another_login_waits_instead(
    tmp_path: Path,
) -> None:
    """Steps of two seconds; the key of the session is renegotiated a second after its last code."""
    seed = b"otpauth://totp/acme:svc?period=2&secret=" + SEED
    codes = Codes(tmp_path / "codes.json")
    one = AskedSession(codes, seed, {"acme": 1.0})
    one.ask()
    await one.gets(1)
    one.questions.accept()
    async with asyncio.timeout(5.0):
        while one.questions.booking is None:
            await asyncio.sleep(0.01)
    held = one.questions.booking
    other = AskedSession(codes, seed)
    other.ask()
    assert other.wait > held.wait
    one.questions.given = 0.0  # long ago: it is no refusal
    one.ask()
    assert await one.gets(2) == [one.codes[0], held.code]
    assert (await other.gets(1))[0] not in one.codes
    assert one.waits[1] <= held.wait
    for each in (one, other):
        each.questions.close()


async def test_a_code_that_was_booked_for_a_renegotiation_is_free_when_the_session_ends(
    tmp_path: Path,
) -> None:
    codes = Codes(tmp_path / "codes.json", FixedClock())
    one = AskedSession(codes, SEED, {"acme": 0.1})
    one.ask()
    await one.gets(1)
    async with asyncio.timeout(5.0):
        while one.questions.booking is None:
            await asyncio.sleep(0.001)
    held = one.questions.booking
    one.questions.close()
    assert codes.book(SEED) == held
