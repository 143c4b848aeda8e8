"""All receivers of incidents as one `Alerter`, and the document of `facilitator alerts`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from supervisor.core.alerting.verdict import Alert
from supervisor.core.humanize import iso
from supervisor.core.views.documents import ReceiverEntry, ReceiverIncidentEntry, WaitingMessageEntry
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import Incident
from supervisor.reports.paging.notifier import PagerHooks
from supervisor.reports.paging.outbox import OutboxStatus, open_incidents
from supervisor.reports.paging.pager import Pager, TestResults
from supervisor.reports.paging.pagerduty import PagerDuty
from supervisor.reports.paging.routing import PagingConfig
from supervisor.reports.paging.store import FILE, Store
from supervisor.reports.paging.webhook import FILE as WEBHOOK_FILE
from supervisor.reports.paging.webhook import Webhook


class Pagers:
    """PagerDuty and the webhook, each with its own store and thread: one that is unreachable does not delay
    the other. Thread-safe.
    """

    def __init__(self, state_dir: Path, paging: PagingConfig, hooks: PagerHooks, secrets: Secrets) -> None:
        self._state_dir = state_dir
        self._paging = paging
        self._pagerduty = Pager(PagerDuty(), state_dir, paging, hooks, secrets)
        self._webhook = Pager(
            Webhook(), state_dir, paging, PagerHooks(hooks.read_secret, hooks.last_lines), secrets
        )
        self._all = (self._pagerduty, self._webhook)

    def open_incidents(self) -> frozenset[str]:
        """The names of the incidents that an earlier run left open. Reads the disk; to be called before
        `start`, not in the event loop's thread.
        """
        stores = (
            Store(self._state_dir, file=file)
            for file in (FILE, WEBHOOK_FILE)
            if (self._state_dir / file).exists()
        )
        return frozenset[str]().union(*(open_incidents(store) for store in stores))

    def start(self) -> None:
        """Send what `set` brings, and after the first one what an earlier run left unsent."""
        for pager in self._all:
            pager.start()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """The verdicts by tunnel, for each receiver."""
        for pager in self._all:
            pager.set(alerts)

    def route(self, paging: PagingConfig) -> None:
        """Use a reloaded configuration."""
        self._paging = paging
        for pager in self._all:
            pager.route(paging)

    def change(self, summary: str, details: Mapping[str, str]) -> None:
        """Send a change event to each receiver: something was done on purpose. It pages nobody."""
        for pager in self._all:
            pager.change(summary, details)

    def close(self) -> None:
        """Stop; nothing is lost."""
        for pager in self._all:
            pager.close()

    @property
    def status(self) -> OutboxStatus:
        """PagerDuty's outbox."""
        return self._pagerduty.status

    @property
    def receivers(self) -> list[ReceiverEntry]:
        """What `facilitator alerts` shows: the receivers that are configured, or still have an incident."""
        paging = self._paging
        configured = (paging.routing_key is not None or bool(paging.tunnels), paging.webhook is not None)
        pairs = zip(configured, self._all, strict=True)
        return [_receiver(pager, known) for known, pager in pairs if known or pager.status.incidents]

    def test(self, tunnel: str = "") -> dict[str, Future[TestResults]]:
        """Open and resolve a test incident at each configured receiver, through the routing key of this
        tunnel; its results, by the receiver's name.
        """
        paging = self._paging
        secrets = (paging.tunnels.get(tunnel, paging.routing_key), paging.webhook)
        pairs = zip(secrets, self._all, strict=True)
        return {pager.name: pager.test(tunnel) for secret, pager in pairs if secret is not None}


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
            for each in status.dead_letters
        ],
    }


def _incident(it: Incident) -> ReceiverIncidentEntry:
    message = it.message
    waits: WaitingMessageEntry | None = None
    if message is not None:
        waits = {"action": message.action.value, "attempts": message.attempts, "error": message.error}
    return {
        "name": it.tunnel,
        "dedup_key": it.dedup_key,
        "since": iso(it.since),
        "wanted": "open" if it.wanted else "closed",
        "there": it.remote.value,
        "waits": waits,
    }
