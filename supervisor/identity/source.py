"""What a source of identity is. None is trusted: answers are bounded and checked before they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from supervisor.core.identity.book import BookReading
from supervisor.core.identity.staff_routes import StaffRoute
from tunnels.networks import IPAddress

Accepted = Callable[[IPAddress], bool]  # may this be an address of staff


class IdentityAway(Exception):
    """The source has not answered, or not as it should; one sentence."""


class IdentitySource(Protocol):
    """For the event loop's thread only; one question at a time."""

    routes: tuple[StaffRoute, ...]  # of the profiles, for a source that knows them
    relied: float  # seconds for which no address changes its person after its session ends

    async def read(self, after: int, wait: float) -> BookReading:
        """What has changed after this revision of the source (0: everything). It may take `wait` seconds
        until something has. IdentityAway.
        """

    async def close(self) -> None:
        """Close connections."""
