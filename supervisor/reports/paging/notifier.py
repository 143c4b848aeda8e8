"""What a pager (`reports.paging.pager`) is built from: the receiver's API, callbacks into the daemon, a
clock, and the pauses between retries.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.core.alerting.verdict import Alert
from supervisor.core.backoff import Backoff
from supervisor.reports.paging.incident import SendOutcome, SendResult
from supervisor.reports.paging.routing import PagingConfig, ReadSecret


@dataclass(frozen=True, slots=True)
class RetryPauses:
    """Pauses between attempts, with jitter, so that many facilitators do not retry in step."""

    failed: Backoff = Backoff(1.0, 3.0, 121.0)
    throttled: Backoff = Backoff(30.0, 60.0, 300.0)
    resync_seconds: float = 10.0  # between attempts to bring a lagging store up to date
    busy_seconds: float = 1.0  # how long to wait for another process's lock on the store
    fault_seconds: float = 5.0  # after a fault of our own
    random_unit: Callable[[], float] = random.random  # in [0, 1)

    def after(self, result: SendResult, attempts: int) -> float:
        """Seconds between attempt number `attempts` and the next one; a Retry-After header is honoured."""
        backoff = self.throttled if result.outcome is SendOutcome.THROTTLED else self.failed
        return max(backoff.pause(attempts, self.random_unit()), result.retry_after)


@dataclass(frozen=True, slots=True)
class PagerHooks:
    """Callbacks of the pager's thread into the daemon; each must be thread-safe."""

    read_secret: ReadSecret
    last_lines: Callable[[str], Sequence[str]] = lambda _: ()  # of a tunnel's client, secrets masked
    count: Callable[[str, str], None] = lambda action, result: None  # one attempt, for the metrics


@dataclass(frozen=True, slots=True)
class PagerClock:
    """The pager's two clocks."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class IncidentNotifier(Protocol):
    """The API of one kind of receiver (Alertmanager: a notifier of a receiver). It authenticates by a secret,
    which is a routing key or an address, and whose location `PagingConfig` has.
    """

    name: str  # in log lines and in `facilitator alerts`
    file: str  # name of its store in state_dir

    def open(self) -> None:
        """Prepare to send. Called in the thread that sends, whenever the configuration has a receiver; may
        block.
        """

    def location(self, paging: PagingConfig, tunnel: str) -> str | None:
        """Where the secret for incidents about this tunnel is stored; None: it does not get them."""

    def required(self, paging: PagingConfig) -> bool:
        """True if an incident without a location is an error worth an error in the log."""

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        """The body of the event that opens the incident. `since` is Unix time; `lines` are the client's last
        ones.
        """

    def resolve(self, dedup_key: str, since: float, at: float) -> str:
        """The body of the event that closes it, which was open from `since` to `at` (Unix time)."""

    def change(self, facilitator: str, summary: str, details: Mapping[str, str], at: float) -> str:
        """The body of a change event: something was done on purpose. `at` is Unix time."""

    def send(self, paging: PagingConfig, key: str, body: str) -> SendResult:
        """One attempt to send; never raises for anything that the network or the receiver does."""

    def close(self) -> None:
        """Close connections."""
