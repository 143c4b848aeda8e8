"""What a client sends in OpenVPN's password field, and in answers to challenges (management-notes.txt)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

_MAX_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Typed:
    """A code, and the state of the challenge that it answers. Never logged."""

    code: str
    state: str | None = None


def from_password(password: str) -> Typed | None:
    """The code in the password field; None: there is none. `CRV1::STATE::CODE` answers a challenge,
    `SCRV1:BASE64:BASE64` a static one, anything else that looks like a code is one.
    """
    if len(password) > _MAX_CHARS:
        return None
    if password.startswith("CRV1::"):
        state, separator, code = password.removeprefix("CRV1::").partition("::")
        return Typed(code, state) if separator and state else None
    if password.startswith("SCRV1:"):
        parts = password.split(":")
        answer = decoded(parts[2]) if len(parts) == 3 else None
        return Typed(answer) if answer else None
    plain = password.strip()
    return Typed(plain) if 6 <= len(plain) <= 8 and plain.isascii() and plain.isdecimal() else None


def decoded(text: str) -> str | None:
    """The text that OpenVPN has encoded in base64; None: it is not."""
    try:
        return base64.b64decode(text, validate=True).decode() if len(text) <= _MAX_CHARS else None
    except (binascii.Error, ValueError):
        return None
