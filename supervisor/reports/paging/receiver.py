"""What a pager (`reports.paging.pager`) needs around it: the receiver that it tells, the rest of the
daemon, a clock, and patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import tenacity
from tenacity.wait import wait_base

from supervisor.core.alerting.verdict import Alert
from supervisor.reports.paging.incident import SendOutcome, SendResult
from supervisor.reports.paging.routing import Paging, ReadSecret


@dataclass(frozen=True, slots=True)
class RetryPace:
    """Pauses before the next attempt: full jitter above a floor, so that many facilitators do not knock
    together.
    """

    failed: wait_base = tenacity.wait_fixed(1) + tenacity.wait_random_exponential(multiplier=2, max=120)
    throttled: wait_base = tenacity.wait_fixed(30) + tenacity.wait_random_exponential(multiplier=30, max=270)
    heal: float = 10.0  # seconds between attempts to bring a lagging store up to date
    busy: float = 1.0  # seconds to wait for somebody else's lock on the store

    def after(self, answer: SendResult, attempts: int) -> float:
        """Seconds until the attempt after the `attempts`-th."""
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempts
        wait = self.throttled if answer.outcome is SendOutcome.THROTTLED else self.failed
        return max(wait(state), answer.retry_after)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the thread asks of the rest of the daemon; every callable must be safe in another thread."""

    read_secret: ReadSecret
    last_lines: Callable[[str], Sequence[str]] = lambda _: ()  # of a tunnel's client, secrets masked
    count: Callable[[str, str], None] = lambda action, result: None


@dataclass(frozen=True, slots=True)
class PagerClock:
    """What time it is, as the pager sees it."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Receiver(Protocol):
    """Somebody who is told of incidents. What is sent through is a secret (a routing key, an address) that
    `Paging` has the place of.
    """

    name: str  # in logs
    file: str  # of its store, in state_dir

    def open(self) -> None:
        """Make ready to send. It is called in the thread that sends, first of all, and may take its time."""

    def location(self, paging: Paging, tunnel: str) -> str | None:
        """Where the secret lies that incidents about this tunnel go through; None: it is told of none of
        them.
        """

    def wanted(self, paging: Paging) -> bool:
        """Is it a mistake when nobody can be told through it."""

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        """The body that opens the incident. `since` is Unix time; `lines` are the client's last ones."""

    def resolve(self, dedup_key: str, at: float) -> str:
        """The body that closes it. `at` is Unix time."""

    def change(self, facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
        """The body of a change event: something was done on purpose."""

    def send(self, paging: Paging, key: str, body: str) -> SendResult:
        """One attempt; never raises for what the far side does."""

    def close(self) -> None:
        """Let go of connections."""
