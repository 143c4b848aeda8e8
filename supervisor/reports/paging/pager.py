"""Keeps the incidents at one receiver (PagerDuty or a webhook) as the verdicts say.

    engine -> `Pager.set` | thread: `desired` -> `outbox` (disk) -> `sending` -> receiver, `outbox`

One thread does everything after `set`, one message at a time. So a trigger and a resolve of one incident are
never in flight together, and after a crash at any point the next run knows what may be open.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import structlog

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.change_events import ChangeEvents
from supervisor.reports.paging.channel import UNREADABLE_KEY, Channel
from supervisor.reports.paging.desired import DesiredIncidents
from supervisor.reports.paging.incident import Action, SendResult, dedup_key
from supervisor.reports.paging.notifier import IncidentNotifier, PagerClock, PagerHooks, RetryPauses
from supervisor.reports.paging.outbox import Outbox, OutboxStatus
from supervisor.reports.paging.routing import (
    INCIDENT_WINDOW_SECONDS,
    MAX_TRIGGERS_PER_INCIDENT,
    EventRateLimit,
    Keyring,
    PagingConfig,
)
from supervisor.reports.paging.sending import EventSender
from supervisor.reports.paging.store import Store

CLOSE_SECONDS = 2.0

TestResults = tuple[SendResult, SendResult]  # of the trigger and of the resolve


class Pager:
    """The `Alerter` (`supervisor.outputs`) of one receiver. It resolves nothing when it is closed.

    `turn` belongs to the pager's thread; every other method may be called in any thread.
    """

    def __init__(
        self,
        notifier: IncidentNotifier,
        state_dir: Path,
        paging: PagingConfig,
        hooks: PagerHooks,
        secrets: Secrets,
        *,
        pauses: RetryPauses | None = None,
        key_limit: EventRateLimit | None = None,
        trigger_limit: EventRateLimit | None = None,
        clock: PagerClock | None = None,
    ) -> None:
        """`key_limit` is the rate limit of a routing key, `trigger_limit` that of triggers of one
        incident.
        """
        pauses = pauses or RetryPauses()
        trigger_limit = trigger_limit or EventRateLimit(MAX_TRIGGERS_PER_INCIDENT, INCIDENT_WINDOW_SECONDS)
        self._notifier = notifier
        self._paging = paging
        self._channel = Channel(
            notifier,
            Keyring(hooks.read_secret),
            key_limit or EventRateLimit(),
            hooks,
            secrets,
            pauses,
            clock or PagerClock(),
        )
        self._outbox = Outbox(Store(state_dir, pauses.busy_seconds, notifier.file), pauses.resync_seconds)
        self._desired = DesiredIncidents(self._channel, self._outbox)
        self._sender = EventSender(self._channel, self._outbox, trigger_limit)
        self._changes = ChangeEvents(self._channel)
        self._log = structlog.get_logger()
        self._changed = threading.Condition()
        self._closing = False
        self._latest: dict[str, Alert] | None = None  # verdicts of the last `set`, by tunnel
        self._applied: dict[str, Alert] | None = None  # those that the outbox has, the same object
        self._tests: list[tuple[str, Future[TestResults]]] = []  # with the tunnel
        self._status = OutboxStatus()
        self._thread = threading.Thread(target=self._run, name=notifier.name, daemon=True)

    # --- from other threads

    @property
    def name(self) -> str:
        """The receiver's name."""
        return self._notifier.name

    @property
    def running(self) -> bool:
        """True while the pager's thread runs."""
        return self._thread.is_alive()

    @property
    def has_new_verdicts(self) -> bool:
        """True until `status` shows what the last `set` brought."""
        return self._latest is not self._applied

    @property
    def status(self) -> OutboxStatus:
        """Incidents and unsent messages as of the end of the last turn."""
        return self._status

    def start(self) -> None:
        """Send what `set` brings, and what an earlier run left unsent: that too only after the first `set`,
        because the tunnel that it is about may not be configured any more.
        """
        self._thread.start()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """The verdicts by tunnel; an incident of a tunnel that is not named any more is resolved. Returns at
        once.
        """
        with self._changed:
            pending = (self._latest or {}) if self.has_new_verdicts else {}
            self._latest = {name: _newer(pending.get(name), alert) for name, alert in alerts.items()}
            self._changed.notify()

    def route(self, paging: PagingConfig) -> None:
        """Use a reloaded configuration."""
        with self._changed:
            self._paging = paging

    def test(self, tunnel: str = "") -> Future[TestResults]:
        """Open and resolve a test incident through the real path, and through the routing key of that tunnel.
        The future gives both results, or raises OSError, LookupError or ValueError if there is no routing
        key.
        """
        future: Future[TestResults] = Future()
        with self._changed:
            self._tests.append((tunnel, future))
            self._changed.notify()
        return future

    def change(self, summary: str, details: Mapping[str, str]) -> None:
        """Send a change event: something was done on purpose. It pages nobody, and is lost if it is not
        accepted soon. Returns at once.
        """
        with self._changed:
            self._changes.add(summary, details, self._paging)
            self._changed.notify()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Stop within `timeout` seconds. Nothing is sent and nothing is lost: the next run goes on from the
        store.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        elif self._thread.ident is None:  # never started: a caller of `turn` has opened the store
            self._outbox.close()

    # --- the thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._prepare()
                idle = self.turn()
                with self._changed:
                    self._changed.wait_for(self._has_work, idle)
            except Exception:  # a fault of our own must not stop paging: the verdicts are applied again
                self._log.exception("pager stumbled", receiver=self.name)
                with self._changed:
                    self._applied = None
                    self._changed.wait_for(lambda: self._closing, self._channel.pauses.fault_seconds)
        for _, future in self._tests:
            future.cancel()
        self._outbox.close()
        self._notifier.close()

    def _prepare(self) -> None:
        """Whatever sending takes is loaded before an incident needs it, but only where one may be sent."""
        with self._changed:
            paging = self._paging
        if any(self._notifier.location(paging, tunnel) for tunnel in ("", *paging.tunnels)):
            self._notifier.open()

    def _has_work(self) -> bool:
        change_due = self._changes.next_due
        due = change_due is not None and change_due <= self._channel.now
        return self._closing or self.has_new_verdicts or bool(self._tests) or due

    def turn(self) -> float | None:
        """Apply new verdicts and send one message. Gives the seconds after which there is something to do
        without a further call; None: nothing.
        """
        restored = self._outbox.resync(self._channel.now)
        with self._changed:
            alerts, paging = self._latest, self._paging
            tests, self._tests = self._tests, []
        if alerts is not None and (alerts is not self._applied or restored):
            self._desired.apply(alerts, paging)
        self._publish()
        self._applied = alerts
        for tunnel, future in tests:
            if future.set_running_or_notify_cancel():
                self._send_test(tunnel, future, paging)
        if alerts is not None:
            self._sender.send_next(paging)
        self._changes.send_due(paging)
        self._publish()
        return self._idle()

    def _publish(self) -> None:
        outbox = self._outbox
        self._status = OutboxStatus(
            tuple(outbox), outbox.usable, self._sender.last_error, tuple(outbox.dead_letters)
        )

    def _idle(self) -> float | None:
        unsent = [] if self._applied is None else self._outbox.unsent()
        next_message = unsent[0][1].due if unsent else None
        moments = (next_message, self._changes.next_due, self._outbox.resync_at)
        first = min((moment for moment in moments if moment is not None), default=None)
        return None if first is None else max(0.0, first - self._channel.now)

    def _send_test(self, tunnel: str, future: Future[TestResults], paging: PagingConfig) -> None:
        channel, notifier = self._channel, self._notifier
        name = f"TEST {tunnel}".strip()  # no tunnel can have this name
        about = f" for tunnel {tunnel}" if tunnel else ""
        summary = f"{paging.facilitator}: facilitator test alert{about} (no action needed)"
        page = paging.page_of(tunnel)
        details = {"tunnel": tunnel} if tunnel else {}
        details |= {"status_page": page} if page else {}
        alert = Alert(name, Verdict.FIRING, "info", summary, channel.now, details, "test")
        try:
            location = notifier.location(paging, tunnel)
            if location is None:
                raise LookupError(f"no {notifier.name} is configured")
            key = channel.keys.current(location)
        except UNREADABLE_KEY as error:
            future.set_exception(error)
            return
        wall = channel.wall
        bodies = {
            Action.TRIGGER: notifier.trigger(paging.facilitator, alert, wall, ()),
            Action.RESOLVE: notifier.resolve(dedup_key(paging.facilitator, name), wall, wall),
        }
        results = {action: channel.send(key, body, paging) for action, body in bodies.items()}
        for action, result in results.items():
            channel.hooks.count(action.value, result.outcome.value)
        future.set_result((results[Action.TRIGGER], results[Action.RESOLVE]))


def _newer(pending: Alert | None, alert: Alert) -> Alert:
    """Of two verdicts that were not applied yet: HOLD does not replace an earlier FIRING or CLEAR."""
    return pending if pending is not None and alert.verdict is Verdict.HOLD else alert
