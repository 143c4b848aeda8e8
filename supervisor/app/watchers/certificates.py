"""How long our own certificates are still good: read from the inputs of each tunnel, at each change, and
every few hours.
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

WARN = 14 * 86400.0  # seconds before the end
LOOK_AGAIN = 6 * 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Expiry:
    """When the first certificate of a tunnel stops being good."""

    subject: str
    at: float  # Unix time


class Certificates:
    """Knows the expiry of each tunnel's certificates, and posts `Noticed` when there is something new to
    say.
    """

    def __init__(
        self, kinds: Mapping[str, AnyKind], read: InputReader, post: Callable[[Event], None], faults: Faults
    ) -> None:
        self._kinds, self._read, self._post, self._faults = kinds, read, post, faults
        self._tunnels: Mapping[str, Tunnel] = {}
        self._said: Mapping[str, Condition] = {}
        self.expiries: Mapping[str, Expiry] = {}  # by tunnel; replaced as a whole

    def set(self, tunnels: Mapping[str, Tunnel]) -> None:
        """Look after these."""
        self._tunnels = tunnels
        self._look(tunnels)

    def _look(self, names: Iterable[str]) -> None:
        """Read those of these tunnels anew."""
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
        """An input of a tunnel has new content: perhaps the certificate that was asked for."""
        self._look((event.tunnel,))

    async def run(self) -> None:
        """Look again from time to time, for ever: what expires does so without an event."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            self._look(self._tunnels)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What expires soon, or has."""
        now = time.time()
        return {
            f"certificate:{name}": _condition(name, expiry, now)
            for name, expiry in self.expiries.items()
            if expiry.at - now < WARN
        }

    def _expiry(self, tunnel: Tunnel) -> Expiry | None:
        kind = self._kinds[tunnel.kind]
        try:
            texts = kind.certificates(tunnel, self._read(kind, tunnel))
        except (OSError, ValueError):  # the tunnel's own start says what is wrong with its inputs
            return None
        return min(
            (expiry for text in texts for expiry in read(text)), key=lambda expiry: expiry.at, default=None
        )


def read(text: bytes) -> Iterable[Expiry]:
    """The certificates in a PEM text; nothing where there is none that can be read."""
    from cryptography import x509  # costs a fifth of a second, and most tunnels have no certificate

    try:
        found = x509.load_pem_x509_certificates(text)
        return [Expiry(each.subject.rfc4514_string(), each.not_valid_after_utc.timestamp()) for each in found]
    except ValueError:
        return ()


def _condition(name: str, expiry: Expiry, now: float) -> Condition:
    moment = datetime.fromtimestamp(expiry.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    days = (expiry.at - now) / 86400.0
    verb = f"expires in {days:.0f} days" if days > 0 else "has expired"
    text = f"our certificate for {name} ({expiry.subject}) {verb}: {moment}; ask its issuer for a new one"
    return Condition(text, "warning" if days > 0 else "error", f"facilitator status {name}")
