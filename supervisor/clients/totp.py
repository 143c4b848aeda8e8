"""One-time codes from a seed (TOTP, RFC 6238): each time step is used once per seed, over all tunnels and
over restarts of the daemon.

Most servers refuse a code that they have seen, and count it as a failed login. So a used step is recorded on
disk before the code is given out, under a checksum of the seed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from supervisor import disk
from supervisor.core.formats import opened

if TYPE_CHECKING:
    import pyotp

FORMAT = 2  # of the file; 0 was the mapping of used steps alone, 1 had no `now`
_MIN_SEED_BYTES = 14
MIN_LEFT_SECONDS = 1.0  # of a time step, or the code could arrive too late
SET_BACK_SECONDS = 1.0  # by which the clock is earlier than at the last booking, once it was set back
MOST_AHEAD_STEPS = 20  # that waiting logins book; a used step further in the future is that of a wrong clock


@dataclass(frozen=True, slots=True)
class Booking:
    """A code that is used for nobody else, and the seconds until its time step begins."""

    code: str = field(repr=False)
    wait: float
    seed: str  # the checksum of its seed
    step: int  # its time step
    ends: float  # Unix time at which that ends
    interval: int  # seconds of a time step


@dataclass(slots=True)
class _Used:
    """What the file records, by checksums of seeds, and what is free again."""

    steps: dict[str, int] = field(default_factory=dict)  # the last used one
    now: float = 0.0  # Unix time of the last booking
    free: dict[str, set[int]] = field(default_factory=dict)  # before the last used one: given back


class Codes:
    """Gives out codes. Use from one thread only."""

    def __init__(self, used: Path, clock: Callable[[], float] = time.time) -> None:
        """`used`: the file that records used steps; `clock` returns Unix time."""
        self._path, self._clock = used, clock
        self._used: _Used | None = None

    def book(self, seed: bytes) -> Booking:
        """The next unused code of the seed. ValueError: the seed is malformed; OSError: its use cannot be
        recorded.
        """
        totp = parse_seed(seed)
        name, now = _checksum(totp), self._clock()
        used, first = self._read(), int((now + MIN_LEFT_SECONDS) / totp.interval)
        last = _of_right_clock(used.steps.get(name, 0), used.now, first, now)
        free = {each for each in used.free.get(name, ()) if first <= each < last}
        step = min(free, default=max(first, last + 1))
        used.free[name] = free - {step}
        used.steps[name], used.now = max(step, last), now
        self._write(used)
        wait, ends = max(0.0, step * totp.interval - now), (step + 1) * float(totp.interval)
        return Booking(totp.generate_otp(step), wait, name, step, ends, totp.interval)

    def give_back(self, booking: Booking) -> None:
        """The code was shown to nobody: the next login may have it. OSError: that cannot be recorded."""
        used = self._read()
        if used.steps.get(booking.seed) != booking.step:
            used.free.setdefault(booking.seed, set()).add(booking.step)
            return
        used.steps[booking.seed] = booking.step - 1
        self._write(used)

    def wait(self, booking: Booking) -> float | None:
        """Seconds until its time step begins. None: servers do not take it any more (after one more step, RFC
        6238, section 5.2), or the clock was set since it was booked.
        """
        begins_in = booking.ends - booking.interval - self._clock()
        if -2 * booking.interval <= begins_in <= booking.wait + SET_BACK_SECONDS:
            return max(0.0, begins_in)
        return None

    def _read(self) -> _Used:
        if self._used is None:
            try:
                format, raw = opened(disk.read(self._path), FORMAT)
                steps = raw["used"] if format else raw
                now = float(raw["now"]) if format == FORMAT else 0.0
                self._used = _Used({str(name): int(step) for name, step in steps.items()}, now)
            except (
                OSError,
                KeyError,
                ValueError,
                AttributeError,
                TypeError,
            ):  # missing or damaged: the worst case is one refused code
                self._used = _Used()
        return self._used

    def _write(self, used: _Used) -> None:
        disk.replace(self._path, json.dumps({"format": FORMAT, "used": used.steps, "now": used.now}).encode())


def _checksum(totp: pyotp.TOTP) -> str:
    return hashlib.sha256(b"facilitator totp " + totp.secret.encode()).hexdigest()[:32]


def _of_right_clock(last: int, booked: float, first: int, now: float) -> int:
    """The last used step, unless it lies in the future because the clock was ahead when it was booked."""
    ahead = last - first
    wrong = ahead > MOST_AHEAD_STEPS or (ahead > 1 and now < booked - SET_BACK_SECONDS)
    return 0 if wrong else last


def parse_seed(seed: bytes) -> pyotp.TOTP:
    """The generator for a base32 seed or an otpauth:// address. ValueError: the seed is malformed; the text
    never repeats it.
    """
    import pyotp  # only a tunnel with one-time codes needs it

    text = seed.decode("ascii", "replace").strip()
    try:
        given = _from_address(text) if text.startswith("otpauth://") else pyotp.TOTP(_long_enough(text))
    except (ValueError, binascii.Error):
        given = None
    if given is None:
        raise ValueError("login.totp is neither a base32 seed nor an otpauth://totp/ address")
    return given


def _from_address(address: str) -> pyotp.TOTP | None:
    import pyotp

    parts = urlsplit(address)
    fields = {
        name: _long_enough(value) if name == "secret" else value for name, value in parse_qsl(parts.query)
    }
    parsed = pyotp.parse_uri(urlunsplit(parts._replace(query=urlencode(fields))))
    return parsed if isinstance(parsed, pyotp.TOTP) else None


def _long_enough(seed: str) -> str:
    """Servers still use seeds of 80 bits, and pyotp wants 112: trailing zero bytes change no code, because
    HMAC pads with them (RFC 2104).
    """
    plain = "".join(seed.split()).replace("-", "").rstrip("=").upper()
    key = base64.b32decode(plain + "=" * (-len(plain) % 8))
    if not key:
        raise ValueError("empty")
    return base64.b32encode(key.ljust(_MIN_SEED_BYTES, b"\0")).decode()
