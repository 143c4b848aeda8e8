"""Change events: something was done on purpose (a reload, a stop). They page nobody, are kept in memory only,
and give way to incidents.

PagerDuty: https://developer.pagerduty.com/docs/events-api-v2/send-change-events/
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from supervisor.reports.paging.channel import UNREADABLE_KEY, Channel
from supervisor.reports.paging.incident import SendOutcome, SendResult
from supervisor.reports.paging.routing import PagingConfig

MAX_WAITING = 20  # change events; beyond that the oldest is dropped
MAX_ATTEMPTS = 5


@dataclass(slots=True)
class _Change:
    """A change event that has not been accepted yet."""

    body: str
    due: float  # monotonic seconds: do not send earlier
    attempts: int = 0


class ChangeEvents:
    """The change events of one receiver. `add` may be called in any thread, `send_due` only in
    the pager's.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[_Change] = deque(maxlen=MAX_WAITING)
        self._lock = threading.Lock()
        self._log = structlog.get_logger()

    def add(self, summary: str, details: Mapping[str, str], paging: PagingConfig) -> None:
        """Queue an event, secrets masked, if the receiver is configured."""
        channel = self._channel
        if channel.notifier.location(paging, "") is None:
            return
        masked = {name: channel.mask(text) for name, text in details.items()}
        body = channel.notifier.change(paging.facilitator, channel.mask(summary), masked, channel.wall)
        with self._lock:
            self._waiting.append(_Change(body, channel.now))

    @property
    def next_due(self) -> float | None:
        """Monotonic moment at which `send_due` should be called; None: nothing waits."""
        with self._lock:
            return min((change.due for change in self._waiting), default=None)

    def send_due(self, paging: PagingConfig) -> None:
        """Send the events that are due, one after the other; each is given up after `MAX_ATTEMPTS`."""
        now = self._channel.now
        with self._lock:
            due = [change for change in self._waiting if change.due <= now]
        for change in due:
            self._attempt(change, paging)

    def _attempt(self, change: _Change, paging: PagingConfig) -> None:
        result = self._send(change, paging)
        change.attempts += 1
        change.due = self._channel.now + self._channel.pauses.after(result, change.attempts)
        final = result.outcome in (SendOutcome.ACCEPTED, SendOutcome.REJECTED)
        over = final or change.attempts >= MAX_ATTEMPTS
        if over:
            with self._lock:
                self._waiting = deque((each for each in self._waiting if each is not change), MAX_WAITING)
        if result.outcome is not SendOutcome.ACCEPTED:
            self._log.warning(
                "change event was not taken",
                receiver=self._channel.notifier.name,
                text=result.text,
                given_up=over,
            )

    def _send(self, change: _Change, paging: PagingConfig) -> SendResult:
        channel, now = self._channel, self._channel.now
        try:
            key = channel.keys.current(channel.notifier.location(paging, "") or "")
        except UNREADABLE_KEY as error:
            return SendResult(SendOutcome.NO_KEY, str(error))
        allowed_at = channel.key_limit.allowed_at(key.fingerprint, now)
        if allowed_at > now:
            text = "the budget of the routing key is spent"
            return SendResult(SendOutcome.THROTTLED, text, allowed_at - now)
        return channel.send(key, change.body, paging)
