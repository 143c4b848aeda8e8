"""What facilitators of a fleet share: a small key/value store with leases, as etcd and Consul have it.

A *lease* belongs to one member. It ends when it is not renewed for its time to live, and every key that was
written with it goes with it. A *lock* is a key that only one lease at a time can hold.

Keys are paths without a leading slash (`facilitator/emea/locks/acme`); values are text of at most 1 MiB.
Every call is done, or has failed with `LockServiceAway`, within `budget` seconds, however many endpoints are
tried. A call that failed may have been carried out all the same: only its answer is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from supervisor.http_connections import EndpointAway, EndpointDenied

ValueT = TypeVar("ValueT")
LARGE_BYTES = 1 << 17  # of an answer that is read in a thread: decoding it takes milliseconds

# No endpoint has answered in time, or none that has a majority.
LockServiceAway = EndpointAway
# The service answers, and refuses us: certificate, password, token or access rules are wrong.
LockServiceDenied = EndpointDenied


@contextlib.contextmanager
def understood(engine: str) -> Iterator[None]:
    """A context that reads an answer of this engine: one that is not as it should be is LockServiceAway."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise LockServiceAway(f"{engine}: its answer is not understood: {error!r:.100}") from error


async def beside_the_loop(body: bytes, read: Callable[[], ValueT]) -> ValueT:
    """What `read` makes of this answer: in a thread if it is large, so that renewals go on meanwhile."""
    return read() if len(body) < LARGE_BYTES else await asyncio.to_thread(read)


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """A new lease."""

    id: str
    ttl: float  # seconds, as granted

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ValueError("the new lease has no identifier")


@dataclass(frozen=True, slots=True)
class StoredValue:
    """One key."""

    key: str
    value: str
    token: int  # grows with every change of any key: etcd's revision, Consul's index
    lease: str | None = None  # with which it was written; None: it stays


@dataclass(frozen=True, slots=True)
class LockAnswer:
    """What became of a request for a lock."""

    held: bool
    entry: StoredValue | None  # ours (its token orders all holders of the lock), or that of its holder
    delayed: bool = False  # nobody holds it, but Consul's lock delay is not over yet


class LockService(Protocol):
    """One engine. For the event loop's thread only; calls may run side by side."""

    name: str  # etcd or Consul, for sentences
    ttl: float  # seconds
    budget: float  # seconds that a call takes at most

    async def open_lease(self) -> LeaseGrant:
        """A new lease, of `ttl` seconds from the moment that this was called, or later."""

    async def renew(self, lease: str) -> bool:
        """Give it another `ttl` seconds from the moment that this was called, or later. False: it is over."""

    async def revoke(self, lease: str) -> None:
        """End the lease and all its keys. Nothing happens if it is over."""

    async def acquire(self, key: str, value: str, lease: str) -> LockAnswer:
        """Take the lock, if nobody holds it. One that this lease holds already is held: asking again after
        a lost answer is right. This does not renew the lease.
        """

    async def release(self, key: str, lease: str) -> None:
        """Give the lock up. Nothing happens if this lease does not hold it."""

    async def get(self, key: str) -> StoredValue | None:
        """The latest value."""

    async def list(self, prefix: str) -> Sequence[StoredValue]:
        """All keys that begin with it, sorted."""

    async def put(self, key: str, value: str, lease: str | None = None) -> None:
        """Write it, whatever was there. `lease`: it goes when that is over; where the key's last one has
        ended by itself, Consul refuses that (LockServiceAway) until its lock delay is over.
        """

    async def delete(self, key: str) -> None:
        """Remove it, if it is there."""

    def watch(self, prefix: str) -> AsyncIterator[None]:
        """Yields once when the watch stands, and then soon after every change below the prefix. It ends
        after a minute without a change, or with LockServiceAway: a hint that saves waiting, not a proof.
        Whoever uses it reads after each, and every `ttl` / 3 as well.
        """

    async def close(self) -> None:
        """Close connections."""
