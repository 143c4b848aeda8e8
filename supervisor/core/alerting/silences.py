"""Silences: for a while nobody is paged about a tunnel, or about anything (`facilitator silence`). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.conditions import Condition
from supervisor.core.humanize import iso

MAX_SECONDS = 30 * 86400.0  # a longer silence is `alert: {enabled: false}`


@dataclass(frozen=True, slots=True)
class Silence:
    """Moments are Unix time."""

    tunnel: str  # empty: everything
    since: float
    until: float
    by: str  # the user who asked for it
    reason: str = ""


def active(silences: Collection[Silence], now: float) -> tuple[Silence, ...]:
    """Those that hold now."""
    return tuple(each for each in silences if each.since <= now < each.until)


def quiet(alerts: Mapping[str, Alert], silences: Collection[Silence]) -> Mapping[str, Alert]:
    """The alerts as receivers get them while these silences hold: no new incident is opened. What is open
    stays open until it is over, and what still stands at the end of the silence is sent then.
    """
    names = {each.tunnel for each in silences}
    if not names:
        return alerts
    return {name: _held(alert) if _covered(alert, names) else alert for name, alert in alerts.items()}


def _covered(alert: Alert, names: Collection[str]) -> bool:
    about = alert.members or (alert.tunnel,)
    return "" in names or all(each in names for each in about)


def _held(alert: Alert) -> Alert:
    return replace(alert, verdict=Verdict.HOLD) if alert.verdict is Verdict.FIRING else alert


def conditions(silences: Collection[Silence]) -> dict[str, Condition]:
    """What people see of these silences in status, page and log."""
    return {
        _name(each): Condition(_text(each), "info", "facilitator silence", pages=False) for each in silences
    }


def _name(silence: Silence) -> str:
    return f"silenced:{silence.tunnel}" if silence.tunnel else "silenced"


def _text(silence: Silence) -> str:
    what = f"about {silence.tunnel}" if silence.tunnel else "about anything"
    why = f": {silence.reason}" if silence.reason else ""
    return f"nobody is paged {what} until {iso(silence.until)} ({silence.by}{why})"
