"""PagerDuty's Events API v2: what is said (bodies without the routing key). `reports.paging.http` sends it.

The bodies of resolves are minimal on purpose: an optional field that is refused must not keep an incident
open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.core.alerting.verdict import Alert
from supervisor.core.humanize import iso
from supervisor.reports.paging.incident import Action, dedup_key

SUMMARY = 1024  # characters, PagerDuty's limit
BODY = 400_000  # bytes; PagerDuty's limit is 512 kB
LINES = 200_000  # bytes of the client's last words in it


def trigger(facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
    """The body that opens the incident. `since` is Unix time; `lines` are the client's last ones."""
    details: dict[str, Any] = {**alert.details, "last_lines": _newest(lines)}
    body = _trigger(facilitator, alert, since, details)
    if len(body.encode()) > BODY:
        body = _trigger(facilitator, alert, since, {"note": "left out, too long", "tunnel": alert.tunnel})
    return body


def resolve(key: str) -> str:
    """The body that closes it."""
    return json.dumps({"event_action": Action.RESOLVE.value, "dedup_key": key})


def _trigger(facilitator: str, alert: Alert, since: float, details: dict[str, Any]) -> str:
    return json.dumps(
        {
            "event_action": Action.TRIGGER.value,
            "dedup_key": dedup_key(facilitator, alert.tunnel),
            "client": "facilitator",
            "payload": {
                "summary": _short(alert.summary),
                "source": facilitator,
                "severity": alert.severity,
                "timestamp": iso(since),
                "component": alert.tunnel,
                "group": facilitator,
                "class": alert.reason or "down",
                "custom_details": details,
            },
        }
    )


def _newest(lines: Sequence[str]) -> list[str]:
    """As many of the newest lines as fit."""
    kept: list[str] = []
    room = LINES
    for line in reversed(lines):
        room -= len(json.dumps(line)) + 2
        if room < 0:
            break
        kept.append(line)
    return kept[::-1]


def change(facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
    """The body of a change event. `at` is Unix time."""
    return json.dumps(
        {
            "payload": {
                "summary": _short(summary),
                "source": facilitator,
                "timestamp": iso(at),
                "custom_details": dict(details),
            }
        }
    )


def _short(summary: str) -> str:
    return summary if len(summary) <= SUMMARY else summary[: SUMMARY - 1] + "…"
