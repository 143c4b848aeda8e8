"""From unsent messages to the receiver: one event at a time, within the rate limits, until it is accepted or
rejected.

    `Outbox.unsent` -> `EventSender.send_next` -> receiver -> `incident.after_attempt` -> `Outbox.put`
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from supervisor.core.humanize import iso
from supervisor.reports.paging.channel import UNREADABLE_KEY, Channel
from supervisor.reports.paging.incident import (
    Action,
    Incident,
    IncidentMessage,
    RemoteState,
    SendOutcome,
    SendResult,
    after_attempt,
)
from supervisor.reports.paging.outbox import Outbox
from supervisor.reports.paging.routing import EventRateLimit, PagingConfig, RoutingKey


class EventSender:
    """Sends what the outbox holds. Not thread-safe: only for the pager's thread."""

    def __init__(self, channel: Channel, outbox: Outbox, trigger_limit: EventRateLimit) -> None:
        """`trigger_limit` is the rate limit of triggers per incident, by dedup key."""
        self._channel = channel
        self._outbox = outbox
        self._trigger_limit = trigger_limit
        self._log = structlog.get_logger()
        self.last_error = ""  # for people: when which message was not accepted, and why

    def send_next(self, paging: PagingConfig) -> None:
        """Send the first message that is due and permitted by the rate limits, if there is one."""
        now = self._channel.now
        for incident, message in self._outbox.unsent():
            if message.due > now:
                return
            try:
                key = self._key(incident)
            except UNREADABLE_KEY as error:
                text = f"the routing key cannot be read: {error}"
                self._settle(incident, message, SendResult(SendOutcome.NO_KEY, text))
                continue
            allowed_at = self._allowed_at(incident, message, key, now)
            if allowed_at > now:
                self._outbox.postpone(incident, allowed_at)
                continue
            self._send(incident, message, key, paging)
            return

    def _allowed_at(self, incident: Incident, message: IncidentMessage, key: RoutingKey, now: float) -> float:
        by_key = self._channel.key_limit.allowed_at(key.fingerprint, now)
        if message.action is Action.TRIGGER:
            return max(by_key, self._trigger_limit.allowed_at(incident.dedup_key, now))
        return by_key

    def _key(self, incident: Incident) -> RoutingKey:
        """The key under which the receiver knows the incident; a new incident gets the one stored now."""
        keys = self._channel.keys
        known = None
        if incident.remote is not RemoteState.CLOSED:
            known = keys.known(incident.location, incident.fingerprint)
        return known or keys.current(incident.location)

    def _send(
        self, incident: Incident, message: IncidentMessage, key: RoutingKey, paging: PagingConfig
    ) -> None:
        if incident.fingerprint != key.fingerprint:
            incident = self._rekeyed(incident, key)
        result = self._channel.send(key, message.body, paging)
        if result.outcome is SendOutcome.ACCEPTED and message.action is Action.TRIGGER:
            self._trigger_limit.record(incident.dedup_key, self._channel.now)
        wait = self._settle(incident, message, result)
        if result.outcome is SendOutcome.THROTTLED:
            self._channel.key_limit.block(key.fingerprint, self._channel.now + wait)

    def _rekeyed(self, incident: Incident, key: RoutingKey) -> Incident:
        """The incident under this key, on disk before anything is sent through it."""
        if incident.remote is not RemoteState.CLOSED and incident.fingerprint:
            self._log.error(
                "the routing key that opened the incident is gone; look whether it has to be closed by hand",
                tunnel=incident.tunnel,
                dedup_key=incident.dedup_key,
            )
        rekeyed = replace(incident, fingerprint=key.fingerprint)
        self._outbox.put(rekeyed, self._channel.now)
        return rekeyed

    def _settle(self, incident: Incident, message: IncidentMessage, result: SendResult) -> float:
        """Write down the result of an attempt; gives the seconds until the next one, if there is one."""
        now, text = self._channel.now, self._channel.mask(result.text)
        wait = self._channel.pauses.after(result, message.attempts + 1)
        self._channel.hooks.count(message.action.value, result.outcome.value)
        if result.outcome is not SendOutcome.ACCEPTED:
            self.last_error = f"{iso(self._channel.wall)} {message.action} {incident.tunnel}: {text}"
        if result.outcome is SendOutcome.REJECTED:
            self._outbox.add_dead_letter(incident, result.text, now)
        self._outbox.put(after_attempt(incident, result.outcome, text, now + wait), now)
        self._log_attempt(incident, message, result)
        return wait

    def _log_attempt(self, incident: Incident, message: IncidentMessage, result: SendResult) -> None:
        name = self._channel.notifier.name
        words = {
            "tunnel": incident.tunnel,
            "action": message.action.value,
            "result": result.outcome.value,
            "text": result.text,
        }
        if result.outcome is SendOutcome.ACCEPTED:
            self._log.info(f"{name} event", **words)
        elif result.outcome is SendOutcome.REJECTED:
            self._log.error(f"{name} refused an event for good", **words)
        else:
            self._log.warning(f"{name} event will be tried again", **words, attempts=message.attempts + 1)
