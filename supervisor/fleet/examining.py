"""Uses the lock engine once as the daemon does, for `facilitator doctor`: nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Sequence

from supervisor.core.fleet.wishes import lock_key
from supervisor.core.preflight.fleet_facts import EngineAnswer, EngineNode
from supervisor.fleet.lock_service import LockService, LockServiceAway, LockServiceDenied
from supervisor.fleet.places import FleetPlaces
from supervisor.http_connections import HttpConnections, HttpRequest


async def examined(service: LockService, fleet: str, member: str, *, locks: bool) -> EngineAnswer:
    """What the engine lets this member do. `locks`: it has exclusive tunnels."""
    places, denied, seconds = FleetPlaces(fleet), list[tuple[str, str]](), 0.0
    trial = f"doctor.{member}"  # no order has such a name, and no account such a lock
    try:
        lease = (await service.open_lease()).id
        try:
            for what, prefix in (("read statuses", places.nodes), ("read orders", places.orders)):
                await _tried(denied, what, service.list(prefix))
            key = f"{places.acknowledgements}{trial}/{member}"
            await _tried(denied, "write acknowledgements", service.put(key, "", lease))
            if locks:
                began = time.monotonic()
                await _tried(denied, "take locks", service.acquire(lock_key(fleet, trial), "", lease))
                seconds = time.monotonic() - began
        finally:
            await service.revoke(lease)
    except LockServiceDenied as error:
        denied.append(("open a lease", str(error)))
    except LockServiceAway as error:
        return EngineAnswer(service.name, str(error), tuple(denied), ttl=service.ttl)
    return EngineAnswer(service.name, "", tuple(denied), seconds, service.ttl)


async def _tried(denied: list[tuple[str, str]], what: str, call: object) -> None:
    """LockServiceAway that is no refusal."""
    try:
        await call  # type: ignore[misc]  # whatever it returns
    except LockServiceDenied as error:
        denied.append((what, str(error)))


async def etcd_nodes(
    endpoints: Sequence[str], tls: Callable[[], ssl.SSLContext | None], budget: float
) -> tuple[EngineNode, ...]:
    """Each node by itself: one that is broken is not seen by whoever asks all of them in turn."""
    return tuple(await asyncio.gather(*(_node(endpoint, tls, budget) for endpoint in endpoints)))


async def _node(endpoint: str, tls: Callable[[], ssl.SSLContext | None], budget: float) -> EngineNode:
    http = HttpConnections([endpoint], tls, budget)
    try:
        answer = await http.ask(HttpRequest("POST", "/v3/maintenance/status", b"{}"))
        if answer.status != 200:
            return EngineNode(endpoint)  # it answers, and tells strangers nothing
        said = json.loads(answer.body)
        return EngineNode(
            endpoint, "", str(said.get("version", ""))[:20], str(said.get("leader", "0")) != "0"
        )
    except (LockServiceAway, ValueError, AttributeError, RecursionError) as error:
        return EngineNode(endpoint, str(error))
    finally:
        await http.close()
