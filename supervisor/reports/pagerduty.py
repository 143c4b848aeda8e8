"""Incidents at PagerDuty: the last step from a verdict to a human.

`set` comes from the engine and only leaves the verdicts; one thread takes them, writes the wish to disk (`reports.outbox`), sends
(`reports.events_v2`) and writes down what came of it, one message at a time. So a trigger and a resolve of one incident are never under
way together, and after a crash at any point the next run knows what may be open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import tenacity
from tenacity.wait import wait_base

from supervisor.core.alerts import Alert, Verdict
from supervisor.reports import events_v2
from supervisor.reports.events_v2 import Answer, Sender
from supervisor.reports.incident import Action, Incident, Message, Outcome, There, answered, rekeyed, wish
from supervisor.reports.outbox import Outbox, OutboxStatus
from supervisor.reports.redact import Secrets
from supervisor.reports.routing import Budget, Keyring, Paging, ReadSecret, RoutingKey
from supervisor.reports.store import Store

LAST_LINES = 20         # of the client, in an incident
CRASH_PAUSE = 5.0       # seconds of rest after an error of our own
_UNREADABLE = (OSError, LookupError, ValueError)


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses before the next attempt: full jitter above a floor, so that many facilitators do not knock together."""

    failed: wait_base = tenacity.wait_fixed(1) + tenacity.wait_random_exponential(multiplier=2, max=120)
    throttled: wait_base = tenacity.wait_fixed(30) + tenacity.wait_random_exponential(multiplier=30, max=270)
    heal: float = 10.0          # seconds between attempts to bring a lagging store up to date
    busy: float = 1.0           # seconds to wait for somebody else's lock on the store

    def after(self, answer: Answer, attempts: int) -> float:
        """Seconds until the attempt after the `attempts`-th."""
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempts
        wait = self.throttled if answer.outcome is Outcome.THROTTLED else self.failed
        return max(wait(state), answer.retry_after)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the thread asks of the rest of the daemon; every callable must be safe in another thread."""

    read_secret: ReadSecret
    last_lines: Callable[[str], Sequence[str]] = lambda _: ()       # of a tunnel's client, secrets masked
    count: Callable[[str, str], None] = lambda action, result: None


class PagerDuty:
    """The Alerter (`supervisor.engine`) that keeps one incident per tunnel at PagerDuty. It resolves nothing when it is closed."""

    def __init__(
        self, state_dir: Path, paging: Paging, hooks: Hooks, secrets: Secrets, *, pace: Pace = Pace(), budget: Budget | None = None,
    ) -> None:
        self._paging = paging
        self._hooks = hooks
        self._secrets = secrets
        self._pace = pace
        self._budget = budget or Budget()
        self._keys = Keyring(hooks.read_secret)
        self._sender = Sender()
        self._outbox = Outbox(Store(state_dir, pace.busy), pace.heal)
        self._unrouted: set[str] = set()
        self._log = structlog.get_logger()
        self._changed = threading.Condition()
        self._closing = False
        self._latest: dict[str, Alert] | None = None        # verdicts by tunnel, as far as they are known
        self._untaken = False
        self._tests: list[Future[tuple[Answer, Answer]]] = []
        self._status = OutboxStatus()
        self._thread = threading.Thread(target=self._run, name="pagerduty", daemon=True)

    # --- from other threads ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send what an earlier run left, then what `set` brings."""
        self._thread.start()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Verdicts by tunnel; an incident of a tunnel that is not named any more is resolved. Returns at once."""
        with self._changed:
            earlier = self._latest or {} if self._untaken else {}
            self._latest = {name: _newer(earlier.get(name), alert) for name, alert in alerts.items()}
            self._untaken = True
            self._changed.notify()

    def route(self, paging: Paging) -> None:
        """Take over a reloaded configuration."""
        with self._changed:
            self._paging = paging

    def test(self) -> Future[tuple[Answer, Answer]]:
        """Open and resolve an incident of its own through the real way; gives both answers or OSError, LookupError, ValueError: no key."""
        future: Future[tuple[Answer, Answer]] = Future()
        with self._changed:
            self._tests.append(future)
            self._changed.notify()
        return future

    @property
    def status(self) -> OutboxStatus:
        """Incidents and unsent messages after the last thing that happened."""
        return self._status

    def close(self, timeout: float = 2.0) -> None:
        """Stop within `timeout` seconds. Nothing is sent, nothing is lost: the next run goes on from the store."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    # --- the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._round()
            except Exception:       # an error of ours must not silence the pager: the verdicts are taken again
                self._log.exception("pagerduty thread stumbled")
                with self._changed:
                    self._untaken = self._latest is not None
                    self._changed.wait_for(lambda: self._closing, CRASH_PAUSE)
        for future in self._tests:
            future.cancel()
        self._outbox.close()
        self._sender.close()

    def _publish(self) -> None:
        self._status = OutboxStatus(tuple(self._outbox), self._outbox.usable)

    def _round(self) -> None:
        """Take what is new, send one message, then wait for what comes next."""
        found = self._outbox.heal(time.monotonic())
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
        self._publish()
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._untaken or self._tests, self._idle())

    def _idle(self) -> float | None:
        """Seconds until there is something to do without being asked; None: for ever."""
        moments = [message.due for _, message in self._outbox.waiting()[:1]]
        if self._outbox.heal_at is not None:
            moments.append(self._outbox.heal_at)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # --- verdicts --------------------------------------------------------------------------------------------------------

    def _take(self, alerts: Mapping[str, Alert], paging: Paging) -> None:
        named = {events_v2.dedup_key(paging.facilitator, tunnel) for tunnel in alerts}
        for incident in self._outbox:
            if incident.dedup_key not in named:
                self._clear(incident, "it is gone, or its tunnel is not configured any more")
        for alert in alerts.values():
            if alert.verdict is Verdict.FIRING:
                self._fire(alert, paging)
            elif alert.verdict is Verdict.CLEAR:
                self._unrouted.discard(alert.tunnel)
                open_one = self._outbox.get(events_v2.dedup_key(paging.facilitator, alert.tunnel))
                if open_one is not None:
                    self._clear(open_one, "its tunnel is well, or was stopped")

    def _fire(self, alert: Alert, paging: Paging) -> None:
        location = paging.location(alert.members[0] if alert.members else alert.tunnel)     # of a group all have the same
        if location is None:
            if alert.tunnel not in self._unrouted:
                self._unrouted.add(alert.tunnel)
                self._log.error("somebody should be called, but no PagerDuty is configured", tunnel=alert.tunnel, text=alert.summary)
            return
        key = events_v2.dedup_key(paging.facilitator, alert.tunnel)
        before = self._outbox.get(key) or Incident(key, alert.tunnel, location, time.time())
        incident = replace(before, location=location) if before.there is There.CLOSED else before
        after = wish(self._rekeyed(incident), True, lambda _: self._compose(alert, paging), time.time())
        if after != before:
            self._outbox.put(after, time.monotonic())
        if not before.wanted:
            self._log.error("incident", tunnel=alert.tunnel, dedup_key=key, text=alert.summary)

    def _clear(self, incident: Incident, why: str) -> None:
        after = wish(incident, False, lambda _: events_v2.resolve(incident.dedup_key), time.time())
        if after != incident:
            self._outbox.put(after, time.monotonic())
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
        shown = replace(alert, summary=mask(alert.summary), details={name: mask(text) for name, text in alert.details.items()})
        lines = [mask(line) for line in self._hooks.last_lines(alert.tunnel)][-LAST_LINES:]
        return events_v2.trigger(paging.facilitator, shown, alert.since + time.time() - time.monotonic(), lines)

    # --- sending ---------------------------------------------------------------------------------------------------------

    def _send_next(self, paging: Paging) -> None:
        """Send the first message that is due and within its key's budget, if there is one."""
        now = time.monotonic()
        for incident, message in self._outbox.waiting():
            if message.due > now:
                return
            try:
                key = self._key(incident)
            except _UNREADABLE as error:
                self._settle(incident, message, Answer(Outcome.NO_KEY, f"the routing key cannot be read: {error}"))
                continue
            free_at = self._budget.free_at(key.fingerprint, now)
            if free_at > now:
                self._outbox.delay(incident, free_at)
                continue
            self._send(incident, message, key, paging)
            return

    def _key(self, incident: Incident) -> RoutingKey:
        """The key that PagerDuty knows the incident by; a new incident takes the one that lies there now."""
        current = None if incident.there is There.CLOSED else self._keys.known(incident.location, incident.fingerprint)
        return current or self._keys.current(incident.location)

    def _send(self, incident: Incident, message: Message, key: RoutingKey, paging: Paging) -> None:
        self._secrets.add(key.value)
        if incident.fingerprint != key.fingerprint:
            if incident.there is not There.CLOSED and incident.fingerprint:
                self._log.error("the routing key that opened the incident is gone; look whether it has to be closed by hand",
                                tunnel=incident.tunnel, dedup_key=incident.dedup_key)
            incident = replace(incident, fingerprint=key.fingerprint)
            self._outbox.put(incident, time.monotonic())
        self._budget.spend(key.fingerprint, time.monotonic())
        answer = self._sender.send(paging.url, key.value, message.body)
        wait = self._settle(incident, message, answer)
        if answer.outcome is Outcome.THROTTLED:
            self._budget.silence(key.fingerprint, time.monotonic() + wait)

    def _settle(self, incident: Incident, message: Message, answer: Answer) -> float:
        """Write down what came of an attempt; gives the seconds until the next one, if there is one."""
        now = time.monotonic()
        wait = self._pace.after(answer, message.attempts + 1)
        self._hooks.count(message.action.value, answer.outcome.value)
        if answer.outcome is Outcome.REJECTED:
            self._outbox.bury(incident, answer.text, now)
        self._outbox.put(answered(incident, answer.outcome, self._secrets.mask(answer.text), now + wait), now)
        self._report(incident, message, answer)
        return wait

    def _report(self, incident: Incident, message: Message, answer: Answer) -> None:
        words = {"tunnel": incident.tunnel, "action": message.action.value, "result": answer.outcome.value, "text": answer.text}
        if answer.outcome is Outcome.ACCEPTED:
            self._log.info("pagerduty event", **words)
        elif answer.outcome is Outcome.REJECTED:
            self._log.error("pagerduty refused an event for good", **words)
        else:
            self._log.warning("pagerduty event will be tried again", **words, attempts=message.attempts + 1)

    def _test(self, future: Future[tuple[Answer, Answer]], paging: Paging) -> None:
        dedup = events_v2.dedup_key(paging.facilitator, "TEST")     # no tunnel can have this name
        alert = Alert("TEST", Verdict.FIRING, "info", f"{paging.facilitator}: test of the way to you", time.monotonic(), {}, "test")
        try:
            if paging.routing_key is None:
                raise LookupError("no PagerDuty is configured")
            key = self._keys.current(paging.location("TEST") or "")
        except _UNREADABLE as error:
            future.set_exception(error)
            return
        self._secrets.add(key.value)
        opened = self._sender.send(paging.url, key.value, events_v2.trigger(paging.facilitator, alert, time.time(), ()))
        self._hooks.count(Action.TRIGGER.value, opened.outcome.value)
        closed = self._sender.send(paging.url, key.value, events_v2.resolve(dedup))
        self._hooks.count(Action.RESOLVE.value, closed.outcome.value)
        future.set_result((opened, closed))


def _newer(earlier: Alert | None, alert: Alert) -> Alert:
    """Of two verdicts that were not taken yet: HOLD takes nothing back."""
    return earlier if earlier is not None and alert.verdict is Verdict.HOLD else alert
