"""What a daemon leaves to the next one about the locks that it holds, and what that is still worth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from supervisor.core.fleet.lease import NEVER, Lease, LeasePhase, log_off, permitted_until
from supervisor.core.fleet.wishes import lock_key
from supervisor.fleet.lock_service import LockService, LockServiceAway


@dataclass(frozen=True, slots=True)
class HeldLocks:
    """What the next daemon goes on from. It means nothing after a boot of the host."""

    boot: str
    engine: str  # whose lease it is: another engine, fleet or TTL is configured since, or not
    lease: str
    until: float  # monotonic seconds
    tokens: Mapping[str, int] = field(default_factory=dict)  # by account
    tunnels: Mapping[str, str] = field(default_factory=dict)  # by account: which one holds it
    leaving: tuple[str, ...] = ()  # accounts whose locks are still to be given back


async def recalled(
    service: LockService, held: HeldLocks, fleet: str, monotonic: Callable[[], float]
) -> tuple[float, Mapping[str, Lease]]:
    """Until when the renewed lease gives permission, and the leases of the accounts. A service that is away
    changes nothing. A lock that is another one's by now, or nobody's, is not ours any more.
    """
    sent = monotonic()
    until, ours = held.until, frozenset(held.tokens)
    with contextlib.suppress(LockServiceAway):
        until = permitted_until(sent, service.ttl) if await service.renew(held.lease) else NEVER
        ours = await _still_ours(service, held, fleet)
    ends = log_off(service.ttl)
    leaving = {account: Lease(LeasePhase.ENDING, ends, running=True) for account in held.leaving}
    return until, leaving | {
        account: Lease(LeasePhase.HELD, ends, True, True, until, held.tokens[account]) for account in ours
    }


async def _still_ours(service: LockService, held: HeldLocks, fleet: str) -> frozenset[str]:
    """The accounts whose locks this lease holds at the service. LockServiceAway."""
    accounts = list(held.tokens)
    found = await asyncio.gather(*(service.get(lock_key(fleet, account)) for account in accounts))
    pairs = zip(accounts, found, strict=True)
    return frozenset(name for name, entry in pairs if entry is not None and entry.lease == held.lease)
