"""Numbers, moments and client exits as text, the same in `status`, `why`, the status page and alerts."""

from __future__ import annotations

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """A duration in two units at most, such as `3 h 20 min`; a negative one counts as 0."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min {whole % 60} s"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{days} d {hours % 24} h"


def byte_size(count: int) -> str:
    """Bytes in a decimal unit, such as `4.2 MB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def exit_text(code: int | None, signal: int | None, said: str | None = None) -> str:
    """How a client ended: by its exit code or the signal that killed it (wait(2)); None, None: not known.
    `said`: its last own line, which is the best explanation there is.
    """
    if signal is not None:
        how = f"client ended by signal {signal}"
    elif code is None:
        how = "client ended, and nobody saw how"
    else:
        how = f"client exited with code {code}"
    return how if said is None or signal is not None else f"{how}; its last line: {said}"


def iso(moment: float) -> str:
    """Unix time as ISO 8601 in UTC, to the second, such as `2026-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
