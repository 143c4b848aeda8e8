"""One-time codes (TOTP, RFC 6238): a time step is used once, and too many wrong codes lock for a while."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, replace
from enum import Enum, auto
from urllib.parse import parse_qs, urlsplit

_WINDOW_STEPS = 1  # a clock may be wrong by so many steps
_MIN_SEED_BYTES = 10  # RFC 4226 wants 16; many authenticators make seeds of 80 bits
MAX_WRONG_CODES = 5
LOCK_SECONDS = 15 * 60.0


@dataclass(frozen=True, slots=True)
class Seed:
    """What code and authenticator share."""

    secret: bytes
    digits: int = 6
    step_seconds: int = 30
    digest: str = "sha1"


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """What is remembered of a person's codes. `last_step`: the newest that was used."""

    person: str
    last_step: int = 0
    wrong: int = 0
    locked_until: float = 0.0


class CodeVerdict(Enum):
    """What a code is."""

    RIGHT = auto()
    WRONG = auto()
    USED = auto()  # right once, and not again
    LOCKED = auto()  # not looked at


def parse_seed(text: str) -> Seed:
    """The seed of base32 or an otpauth:// address; ValueError says what is wrong, without the seed."""
    text = text.strip()
    if not text.startswith("otpauth://"):
        return Seed(_secret(text))
    address = urlsplit(text)
    if address.netloc != "totp":
        raise ValueError("only otpauth://totp/ is known")
    found = {name: values[-1] for name, values in parse_qs(address.query).items()}
    digits, step = found.get("digits", "6"), found.get("period", "30")
    digest = found.get("algorithm", "SHA1").lower()
    if digits not in ("6", "7", "8") or not step.isdecimal() or not 10 <= int(step) <= 300:
        raise ValueError("digits must be 6 to 8, and period 10 to 300")
    if digest not in ("sha1", "sha256", "sha512"):
        raise ValueError("algorithm must be SHA1, SHA256 or SHA512")
    return Seed(_secret(found.get("secret", "")), int(digits), int(step), digest)


def _secret(text: str) -> bytes:
    plain = text.replace(" ", "").replace("-", "").upper().rstrip("=")
    try:
        secret = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("the seed is not base32") from None
    if len(secret) < _MIN_SEED_BYTES:
        raise ValueError(f"the seed has {len(secret) * 8} bits; at least {_MIN_SEED_BYTES * 8} are needed")
    return secret


def code_at(seed: Seed, step: int) -> str:
    """The code of a time step (RFC 4226 section 5.3)."""
    digest = hmac.digest(seed.secret, step.to_bytes(8), seed.digest)
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4]) & 0x7FFFFFFF
    return str(number % 10**seed.digits).zfill(seed.digits)


def judge(code: str, seed: Seed, record: CodeRecord, now: float) -> tuple[CodeVerdict, CodeRecord]:
    """The verdict, and what is remembered from now on."""
    if record.locked_until > now:
        return CodeVerdict.LOCKED, record
    typed = "".join(code.split())
    current = int(now // seed.step_seconds)
    steps = range(current - _WINDOW_STEPS, current + _WINDOW_STEPS + 1)
    matching = [step for step in steps if hmac.compare_digest(code_at(seed, step).encode(), typed.encode())]
    fresh = [step for step in matching if step > record.last_step]
    if fresh:
        return CodeVerdict.RIGHT, replace(record, last_step=max(fresh), wrong=0, locked_until=0.0)
    wrong = record.wrong + 1
    verdict = CodeVerdict.USED if matching else CodeVerdict.WRONG
    if wrong < MAX_WRONG_CODES:
        return verdict, replace(record, wrong=wrong)
    return verdict, replace(record, wrong=0, locked_until=now + LOCK_SECONDS)
