"""Which routing key an incident is sent through, and the rate limit of each key.

A routing key (PagerDuty: integration key) is a secret: it is read when something is sent, and neither stored
nor logged. PagerDuty knows an incident only under the key that opened it, so an incident remembers where its
key is stored and a fingerprint of it. To rotate a key, put the new one on the first line of its file and keep
the old one on the second until the incidents that it opened are closed; a daemon that has used the old key
still has it in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from tunnels.settings import Secret

# PagerDuty accepts 120 events a minute per integration key (Events API v2, rate limits): half of that.
MAX_EVENTS_PER_KEY = 60
KEY_WINDOW_SECONDS = 60.0
MAX_TRIGGERS_PER_INCIDENT = 3  # in a burst
INCIDENT_WINDOW_SECONDS = 180.0  # so one a minute in the long run

ReadSecret = Callable[[Secret], str]  # raises OSError, LookupError or ValueError when it cannot be read


@dataclass(frozen=True, slots=True)
class PagingConfig:
    """What the configuration says about incidents; a reload brings a new one."""

    facilitator: str
    url: str = "https://events.pagerduty.com"
    routing_key: Secret | None = None  # None: incidents of other tunnels are only logged
    tunnels: Mapping[str, Secret] = field(default_factory=dict)  # a tunnel's own routing key
    webhook: Secret | None = None  # where the address of a webhook is stored
    runbooks: str = ""  # address of the page about reasons; "": in this distribution
    webhook_format: str = "facilitator"  # see `reports.paging.webhook_formats`
    status_page: str = ""  # address of the status page; "": not known

    def page_of(self, tunnel: str) -> str:
        """Address of the tunnel on the status page, or, with "", of the whole page; "" if it is not known."""
        fragment = f"#tunnel-{tunnel}" if tunnel else ""
        return f"{self.status_page.rstrip('/')}/{fragment}" if self.status_page else ""

    def location(self, tunnel: str) -> str | None:
        """Where the tunnel's routing key is stored, as text; None: PagerDuty is not configured for it."""
        secret = self.tunnels.get(tunnel, self.routing_key)
        return None if secret is None else location_of(secret)


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """A routing key and the fingerprint of it that may be stored."""

    value: str = field(repr=False)
    fingerprint: str


class Keyring:
    """Reads routing keys, and remembers those that it has read."""

    def __init__(self, read: ReadSecret) -> None:
        self._read = read
        self._by_fingerprint: dict[str, RoutingKey] = {}

    def current(self, location: str) -> RoutingKey:
        """The key that is stored there now; OSError, LookupError or ValueError when there is none."""
        keys = self._read_all(location)
        if not keys:
            raise ValueError(f"{location} is empty")
        return keys[0]

    def known(self, location: str, fingerprint: str) -> RoutingKey | None:
        """The key with this fingerprint, from memory or from a later line of the file."""
        if fingerprint not in self._by_fingerprint:
            self._read_all(location)
        return self._by_fingerprint.get(fingerprint)

    def _read_all(self, location: str) -> list[RoutingKey]:
        lines = (line.strip() for line in self._read(_secret_at(location)).splitlines())
        keys = [RoutingKey(line, sha256(line.encode()).hexdigest()[:16]) for line in lines if line]
        self._by_fingerprint.update({key.fingerprint: key for key in keys})
        return keys


class EventRateLimit:
    """Rate limit by a sliding window: at most `events` per key in any `window` seconds, and none while the
    receiver asked for a pause.
    """

    def __init__(self, events: int = MAX_EVENTS_PER_KEY, window: float = KEY_WINDOW_SECONDS) -> None:
        self._events = events
        self._window = window
        self._sent: dict[str, deque[float]] = {}  # the last `events` of each key, monotonic seconds
        self._blocked_until: dict[str, float] = {}

    def allowed_at(self, key: str, now: float) -> float:
        """Monotonic moment of the next permitted event; not later than `now` if one is permitted now."""
        sent = self._sent.get(key)
        window_ends = sent[0] + self._window if sent and len(sent) == self._events else 0.0
        return max(window_ends, self._blocked_until.get(key, 0.0))

    def record(self, key: str, now: float) -> None:
        """An event is sent at `now` (monotonic seconds)."""
        self._sent.setdefault(key, deque(maxlen=self._events)).append(now)

    def block(self, key: str, until: float) -> None:
        """Permit no event before `until` (monotonic seconds)."""
        self._blocked_until[key] = until


def location_of(secret: Secret) -> str:
    """Where a secret is stored, as text: `file:PATH` or `env:NAME`."""
    return f"file:{secret.file}" if secret.file is not None else f"env:{secret.env}"


def _secret_at(location: str) -> Secret:
    kind, _, name = location.partition(":")
    return Secret(file=name) if kind == "file" else Secret(env=name)
