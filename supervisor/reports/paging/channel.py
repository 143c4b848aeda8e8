"""One receiver as the parts of its pager use it: its API, its routing keys with their rate limit, the
daemon's callbacks, and the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import SendResult
from supervisor.reports.paging.notifier import IncidentNotifier, PagerClock, PagerHooks, RetryPauses
from supervisor.reports.paging.routing import EventRateLimit, Keyring, PagingConfig, RoutingKey

UNREADABLE_KEY = (OSError, LookupError, ValueError)  # what reading a routing key may raise


@dataclass(frozen=True, slots=True)
class Channel:
    """Shared by `DesiredIncidents`, `EventSender` and `ChangeEvents` of one pager. Not thread-safe."""

    notifier: IncidentNotifier
    keys: Keyring
    key_limit: EventRateLimit  # events sent through a routing key, by its fingerprint
    hooks: PagerHooks
    secrets: Secrets
    pauses: RetryPauses
    clock: PagerClock

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self.clock.monotonic()

    @property
    def wall(self) -> float:
        """Unix time."""
        return self.clock.wall()

    @property
    def mask(self) -> Callable[[str], str]:
        """Replaces secrets in a text (defence in depth, see `reports.log.redact`)."""
        return self.secrets.mask

    def send(self, key: RoutingKey, body: str, paging: PagingConfig) -> SendResult:
        """One attempt through this routing key, which counts against its rate limit."""
        self.secrets.add(key.value)
        self.key_limit.record(key.fingerprint, self.now)
        return self.notifier.send(paging, key.value, body)
