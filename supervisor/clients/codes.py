"""One-time codes from a seed (TOTP, RFC 6238): each time step is used once per seed, over all tunnels and over restarts of the daemon.

Most servers refuse a code that they have seen, and count that as a failed login. So a step that is used is written down before the code is
given out, under a checksum of the seed.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyotp

LEFT = 1.0      # seconds that a step must still have, or the code could be late at the far side


@dataclass(frozen=True, slots=True)
class Booking:
    """A code that is nobody else's, and the seconds until its time step begins."""

    code: str = field(repr=False)
    wait: float


class Codes:
    """Gives out codes. From one thread."""

    def __init__(self, used: Path, clock: Callable[[], float] = time.time) -> None:
        """`used`: the file in which used steps are written down; `clock` gives Unix time."""
        self._path, self._clock = used, clock
        self._used: dict[str, int] | None = None

    def book(self, seed: bytes) -> Booking:
        """The next code of the seed that was not used yet. ValueError: it is no seed; OSError: its use cannot be written down."""
        totp = parse_seed(seed)
        used = self._read()
        name, now = hashlib.sha256(b"facilitator totp " + totp.secret.encode()).hexdigest()[:32], self._clock()
        step = max(int((now + LEFT) / totp.interval), used.get(name, 0) + 1)
        used[name] = step
        self._write(used)
        return Booking(totp.generate_otp(step), max(0.0, step * totp.interval - now))

    def _read(self) -> dict[str, int]:
        if self._used is None:
            try:
                self._used = {str(name): int(step) for name, step in json.loads(self._path.read_text()).items()}
            except (OSError, ValueError, AttributeError, TypeError):       # not there, or damaged: the worst is one refused code
                self._used = {}
        return self._used

    def _write(self, used: dict[str, int]) -> None:
        fresh = self._path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(used, file)
        fresh.replace(self._path)


def parse_seed(seed: bytes) -> pyotp.TOTP:
    """The generator behind a base32 seed or an otpauth:// address. ValueError says what is wrong, and never repeats the seed."""
    text = seed.decode("ascii", "replace").strip()
    try:
        if text.startswith("otpauth://"):
            parsed = pyotp.parse_uri(text)
            totp = parsed if isinstance(parsed, pyotp.TOTP) else None
        else:
            totp = pyotp.TOTP("".join(text.split()).replace("-", "").upper())
        if totp is not None:
            totp.generate_otp(0)
    except (ValueError, binascii.Error):
        totp = None
    if totp is None or not totp.secret:
        raise ValueError("login.totp is neither a base32 seed nor an otpauth://totp/ address")
    return totp
