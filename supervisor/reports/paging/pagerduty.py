"""PagerDuty as a receiver of incidents (`reports.paging.pager`), through its Events API v2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from supervisor.core.alerting.verdict import Alert
from supervisor.reports.paging import events_v2
from supervisor.reports.paging.incident import SendResult
from supervisor.reports.paging.routing import Paging
from supervisor.reports.paging.store import FILE

if TYPE_CHECKING:
    from supervisor.reports.paging.http import Sender


class PagerDuty:
    """The `Receiver`; it goes through the routing key of the tunnel, or else of the facilitator."""

    name = "pagerduty"
    file = FILE

    _sender: Sender

    def open(self) -> None:
        """Make ready to send."""
        from supervisor.reports.paging.http import Sender

        self._sender = Sender()

    def location(self, paging: Paging, tunnel: str) -> str | None:
        """Where the routing key lies."""
        return paging.location(tunnel)

    def wanted(self, paging: Paging) -> bool:
        """Somebody should be called, be it by PagerDuty or otherwise."""
        return paging.webhook is None

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        """See `events_v2.trigger`."""
        return events_v2.trigger(facilitator, alert, since, lines)

    def resolve(self, dedup_key: str, at: float) -> str:
        """See `events_v2.resolve`."""
        return events_v2.resolve(dedup_key)

    def change(self, facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
        """See `events_v2.change`."""
        return events_v2.change(facilitator, summary, details, at)

    def send(self, paging: Paging, key: str, body: str) -> SendResult:
        """See `posting.Sender.send`."""
        return self._sender.send(paging.url, key, body)

    def close(self) -> None:
        """Let go of connections."""
        self._sender.close()
