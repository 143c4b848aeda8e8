"""All receivers of incidents as one Alerter, and what `facilitator alerts` shows of them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from supervisor.core.alerting.verdict import Alert
from supervisor.core.humanize import iso
from supervisor.core.views.documents import ReceiverEntry, ReceiverIncidentEntry
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import Incident, SendResult
from supervisor.reports.paging.outbox import OutboxStatus, left_open
from supervisor.reports.paging.pager import Pager
from supervisor.reports.paging.pagerduty import PagerDuty
from supervisor.reports.paging.receiver import Hooks
from supervisor.reports.paging.routing import Paging
from supervisor.reports.paging.store import FILE, Store
from supervisor.reports.paging.webhook import FILE as WEBHOOK_FILE
from supervisor.reports.paging.webhook import Webhook


class Pagers:
    """PagerDuty and the webhook, each with its own store and thread: one that cannot be reached does not
    hold up the other.
    """

    def __init__(self, state_dir: Path, paging: Paging, hooks: Hooks, secrets: Secrets) -> None:
        self._state_dir = state_dir
        self._paging = paging
        self._pagerduty = Pager(PagerDuty(), state_dir, paging, hooks, secrets)
        self._webhook = Pager(
            Webhook(), state_dir, paging, Hooks(hooks.read_secret, hooks.last_lines), secrets
        )
        self._all = (self._pagerduty, self._webhook)

    def left_open(self) -> frozenset[str]:
        """The names of the incidents that an earlier run left open; not for the event loop's thread, and
        before `start`.
        """
        stores = (
            Store(self._state_dir, file=file)
            for file in (FILE, WEBHOOK_FILE)
            if (self._state_dir / file).exists()
        )
        return frozenset[str]().union(*(left_open(store) for store in stores))

    def start(self) -> None:
        """Send what an earlier run left, then what `set` brings."""
        for pager in self._all:
            pager.start()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Tell each of them."""
        for pager in self._all:
            pager.set(alerts)

    def route(self, paging: Paging) -> None:
        """Take over a reloaded configuration."""
        self._paging = paging
        for pager in self._all:
            pager.route(paging)

    def change(self, summary: str, details: Mapping[str, str]) -> None:
        """Tell each of them that something was done on purpose; nobody is called."""
        for pager in self._all:
            pager.change(summary, details)

    def close(self) -> None:
        """Stop; nothing is lost."""
        for pager in self._all:
            pager.close()

    @property
    def status(self) -> OutboxStatus:
        """Of PagerDuty."""
        return self._pagerduty.status

    @property
    def receivers(self) -> list[ReceiverEntry]:
        """What `facilitator alerts` shows of them: those that are configured, or still have an incident."""
        paging = self._paging
        configured = (paging.routing_key is not None or bool(paging.tunnels), paging.webhook is not None)
        pairs = zip(configured, self._all, strict=True)
        return [_receiver(pager, known) for known, pager in pairs if known or pager.status.incidents]

    def test(self) -> dict[str, Future[tuple[SendResult, SendResult]]]:
        """Open and resolve an incident of its own at each receiver that is configured; what each answers,
        by its name.
        """
        paging = self._paging
        wanted = [
            *([self._pagerduty] if paging.routing_key is not None else []),
            *([self._webhook] if paging.webhook is not None else []),
        ]
        return {pager.name: pager.test() for pager in wanted}


def _receiver(pager: Pager, configured: bool) -> ReceiverEntry:
    status = pager.status
    return {
        "name": pager.name,
        "configured": configured,
        "store_usable": status.usable,
        "pending": status.pending,
        "oldest": None if status.oldest is None else iso(status.oldest),
        "last_error": status.last_error or None,
        "incidents": [
            _incident(incident) for incident in sorted(status.incidents, key=lambda each: each.since)
        ],
        "refused": [
            {"at": iso(each.at), "dedup_key": each.dedup_key, "action": each.action, "error": each.error}
            for each in status.letters
        ],
    }


def _incident(it: Incident) -> ReceiverIncidentEntry:
    message = it.message
    return {
        "name": it.tunnel,
        "dedup_key": it.dedup_key,
        "since": iso(it.since),
        "wanted": "open" if it.wanted else "closed",
        "there": it.there.value,
        "waits": None
        if message is None
        else {"action": message.action.value, "attempts": message.attempts, "error": message.error},
    }
