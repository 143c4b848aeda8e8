"""A webhook as a receiver of incidents: the same content as for PagerDuty, as JSON, posted to an address of
your own; plain, or in the form of `reports.paging.webhook_formats`.

An event is sent until any 2xx status accepts it (at-least-once delivery); duplicates have the same `id`.
Events about one incident arrive in order. The address usually contains a token: it is a secret, and neither
logged nor stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from supervisor.core.alerting.verdict import Alert
from supervisor.core.humanize import iso
from supervisor.reports.paging.incident import Action, SendOutcome, SendResult, dedup_key
from supervisor.reports.paging.routing import PagingConfig, location_of
from supervisor.reports.paging.webhook_formats import shaped

if TYPE_CHECKING:
    from supervisor.reports.paging.http import Sender

FILE = "webhook.db"


class Webhook:
    """The `IncidentNotifier`; its secret is the address."""

    name = "webhook"
    file = FILE

    @cached_property
    def _sender(self) -> Sender:
        from supervisor.reports.paging.http import Sender

        return Sender()

    def open(self) -> None:
        """Load the HTTP client."""
        _ = self._sender

    def location(self, paging: PagingConfig, tunnel: str) -> str | None:
        """Where the address is stored: the same for every tunnel."""
        return None if paging.webhook is None else location_of(paging.webhook)

    def required(self, paging: PagingConfig) -> bool:
        """A webhook is optional."""
        return False

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        """The body of the event that opens an incident."""
        return _event(
            Action.TRIGGER.value,
            dedup_key(facilitator, alert.tunnel),
            facilitator=facilitator,
            subject=alert.tunnel,
            tunnels=list(alert.members),
            severity=alert.severity,
            summary=alert.summary,
            reason=alert.reason,
            since=iso(since),
            details=dict(alert.details),
            last_lines=list(lines),
        )

    def resolve(self, dedup_key: str, since: float, at: float) -> str:
        """The body of the event that closes it."""
        return _event(Action.RESOLVE.value, dedup_key, since=iso(since), at=iso(at))

    def change(self, facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
        """The body of a change event: something was done on purpose."""
        return _event(
            "change", None, facilitator=facilitator, summary=summary, at=iso(at), details=dict(details)
        )

    def send(self, paging: PagingConfig, key: str, body: str) -> SendResult:
        """See `reports.paging.http.Sender.post_webhook`. The format is that of the present configuration,
        also for an event that was stored under another one.
        """
        event = json.loads(body)
        document = shaped(event, paging.webhook_format, paging.facilitator, paging.page_of(""))
        if document is None:
            return SendResult(SendOutcome.ACCEPTED, "not sent: this format has no change events")
        return self._sender.post_webhook(key, document)

    def close(self) -> None:
        """Close connections."""
        if "_sender" in vars(self):
            self._sender.close()


def _event(action: str, key: str | None, **fields: Any) -> str:
    body = {"version": 1, "action": action, "dedup_key": key, **fields}
    return json.dumps({"id": sha256(json.dumps(body).encode()).hexdigest()[:32], **body})
