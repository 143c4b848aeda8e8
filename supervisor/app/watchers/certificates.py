"""Warns before our own client certificates expire. They are read from the inputs of each tunnel at each
change, and every few hours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from supervisor.clients.launch import InputReader
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.faults import Faults
from tunnels.base import AnyKind, Tunnel

WARN_BEFORE_SECONDS = 14 * 86400.0
RECHECK_SECONDS = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Expiry:
    """The certificate of a tunnel that expires first."""

    subject: str
    at: float  # Unix time


class Certificates:
    """Keeps the expiry of each tunnel's certificates, and posts `Noticed` when the conditions change."""

    def __init__(
        self, kinds: Mapping[str, AnyKind], read: InputReader, post: Callable[[Event], None], faults: Faults
    ) -> None:
        self._kinds, self._read, self._post, self._faults = kinds, read, post, faults
        self._tunnels: Mapping[str, Tunnel] = {}
        self._said: Mapping[str, Condition] = {}
        self.expiries: Mapping[str, Expiry] = {}  # by tunnel; replaced as a whole

    def set(self, tunnels: Mapping[str, Tunnel]) -> None:
        """Watch the certificates of these tunnels from now on."""
        self._tunnels = tunnels
        self._look(tunnels)

    def _look(self, names: Iterable[str]) -> None:
        """Read the certificates of these tunnels again."""
        asked = self._faults.ask
        found = {
            name: asked("certificates", None, self._expiry, self._tunnels[name])
            for name in names
            if name in self._tunnels
        }
        known = {
            name: expiry
            for name, expiry in self.expiries.items()
            if name in self._tunnels and name not in found
        }
        self.expiries = known | {name: expiry for name, expiry in found.items() if expiry is not None}
        if self.conditions != self._said:
            self._said = self.conditions
            self._post(Noticed(""))

    def changed(self, event: Event) -> None:
        """An input of a tunnel has changed: it may be a new certificate."""
        self._look((event.tunnel,))

    async def run(self) -> None:
        """Check every RECHECK_SECONDS for ever: nothing notifies of an expiry."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            self._look(self._tunnels)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Certificates that expire within WARN_BEFORE_SECONDS, or have expired."""
        now = time.time()
        return {
            f"certificate:{name}": _condition(name, expiry, now)
            for name, expiry in self.expiries.items()
            if expiry.at - now < WARN_BEFORE_SECONDS
        }

    def _expiry(self, tunnel: Tunnel) -> Expiry | None:
        kind = self._kinds[tunnel.kind]
        try:
            texts = kind.certificates(tunnel, self._read(kind, tunnel))
        except (OSError, ValueError):  # reported when the tunnel starts
            return None
        return min(
            (expiry for text in texts for expiry in read(text)), key=lambda expiry: expiry.at, default=None
        )


def read(text: bytes) -> Iterable[Expiry]:
    """The certificates in a PEM text; none if it cannot be parsed."""
    from cryptography import x509  # 0.2 s, and most tunnels have no certificate

    try:
        found = x509.load_pem_x509_certificates(text)
        return [Expiry(each.subject.rfc4514_string(), each.not_valid_after_utc.timestamp()) for each in found]
    except ValueError:
        return ()


def _condition(name: str, expiry: Expiry, now: float) -> Condition:
    moment = datetime.fromtimestamp(expiry.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    days = (expiry.at - now) / 86400.0
    verb = f"expires in {days:.0f} days" if days > 0 else "has expired"
    text = (
        f"the client certificate for {name} ({expiry.subject}) {verb}: {moment}; ask its issuer for a new one"
    )
    return Condition(text, "warning" if days > 0 else "error", f"facilitator status {name}")
