"""A webhook as a receiver of incidents (`reports.paging.pager`): the same that PagerDuty is told, as plain
JSON to an address of your own.

An event is sent until any 2xx status says that it was taken, so it may arrive twice; both have the same `id`.
Events about one incident arrive in order. The address usually holds a token: it is a secret, and neither
logged nor stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from supervisor.core.alerting.verdict import Alert
from supervisor.core.humanize import iso
from supervisor.reports.paging.incident import Action, SendResult, dedup_key
from supervisor.reports.paging.routing import Paging, place

if TYPE_CHECKING:
    from supervisor.reports.paging.http import Sender

FILE = "webhook.db"


class Webhook:
    """The `Receiver`; what it goes through is the address."""

    name = "webhook"
    file = FILE

    _sender: Sender

    def open(self) -> None:
        """Make ready to send."""
        from supervisor.reports.paging.http import Sender

        self._sender = Sender()

    def location(self, paging: Paging, tunnel: str) -> str | None:
        """Where the address lies: the same for every tunnel."""
        return None if paging.webhook is None else place(paging.webhook)

    def wanted(self, paging: Paging) -> bool:
        """Nobody needs to have one."""
        return False

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        """What opens an incident."""
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

    def resolve(self, dedup_key: str, at: float) -> str:
        """What closes it."""
        return _event(Action.RESOLVE.value, dedup_key, at=iso(at))

    def change(self, facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
        """Something that was done on purpose."""
        return _event(
            "change", None, facilitator=facilitator, summary=summary, at=iso(at), details=dict(details)
        )

    def send(self, paging: Paging, key: str, body: str) -> SendResult:
        """See `posting.Sender.tell`."""
        return self._sender.tell(key, body)

    def close(self) -> None:
        """Let go of connections."""
        self._sender.close()


def _event(action: str, key: str | None, **fields: Any) -> str:
    body = {"version": 1, "action": action, "dedup_key": key, **fields}
    return json.dumps({"id": sha256(json.dumps(body).encode()).hexdigest()[:32], **body})
