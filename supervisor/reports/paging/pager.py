"""Incidents at a receiver (PagerDuty, a webhook): the last step from a verdict to a human.

`set` comes from the engine and only leaves the verdicts; one thread takes them, writes the wish to disk
(`reports.paging.outbox`), sends (`reports.paging.pagerduty`, `reports.paging.webhook`) and writes down what
came of it, one message at a time. So a trigger and a resolve of one incident are never under way together,
and after a crash at any point the next run knows what may be open.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.humanize import iso
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import (
    Action,
    Incident,
    IncidentMessage,
    SendOutcome,
    SendResult,
    There,
    answered,
    dedup_key,
    rekeyed,
    wish,
)
from supervisor.reports.paging.outbox import Outbox, OutboxStatus
from supervisor.reports.paging.receiver import Hooks, PagerClock, Receiver, RetryPace
from supervisor.reports.paging.routing import TRIGGERS, TRIGGERS_WITHIN, Budget, Keyring, Paging, RoutingKey
from supervisor.reports.paging.store import Store

LAST_LINES = 20  # of the client, in an incident
SPOKEN_FOR = 3  # members of a group whose last lines are told
CRASH_PAUSE = 5.0  # seconds of rest after an error of our own
CHANGES = 20  # change events that wait at most: they inform, and call nobody
CHANGE_ATTEMPTS = 5
_UNREADABLE = (OSError, LookupError, ValueError)


@dataclass(slots=True)
class _Change:
    """A change event that waits."""

    body: str
    due: float  # monotonic seconds
    attempts: int = 0


class Pager:
    """The Alerter (`supervisor.engine`) that keeps one incident per tunnel at a receiver. It resolves
    nothing when it is closed.
    """

    def __init__(
        self,
        receiver: Receiver,
        state_dir: Path,
        paging: Paging,
        hooks: Hooks,
        secrets: Secrets,
        *,
        pace: RetryPace | None = None,
        budget: Budget | None = None,
        triggers: Budget | None = None,
        clock: PagerClock | None = None,
    ) -> None:
        """`budget` counts what is sent through a routing key, `triggers` the calls about one incident."""
        self._receiver = receiver
        self._paging = paging
        self._hooks = hooks
        self._secrets = secrets
        self._pace = pace or RetryPace()
        self._budget = budget or Budget()
        self._triggers = triggers or Budget(TRIGGERS, TRIGGERS_WITHIN)
        self._clock = clock or PagerClock()
        self._keys = Keyring(hooks.read_secret)
        self._outbox = Outbox(Store(state_dir, self._pace.busy, receiver.file), self._pace.heal)
        self._changes: deque[_Change] = deque(maxlen=CHANGES)
        self._last_error = ""
        self._unrouted: set[str] = set()
        self._log = structlog.get_logger()
        self._changed = threading.Condition()
        self._closing = False
        self._latest: dict[str, Alert] | None = None  # verdicts by tunnel, as far as they are known
        self._untaken = False
        self._tests: list[Future[tuple[SendResult, SendResult]]] = []
        self._status = OutboxStatus()
        self._thread = threading.Thread(target=self._run, name=receiver.name, daemon=True)

    # --- from other threads
    # ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send what an earlier run left, then what `set` brings."""
        self._thread.start()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Verdicts by tunnel; an incident of a tunnel that is not named any more is resolved. Returns at
        once.
        """
        with self._changed:
            earlier = self._latest or {} if self._untaken else {}
            self._latest = {name: _newer(earlier.get(name), alert) for name, alert in alerts.items()}
            self._untaken = True
            self._changed.notify()

    @property
    def name(self) -> str:
        """The receiver's."""
        return self._receiver.name

    def route(self, paging: Paging) -> None:
        """Take over a reloaded configuration."""
        with self._changed:
            self._paging = paging

    def test(self) -> Future[tuple[SendResult, SendResult]]:
        """Open and resolve an incident of its own through the real way; gives both answers or OSError,
        LookupError, ValueError: no key.
        """
        future: Future[tuple[SendResult, SendResult]] = Future()
        with self._changed:
            self._tests.append(future)
            self._changed.notify()
        return future

    def change(self, summary: str, details: Mapping[str, str]) -> None:
        """Tell that something was done on purpose; nobody is called, and it is lost if it cannot be told
        soon. Returns at once.
        """
        with self._changed:
            paging = self._paging
            if self._receiver.location(paging, "") is None:
                return
            masked = {name: self._secrets.mask(text) for name, text in details.items()}
            body = self._receiver.change(
                paging.facilitator, self._secrets.mask(summary), masked, self._clock.wall()
            )
            self._changes.append(_Change(body, self._clock.monotonic()))
            self._changed.notify()

    @property
    def status(self) -> OutboxStatus:
        """Incidents and unsent messages after the last thing that happened."""
        return self._status

    def close(self, timeout: float = 2.0) -> None:
        """Stop within `timeout` seconds. Nothing is sent, nothing is lost: the next run goes on from the
        store.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    # --- the thread
    # ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._receiver.open()
        while not self._closing:
            try:
                idle = self.turn()
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._closing or self._untaken or self._tests or self._changes_due(), idle
                    )
            except Exception:  # an error of ours must not silence the pager: the verdicts are taken again
                self._log.exception("pager stumbled", receiver=self._receiver.name)
                with self._changed:
                    self._untaken = self._latest is not None
                    self._changed.wait_for(lambda: self._closing, CRASH_PAUSE)
        for future in self._tests:
            future.cancel()
        self._outbox.close()
        self._receiver.close()

    def _publish(self) -> None:
        self._status = OutboxStatus(
            tuple(self._outbox), self._outbox.usable, self._last_error, tuple(self._outbox.letters)
        )

    def turn(self) -> float | None:
        """Take what is new and send one message. Seconds until there is something to do without being
        asked; None: for ever.
        """
        found = self._outbox.heal(self._clock.monotonic())
        with self._changed:
            self._untaken |= found and self._latest is not None
            alerts, paging = self._latest if self._untaken else None, self._paging
            self._untaken = False
            tests, self._tests = self._tests, []
        if alerts is not None:
            self._take(alerts, paging)
        self._publish()
        for future in tests:
            if future.set_running_or_notify_cancel():
                self._test(future, paging)
        self._send_next(paging)
        self._tell_changes(paging)
        self._publish()
        return self._idle()

    def _changes_due(self) -> bool:
        return any(change.due <= self._clock.monotonic() for change in self._changes)

    def _idle(self) -> float | None:
        moments = [message.due for _, message in self._outbox.waiting()[:1]] + [
            change.due for change in self._changes
        ]
        if self._outbox.heal_at is not None:
            moments.append(self._outbox.heal_at)
        return max(0.0, min(moments) - self._clock.monotonic()) if moments else None

    # --- verdicts
    # ------------------------------------------------------------------------------------------------------

    def _take(self, alerts: Mapping[str, Alert], paging: Paging) -> None:
        named = {dedup_key(paging.facilitator, tunnel) for tunnel in alerts}
        for incident in self._outbox:
            if incident.dedup_key not in named:
                self._clear(incident, "it is gone, or its tunnel is not configured any more")
        for alert in alerts.values():
            if alert.verdict is Verdict.FIRING:
                self._fire(alert, paging)
            elif alert.verdict is Verdict.CLEAR:
                self._unrouted.discard(alert.tunnel)
                open_one = self._outbox.get(dedup_key(paging.facilitator, alert.tunnel))
                if open_one is not None:
                    self._clear(open_one, "its tunnel is well, or was stopped")

    def _fire(self, alert: Alert, paging: Paging) -> None:
        location = self._receiver.location(
            paging, alert.members[0] if alert.members else alert.tunnel
        )  # of a group all have the same
        if location is None:
            if alert.tunnel not in self._unrouted and self._receiver.wanted(paging):
                self._unrouted.add(alert.tunnel)
                self._log.error(
                    "somebody should be called, but no PagerDuty is configured",
                    tunnel=alert.tunnel,
                    text=alert.summary,
                )
            return
        key = dedup_key(paging.facilitator, alert.tunnel)
        before = self._outbox.get(key) or Incident(key, alert.tunnel, location, self._clock.wall())
        incident = replace(before, location=location) if before.there is There.CLOSED else before
        after = wish(
            self._rekeyed(incident), True, lambda _: self._compose(alert, paging), self._clock.wall()
        )
        if after != before:
            self._outbox.put(after, self._clock.monotonic())
        if not before.wanted:
            self._log.error("incident", tunnel=alert.tunnel, dedup_key=key, text=alert.summary)

    def _clear(self, incident: Incident, why: str) -> None:
        after = wish(
            incident,
            False,
            lambda _: self._receiver.resolve(incident.dedup_key, self._clock.wall()),
            self._clock.wall(),
        )
        if after != incident:
            self._outbox.put(after, self._clock.monotonic())
        if incident.wanted:
            self._log.info("incident is over", tunnel=incident.tunnel, dedup_key=incident.dedup_key, text=why)

    def _rekeyed(self, incident: Incident) -> Incident:
        """An incident whose key was refused gets another try as soon as another key lies there."""
        if not incident.refused:
            return incident
        try:
            return rekeyed(incident, self._keys.current(incident.location).fingerprint)
        except _UNREADABLE:
            return incident

    def _compose(self, alert: Alert, paging: Paging) -> str:
        mask = self._secrets.mask
        offset = self._clock.wall() - self._clock.monotonic()
        details = dict(alert.details) | {name: iso(moment + offset) for name, moment in alert.moments.items()}
        shown = replace(
            alert, summary=mask(alert.summary), details={name: mask(text) for name, text in details.items()}
        )
        return self._receiver.trigger(
            paging.facilitator, shown, alert.since + offset, [mask(line) for line in self._lines(alert)]
        )

    def _lines(self, alert: Alert) -> Sequence[str]:
        """The last lines of the client; of a group, some of each of a few."""
        if not alert.members:
            return self._hooks.last_lines(alert.tunnel)[-LAST_LINES:]
        few, each = alert.members[:SPOKEN_FOR], LAST_LINES // SPOKEN_FOR
        return [f"{tunnel}: {line}" for tunnel in few for line in self._hooks.last_lines(tunnel)[-each:]]

    # --- sending
    # ------------------------------------------------------------------------------------------------------

    def _send_next(self, paging: Paging) -> None:
        """Send the first message that is due and within its key's budget, if there is one."""
        now = self._clock.monotonic()
        for incident, message in self._outbox.waiting():
            if message.due > now:
                return
            try:
                key = self._key(incident)
            except _UNREADABLE as error:
                self._settle(
                    incident,
                    message,
                    SendResult(SendOutcome.NO_KEY, f"the routing key cannot be read: {error}"),
                )
                continue
            free_at = self._budget.free_at(key.fingerprint, now)
            if message.action is Action.TRIGGER:
                free_at = max(free_at, self._triggers.free_at(incident.dedup_key, now))
            if free_at > now:
                self._outbox.delay(incident, free_at)
                continue
            self._send(incident, message, key, paging)
            return

    def _key(self, incident: Incident) -> RoutingKey:
        """The key that PagerDuty knows the incident by; a new incident takes the one that lies there now."""
        current = (
            None
            if incident.there is There.CLOSED
            else self._keys.known(incident.location, incident.fingerprint)
        )
        return current or self._keys.current(incident.location)

    def _send(self, incident: Incident, message: IncidentMessage, key: RoutingKey, paging: Paging) -> None:
        self._secrets.add(key.value)
        if incident.fingerprint != key.fingerprint:
            if incident.there is not There.CLOSED and incident.fingerprint:
                self._log.error(
                    "the routing key that opened the incident is gone; look whether it has to be closed "
                    "by hand",
                    tunnel=incident.tunnel,
                    dedup_key=incident.dedup_key,
                )
            incident = replace(incident, fingerprint=key.fingerprint)
            self._outbox.put(incident, self._clock.monotonic())
        self._budget.spend(key.fingerprint, self._clock.monotonic())
        answer = self._receiver.send(paging, key.value, message.body)
        if answer.outcome is SendOutcome.ACCEPTED and message.action is Action.TRIGGER:
            self._triggers.spend(incident.dedup_key, self._clock.monotonic())
        wait = self._settle(incident, message, answer)
        if answer.outcome is SendOutcome.THROTTLED:
            self._budget.silence(key.fingerprint, self._clock.monotonic() + wait)

    def _settle(self, incident: Incident, message: IncidentMessage, answer: SendResult) -> float:
        """Write down what came of an attempt; gives the seconds until the next one, if there is one."""
        now = self._clock.monotonic()
        wait = self._pace.after(answer, message.attempts + 1)
        self._hooks.count(message.action.value, answer.outcome.value)
        if answer.outcome is not SendOutcome.ACCEPTED:
            self._last_error = (
                f"{iso(self._clock.wall())} {message.action} {incident.tunnel}: "
                f"{self._secrets.mask(answer.text)}"
            )
        if answer.outcome is SendOutcome.REJECTED:
            self._outbox.bury(incident, answer.text, now)
        self._outbox.put(answered(incident, answer.outcome, self._secrets.mask(answer.text), now + wait), now)
        self._report(incident, message, answer)
        return wait

    def _report(self, incident: Incident, message: IncidentMessage, answer: SendResult) -> None:
        name = self._receiver.name
        words = {
            "tunnel": incident.tunnel,
            "action": message.action.value,
            "result": answer.outcome.value,
            "text": answer.text,
        }
        if answer.outcome is SendOutcome.ACCEPTED:
            self._log.info(f"{name} event", **words)
        elif answer.outcome is SendOutcome.REJECTED:
            self._log.error(f"{name} refused an event for good", **words)
        else:
            self._log.warning(f"{name} event will be tried again", **words, attempts=message.attempts + 1)

    def _tell_changes(self, paging: Paging) -> None:
        """Send the change events that are due, one after the other; they give way to incidents, and are
        given up after some attempts.
        """
        now = self._clock.monotonic()
        for change in [change for change in self._changes if change.due <= now]:
            answer = self._tell(change, paging)
            change.attempts += 1
            change.due = self._clock.monotonic() + self._pace.after(answer, change.attempts)
            over = (
                answer.outcome in (SendOutcome.ACCEPTED, SendOutcome.REJECTED)
                or change.attempts >= CHANGE_ATTEMPTS
            )
            if over:
                self._changes.remove(change)
            if answer.outcome is not SendOutcome.ACCEPTED:
                self._log.warning(
                    "change event was not taken",
                    receiver=self._receiver.name,
                    text=answer.text,
                    given_up=over,
                )

    def _tell(self, change: _Change, paging: Paging) -> SendResult:
        try:
            key = self._keys.current(self._receiver.location(paging, "") or "")
        except _UNREADABLE as error:
            return SendResult(SendOutcome.NO_KEY, str(error))
        self._secrets.add(key.value)
        now = self._clock.monotonic()
        free_at = self._budget.free_at(key.fingerprint, now)
        if free_at > now:
            return SendResult(SendOutcome.THROTTLED, "the budget of the routing key is spent", free_at - now)
        self._budget.spend(key.fingerprint, now)
        return self._receiver.send(paging, key.value, change.body)

    def _test(self, future: Future[tuple[SendResult, SendResult]], paging: Paging) -> None:
        key_of_it = dedup_key(paging.facilitator, "TEST")  # no tunnel can have this name
        alert = Alert(
            "TEST",
            Verdict.FIRING,
            "info",
            f"{paging.facilitator}: test of the way to you",
            self._clock.monotonic(),
            {},
            "test",
        )
        try:
            location = self._receiver.location(paging, "TEST")
            if location is None:
                raise LookupError(f"no {self._receiver.name} is configured")
            key = self._keys.current(location)
        except _UNREADABLE as error:
            future.set_exception(error)
            return
        self._secrets.add(key.value)
        now = self._clock.wall()
        bodies = (
            self._receiver.trigger(paging.facilitator, alert, now, ()),
            self._receiver.resolve(key_of_it, now),
        )
        answers = []
        for action, body in zip(Action, bodies, strict=True):
            answers.append(self._receiver.send(paging, key.value, body))
            self._hooks.count(action.value, answers[-1].outcome.value)
        future.set_result((answers[0], answers[1]))


def _newer(earlier: Alert | None, alert: Alert) -> Alert:
    """Of two verdicts that were not taken yet: HOLD takes nothing back."""
    return earlier if earlier is not None and alert.verdict is Verdict.HOLD else alert
