"""The state of one incident between a verdict and its receiver (PagerDuty, webhook): pure rules, no I/O.

Each incident has a desired state (`wanted`, from the verdicts) and a remote state (`remote`, what the
receiver has as far as is known). The message to send follows from the two, and is replaced when they change
before it was sent, so there is never more than one unsent message per incident.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

MAX_DEDUP_KEY_CHARS = 255  # PagerDuty Events API v2, field `dedup_key`


# Between two triggers of an open incident because of another cause that only time has to cure.
UPDATE_SECONDS = 600.0


class RemoteState(enum.StrEnum):
    """What the receiver has under our dedup key."""

    CLOSED = "closed"  # no open incident
    OPEN = "open"  # it accepted a trigger
    UNKNOWN = "unknown"  # something was sent, or may have been, and no answer came


class Action(enum.StrEnum):
    """What an event asks of the receiver (PagerDuty Events API v2, field `event_action`)."""

    TRIGGER = "trigger"
    RESOLVE = "resolve"


class SendOutcome(enum.StrEnum):
    """Result of one attempt to send."""

    ACCEPTED = "accepted"  # 202 from PagerDuty, any 2xx from a webhook
    REJECTED = "rejected"  # permanent: the message or the routing key is wrong
    THROTTLED = "throttled"  # 429: certainly not accepted, retry later
    FAILED = "failed"  # 5xx or no answer: may have been accepted
    NO_KEY = "no_key"  # the routing key cannot be read: nothing was sent


@dataclass(frozen=True, slots=True)
class SendResult:
    """One attempt to send, and what the receiver answered."""

    outcome: SendOutcome
    text: str = ""  # the answer, for people
    retry_after: float = 0.0  # seconds, from the Retry-After header


@dataclass(frozen=True, slots=True)
class IncidentMessage:
    """One event that has not been accepted yet."""

    action: Action
    body: str  # JSON, without the routing key
    created: float  # Unix time
    attempts: int = 0
    error: str = ""  # of the last attempt
    due: float = 0.0  # monotonic seconds: do not send earlier


@dataclass(frozen=True, slots=True)
class Incident:
    """The incident of one tunnel, group of tunnels or condition."""

    dedup_key: str
    tunnel: str  # or the name of the group or condition
    location: str  # where the routing key is stored (never the key itself)
    since: float  # Unix time at which it was first wanted
    wanted: bool = False
    remote: RemoteState = RemoteState.CLOSED
    fingerprint: str = ""  # of the routing key under which the receiver knows it
    refused_fingerprint: str = ""  # of a routing key that was rejected: never tried again
    cause: str = ""  # the reason that its latest trigger names; in memory only: empty after a restart
    told: float = 0.0  # Unix time of that
    message: IncidentMessage | None = None

    @property
    def finished(self) -> bool:
        """True if the incident can be forgotten."""
        return not self.wanted and self.remote is RemoteState.CLOSED and self.message is None


def dedup_key(facilitator: str, tunnel: str) -> str:
    """The stable identity of a tunnel's incident, the same across restarts of the daemon."""
    key = f"facilitator/{facilitator}/{tunnel}"
    return key if len(key) <= MAX_DEDUP_KEY_CHARS else f"facilitator/{sha256(key.encode()).hexdigest()}"


Compose = Callable[[Action], str]  # renders the body of an event


def needed_action(incident: Incident) -> Action | None:
    """What must be sent so that the remote state becomes the desired one; None: they agree."""
    if incident.wanted:
        settled = incident.remote is RemoteState.OPEN or incident.refused_fingerprint
        return None if settled else Action.TRIGGER
    return None if incident.remote is RemoteState.CLOSED else Action.RESOLVE


def reconcile(
    incident: Incident, wanted: bool, compose: Compose, now: float, cause: str = "", grave: bool = False
) -> Incident:
    """The incident after a verdict, with the message that it now needs. An unsent message stays if it is
    still the right one, and is dropped otherwise. `now` is Unix time.

    An open incident whose `cause` has changed is triggered again under its key, with the new text: at once if
    the cause is `grave`, because somebody has to cure it; else after some minutes, because one failure often
    has several causes in a row.
    """
    if wanted != incident.wanted:
        incident = replace(incident, wanted=wanted, refused_fingerprint="")
    changed = wanted and _cause_changed(incident, cause, grave, now)
    if changed or not wanted or not incident.cause:
        incident = replace(incident, cause=cause, told=now)
    action, waiting = needed_action(incident), incident.message
    updates = changed or (waiting is not None and waiting.action is Action.TRIGGER)
    if action is None and wanted and updates and not incident.refused_fingerprint:
        action = Action.TRIGGER
    if action is None:
        return replace(incident, message=None)
    if waiting is None or waiting.action is not action:
        return replace(incident, message=IncidentMessage(action, compose(action), now))
    return replace(incident, message=replace(waiting, body=compose(action))) if changed else incident


def _cause_changed(incident: Incident, cause: str, grave: bool, now: float) -> bool:
    known = incident.cause and cause
    return bool(known) and cause != incident.cause and (grave or now >= incident.told + UPDATE_SECONDS)


def after_attempt(incident: Incident, outcome: SendOutcome, text: str, due: float) -> Incident:
    """The incident after an attempt to send its message; a retry, if needed, is due at `due` (monotonic
    seconds).
    """
    message = incident.message
    if message is None:
        return incident
    trigger = message.action is Action.TRIGGER
    if outcome is SendOutcome.ACCEPTED:
        return replace(incident, message=None, remote=RemoteState.OPEN if trigger else RemoteState.CLOSED)
    if outcome is SendOutcome.REJECTED:
        unsent = replace(incident, message=None)
        if trigger:
            return replace(unsent, refused_fingerprint=incident.fingerprint)
        # A resolve that will never be accepted: the log asks the operator to close the incident by hand.
        return replace(unsent, remote=RemoteState.CLOSED)
    remote = RemoteState.UNKNOWN if outcome is SendOutcome.FAILED else incident.remote
    retried = replace(message, attempts=message.attempts + 1, error=text, due=due)
    return replace(incident, remote=remote, message=retried)


def after_key_change(incident: Incident, fingerprint: str) -> Incident:
    """The incident when `fingerprint` is the routing key now: if another one was refused, it may be triggered
    again.
    """
    if not incident.refused_fingerprint or incident.refused_fingerprint == fingerprint:
        return incident
    return replace(incident, refused_fingerprint="", remote=RemoteState.CLOSED, fingerprint="")


def after_crash(incident: Incident) -> Incident:
    """The incident as read from disk by the next run: an unsent message may have been sent."""
    return incident if incident.message is None else replace(incident, remote=RemoteState.UNKNOWN)
