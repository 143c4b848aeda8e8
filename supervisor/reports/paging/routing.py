"""Which routing key an incident goes through, and how often a key may be used.

A routing key is a secret: it is read when something is sent, and neither stored nor logged. PagerDuty knows
an incident only under the key that opened it, so an incident remembers where its key lies and a fingerprint
of it. To rotate a key, put the new one on the first line of its file and leave the old one on the second
until the incidents it opened are closed; a daemon that has used the old key finds it in its memory anyhow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from tunnels.settings import Secret

BUDGET = 60  # events per routing key and minute: half of what PagerDuty takes
WINDOW = 60.0  # seconds
TRIGGERS = 3  # calls about one incident that may come in a burst
TRIGGERS_WITHIN = 180.0  # seconds: one a minute in the long run

ReadSecret = Callable[[Secret], str]  # raises OSError, LookupError or ValueError when it cannot be read


@dataclass(frozen=True, slots=True)
class Paging:
    """What the configuration says about incidents; a reload brings a new one."""

    facilitator: str
    url: str = "https://events.pagerduty.com"
    routing_key: Secret | None = None  # None: incidents of other tunnels are only logged
    tunnels: Mapping[str, Secret] = field(default_factory=dict)  # a tunnel's own key
    webhook: Secret | None = None  # where the address of a webhook lies

    def location(self, tunnel: str) -> str | None:
        """Where the tunnel's routing key lies, as text; None: nobody is called for it."""
        secret = self.tunnels.get(tunnel, self.routing_key)
        return None if secret is None else place(secret)


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """A routing key and the fingerprint that may be remembered of it."""

    value: str = field(repr=False)
    fingerprint: str


class Keyring:
    """Reads routing keys, and remembers those that it has seen."""

    def __init__(self, read: ReadSecret) -> None:
        self._read = read
        self._seen: dict[str, RoutingKey] = {}

    def current(self, location: str) -> RoutingKey:
        """The key that lies there now; OSError, LookupError or ValueError when there is none."""
        keys = self._all(location)
        if not keys:
            raise ValueError(f"{location} is empty")
        return keys[0]

    def known(self, location: str, fingerprint: str) -> RoutingKey | None:
        """The key with this fingerprint: from memory, or an older one that still lies there."""
        if fingerprint not in self._seen:
            self._all(location)
        return self._seen.get(fingerprint)

    def _all(self, location: str) -> list[RoutingKey]:
        lines = (line.strip() for line in self._read(_secret(location)).splitlines())
        keys = [RoutingKey(line, sha256(line.encode()).hexdigest()[:16]) for line in lines if line]
        self._seen.update({key.fingerprint: key for key in keys})
        return keys


class Budget:
    """At most `BUDGET` events per key in any `WINDOW`, and none while PagerDuty asked for silence."""

    def __init__(self, events: int = BUDGET, window: float = WINDOW) -> None:
        self._events = events
        self._window = window
        self._sent: dict[str, deque[float]] = {}  # the last `events` of each key, monotonic seconds
        self._silent_until: dict[str, float] = {}

    def free_at(self, fingerprint: str, now: float) -> float:
        """Monotonic moment from which the key may be used: `now` or earlier when it may."""
        sent = self._sent.get(fingerprint)
        full = sent[0] + self._window if sent and len(sent) == self._events else 0.0
        return max(full, self._silent_until.get(fingerprint, 0.0))

    def spend(self, fingerprint: str, now: float) -> None:
        """An event is sent now."""
        self._sent.setdefault(fingerprint, deque(maxlen=self._events)).append(now)

    def silence(self, fingerprint: str, until: float) -> None:
        """PagerDuty wants no events through this key before `until` (monotonic seconds)."""
        self._silent_until[fingerprint] = until


def place(secret: Secret) -> str:
    """Where a secret lies, as text."""
    return f"file:{secret.file}" if secret.file is not None else f"env:{secret.env}"


def _secret(location: str) -> Secret:
    kind, _, name = location.partition(":")
    return Secret(file=name) if kind == "file" else Secret(env=name)
