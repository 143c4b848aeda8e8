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
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyotp

from supervisor import disk
from supervisor.core.formats import opened

FORMAT = 1  # of the file; 0 was the mapping alone
_MIN_SEED_BYTES = 14
MIN_LEFT_SECONDS = 1.0  # of a time step, or the code could arrive too late


@dataclass(frozen=True, slots=True)
class Booking:
    """A code that is used for nobody else, and the seconds until its time step begins."""

    code: str = field(repr=False)
    wait: float


class Codes:
    """Gives out codes. Use from one thread only."""

    def __init__(self, used: Path, clock: Callable[[], float] = time.time) -> None:
        """`used`: the file that records used steps; `clock` returns Unix time."""
        self._path, self._clock = used, clock
        self._used: dict[str, int] | None = None

    def book(self, seed: bytes) -> Booking:
        """The next unused code of the seed. ValueError: the seed is malformed; OSError: its use cannot be
        recorded.
        """
        totp = parse_seed(seed)
        used = self._read()
        name, now = (
            hashlib.sha256(b"facilitator totp " + totp.secret.encode()).hexdigest()[:32],
            self._clock(),
        )
        step = max(int((now + MIN_LEFT_SECONDS) / totp.interval), used.get(name, 0) + 1)
        used[name] = step
        self._write(used)
        return Booking(totp.generate_otp(step), max(0.0, step * totp.interval - now))

    def _read(self) -> dict[str, int]:
        if self._used is None:
            try:
                format, used = opened(disk.read(self._path), FORMAT)
                self._used = {
                    str(name): int(step) for name, step in (used["used"] if format else used).items()
                }
            except (
                OSError,
                KeyError,
                ValueError,
                AttributeError,
                TypeError,
            ):  # missing or damaged: the worst case is one refused code
                self._used = {}
        return self._used

    def _write(self, used: dict[str, int]) -> None:
        disk.replace(self._path, json.dumps({"format": FORMAT, "used": used}).encode())


def parse_seed(seed: bytes) -> pyotp.TOTP:
    """The generator for a base32 seed or an otpauth:// address. ValueError: the seed is malformed; the text
    never repeats it.
    """
    text = seed.decode("ascii", "replace").strip()
    try:
        given = _from_address(text) if text.startswith("otpauth://") else pyotp.TOTP(_long_enough(text))
    except (ValueError, binascii.Error):
        given = None
    if given is None:
        raise ValueError("login.totp is neither a base32 seed nor an otpauth://totp/ address")
    return given


def _from_address(address: str) -> pyotp.TOTP | None:
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
