"""One-time codes: each step once, whoever asks and whatever ends in between."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.clients.totp import Codes, parse_seed

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
