"""A WireGuard device and its peers: what both implementations have in common (`device` and `userspace`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

Endpoint = tuple[str, int]  # address and UDP port


class EndedError(Exception):
    """The process that serves the device has ended, or does not serve it yet."""


@dataclass(frozen=True, slots=True)
class DevicePeer:
    """A peer, as it is configured."""

    key: bytes = field(repr=False)
    preshared: bytes | None = field(repr=False)
    endpoint: Endpoint | None
    allowed: tuple[str, ...]  # networks (AllowedIPs)
    keepalive: int  # seconds


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer, as the device sees it."""

    key: bytes = field(repr=False)
    endpoint: str = ""  # address, without the port
    handshake: int = 0  # Unix time of the last one in nanoseconds; 0: there was none
    sent: int = 0  # bytes since the interface exists
    received: int = 0  # the same; only of authenticated packets


class WireGuardDevice(Protocol):
    """A WireGuard interface. What it refuses is an OSError; EndedError: no process serves it."""

    async def configure(self, private_key: bytes, port: int, peers: Sequence[DevicePeer]) -> None:
        """Replace the whole configuration; sessions start again."""

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        """Change the endpoint of a peer."""

    async def look(self) -> list[PeerStatus]:
        """The status of all peers."""

    async def port(self) -> int:
        """The UDP port that it listens on; 0: none."""

    async def ended(self) -> int:
        """Wait until the device serves no more: an exit code, or the negative number of a signal."""

    async def close(self) -> None:
        """Remove the interface."""
