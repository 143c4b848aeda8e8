"""Durations and shares, as a configuration writes them: `5s`, `20%`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from common.constraints import CheckedBy, ReadBy

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_DURATION_TYPO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]*)", re.ASCII)
_UNIT_TYPOS = {
    "": "s",
    "msec": "ms",
    "msecs": "ms",
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "min": "m",
    "mins": "m",
    "minute": "m",
    "minutes": "m",
    "hr": "h",
    "hrs": "h",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
}
_MIN_PAUSE_SECONDS = 0.01  # a shorter pause is a busy loop
_MAX_SECONDS = 10 * 365 * 86400.0  # a longer duration is a typo, and overflows timers


def parse_duration(value: Any) -> float:
    """Seconds of `250ms`, `5s`, `2m`, `4h` or `1d`; ValueError says what a duration looks like."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration; write a number with a unit, such as 250ms, 5s, 2m, 4h or "
            f"1d{_suggestion(value)}"
        )
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _MAX_SECONDS:
        raise ValueError(f"{value!r} is longer than ten years")
    return seconds


def duration_text(seconds: float) -> str:
    """As a configuration writes it, in the largest unit that needs no fraction."""
    fitting = [unit for unit, length in _UNITS.items() if seconds and (seconds / length).is_integer()]
    unit = fitting[-1] if fitting else "s"
    return f"{seconds / _UNITS[unit]:.10g}{unit}"


def _suggestion(value: Any) -> str:
    match = _DURATION_TYPO.fullmatch(str(value).strip().lower())
    if match is None:
        return ""
    unit = _UNIT_TYPOS.get(match[2], match[2])
    return f" (probably {match[1]}{unit})" if unit in _UNITS else ""


def _checked_pause(seconds: float) -> float:
    if seconds < _MIN_PAUSE_SECONDS:
        raise ValueError("must be at least 10ms: anything shorter is a busy loop")
    return seconds


_DURATION_READ = ReadBy(
    parse_duration,
    {"type": "string", "pattern": r"^\d{1,9}(\.\d{1,9})?(ms|s|m|h|d)$", "examples": ["5s", "2m", "4h"]},
    duration_text,
)
Seconds = Annotated[float, _DURATION_READ]
Pause = Annotated[float, _DURATION_READ, CheckedBy(_checked_pause)]

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%", re.ASCII)


def parse_share(value: Any) -> float:
    """`20%` -> 0.2; ValueError says what a share looks like."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0.0 < float(match[1]) <= 100.0:
        raise ValueError(f"{value!r} is not a share; write it as 20%, more than 0% and at most 100%")
    return float(match[1]) / 100.0


def share_text(share: float) -> str:
    """As a configuration writes it."""
    return f"{share * 100:.10g}%"


Share = Annotated[
    float,
    ReadBy(
        parse_share,
        {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3})? ?%$", "examples": ["20%"]},
        share_text,
    ),
]
