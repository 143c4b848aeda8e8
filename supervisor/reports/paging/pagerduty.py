"""PagerDuty as a receiver of incidents, through its Events API v2: the bodies (without the routing key) and
the `IncidentNotifier`. `reports.paging.http` sends them.

https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ and .../send-change-events/. A resolve has
the required fields only: an optional field that is refused must not keep an incident open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from supervisor.core.alerting.verdict import Alert
from supervisor.core.humanize import iso
from supervisor.reports.paging.incident import Action, SendResult, dedup_key
from supervisor.reports.paging.routing import PagingConfig
from supervisor.reports.paging.store import FILE

if TYPE_CHECKING:
    from supervisor.reports.paging.http import Sender

MAX_SUMMARY_CHARS = 1024  # PagerDuty's limit for the field `summary`
MAX_BODY_BYTES = 400_000  # PagerDuty's limit is 512 kB
MAX_LINES_BYTES = 200_000  # of these, for the client's last lines


class PagerDuty:
    """The `IncidentNotifier`. It sends through the routing key of the tunnel, or else of the facilitator."""

    name = "pagerduty"
    file = FILE

    @cached_property
    def _sender(self) -> Sender:
        from supervisor.reports.paging.http import Sender

        return Sender()

    def open(self) -> None:
        """Load the HTTP client."""
        _ = self._sender

    def location(self, paging: PagingConfig, tunnel: str) -> str | None:
        """Where the routing key is stored."""
        return paging.location(tunnel)

    def required(self, paging: PagingConfig) -> bool:
        """Without a webhook PagerDuty is the only way to page anybody."""
        return paging.webhook is None

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        """The body that opens the incident. `since` is Unix time; `lines` are the client's last ones."""
        details: dict[str, Any] = {**alert.details, "last_lines": _newest(lines)}
        body = _trigger(facilitator, alert, since, details)
        if len(body.encode()) > MAX_BODY_BYTES:
            body = _trigger(facilitator, alert, since, {"note": "left out, too long", "tunnel": alert.tunnel})
        return body

    def resolve(self, dedup_key: str, since: float, at: float) -> str:
        """The body that closes it."""
        return json.dumps({"event_action": Action.RESOLVE.value, "dedup_key": dedup_key})

    def change(self, facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
        """The body of a change event. `at` is Unix time."""
        payload = {
            "summary": _shortened(summary),
            "source": facilitator,
            "timestamp": iso(at),
            "custom_details": dict(details),
        }
        return json.dumps({"payload": payload})

    def send(self, paging: PagingConfig, key: str, body: str) -> SendResult:
        """See `reports.paging.http.Sender.send_event`."""
        return self._sender.send_event(paging.url, key, body)

    def close(self) -> None:
        """Close connections."""
        if "_sender" in vars(self):
            self._sender.close()


def _trigger(facilitator: str, alert: Alert, since: float, details: dict[str, Any]) -> str:
    payload = {
        "summary": _shortened(alert.summary),
        "source": facilitator,
        "severity": alert.severity,
        "timestamp": iso(since),
        "component": alert.tunnel,
        "group": facilitator,
        "class": alert.reason or "down",
        "custom_details": details,
    }
    page = alert.details.get("runbook_url", "")
    status = alert.details.get("status_page", "")
    links = [{"href": page, "text": f"What {alert.reason} means, and what to do first"}]
    return json.dumps(
        {
            "event_action": Action.TRIGGER.value,
            "dedup_key": dedup_key(facilitator, alert.tunnel),
            "client": "facilitator",
            **({"client_url": status} if status else {}),
            "payload": payload,
            **({"links": links} if page.startswith("http") else {}),
        }
    )


def _newest(lines: Sequence[str]) -> list[str]:
    """As many of the newest lines as fit, oldest first."""
    kept: list[str] = []
    room = MAX_LINES_BYTES
    for line in reversed(lines):
        room -= len(json.dumps(line)) + 2
        if room < 0:
            break
        kept.append(line)
    return kept[::-1]


def _shortened(summary: str) -> str:
    return summary if len(summary) <= MAX_SUMMARY_CHARS else summary[: MAX_SUMMARY_CHARS - 1] + "…"
