"""What an incident is between a verdict and PagerDuty: pure rules, no I/O.

`wanted` is what the verdicts ask for, `there` is what PagerDuty has as far as anybody can know. The message
to send follows from the two; it is replaced when they change before it was sent, so there is never more than
one per incident.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

DEDUP_KEY = 255  # characters, PagerDuty's limit


class There(enum.StrEnum):
    """What PagerDuty has."""

    CLOSED = "closed"  # nothing open under our key
    OPEN = "open"  # it took a trigger
    UNKNOWN = "unknown"  # something was sent, or may have been, and no answer came


class Action(enum.StrEnum):
    """What an event asks of PagerDuty."""

    TRIGGER = "trigger"
    RESOLVE = "resolve"


class SendOutcome(enum.StrEnum):
    """What became of one attempt to send."""

    ACCEPTED = "accepted"  # 202
    REJECTED = "rejected"  # refused for good: the message or the routing key is wrong
    THROTTLED = "throttled"  # 429: certainly not taken, come back later
    FAILED = "failed"  # 5xx, or no answer: may have been taken
    NO_KEY = "no_key"  # the routing key cannot be read: nothing was sent


@dataclass(frozen=True, slots=True)
class SendResult:
    """What came of one attempt."""

    outcome: SendOutcome
    text: str = ""  # for people
    retry_after: float = 0.0  # seconds that the far side asked for


@dataclass(frozen=True, slots=True)
class IncidentMessage:
    """One event on its way to PagerDuty."""

    action: Action
    body: str  # JSON, without the routing key
    created: float  # Unix time
    attempts: int = 0
    error: str = ""  # of the last attempt
    due: float = 0.0  # monotonic seconds: not to be sent before


@dataclass(frozen=True, slots=True)
class Incident:
    """One tunnel's incident."""

    dedup_key: str
    tunnel: str
    location: str  # where the routing key lies (never the key itself)
    since: float  # Unix time of the first wish
    wanted: bool = False
    there: There = There.CLOSED
    fingerprint: str = ""  # of the routing key that PagerDuty knows it by
    refused: str = ""  # fingerprint of a routing key that was refused: no second try with the same
    message: IncidentMessage | None = None

    @property
    def finished(self) -> bool:
        """Nothing to remember any more."""
        return not self.wanted and self.there is There.CLOSED and self.message is None


def dedup_key(facilitator: str, tunnel: str) -> str:
    """The name of a tunnel's incident: the same for ever, whatever happens to the daemon."""
    key = f"facilitator/{facilitator}/{tunnel}"
    return key if len(key) <= DEDUP_KEY else f"facilitator/{sha256(key.encode()).hexdigest()}"


Compose = Callable[[Action], str]


def needed(incident: Incident) -> Action | None:
    """What must be sent so that PagerDuty has what is wanted."""
    if incident.wanted:
        return None if incident.there is There.OPEN or incident.refused else Action.TRIGGER
    return None if incident.there is There.CLOSED else Action.RESOLVE


def wish(incident: Incident, wanted: bool, compose: Compose, now: float) -> Incident:
    """The incident after a verdict. A message that is still right stays; one that no longer is goes
    unsent.
    """
    if wanted != incident.wanted:
        incident = replace(incident, wanted=wanted, refused="")
    action = needed(incident)
    if action is None:
        return replace(incident, message=None)
    if incident.message is not None and incident.message.action is action:
        return incident
    return replace(incident, message=IncidentMessage(action, compose(action), now))


def answered(incident: Incident, outcome: SendOutcome, text: str, due: float) -> Incident:
    """The incident after an attempt to send its message; a further attempt, where there is one, comes at
    `due` (monotonic seconds).
    """
    message = incident.message
    if message is None:
        return incident
    if outcome is SendOutcome.ACCEPTED:
        return replace(
            incident, message=None, there=There.OPEN if message.action is Action.TRIGGER else There.CLOSED
        )
    if outcome is SendOutcome.REJECTED:
        gone = replace(incident, message=None)
        if message.action is Action.TRIGGER:
            return replace(gone, refused=incident.fingerprint)
        return replace(
            gone, there=There.CLOSED
        )  # it will never be taken: a human was told by the log and closes it
    there = There.UNKNOWN if outcome is SendOutcome.FAILED else incident.there
    return replace(
        incident, there=there, message=replace(message, attempts=message.attempts + 1, error=text, due=due)
    )


def rekeyed(incident: Incident, fingerprint: str) -> Incident:
    """After a refusal another routing key lies there: the wish is new again."""
    if not incident.refused or incident.refused == fingerprint:
        return incident
    return replace(incident, refused="", there=There.CLOSED, fingerprint="")


def recovered(incident: Incident) -> Incident:
    """As it must be taken after a crash: what waited to be sent may have been sent."""
    return incident if incident.message is None else replace(incident, there=There.UNKNOWN)
