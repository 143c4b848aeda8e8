"""What `facilitator fleet` does where no daemon answers, such as on a laptop: it asks the lock engine, or the
members' HTTP servers, as the configuration says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from supervisor.app.files import Files, load
from supervisor.app.fleet.lock_engine import lock_service, member_apis, members_of
from supervisor.app.fleet.membership import NO_ENGINE
from supervisor.config.fleet import FleetSettings
from supervisor.core.fleet.orders import new_order
from supervisor.core.fleet.view import fleet_document
from supervisor.core.views.documents import FleetDocument, FleetOrderDocument
from supervisor.fleet.lock_service import LockServiceAway
from supervisor.fleet.ordering import FleetOrdering
from supervisor.fleet.places import FleetPlaces
from tunnels.registry import KINDS

ValueT = TypeVar("ValueT")


def status(path: Path) -> FleetDocument:
    """The fleet of this configuration. LookupError: it has none; OSError: the engine does not answer;
    ConfigErrors, CannotStart: see `files.load`.
    """
    fleet, name = _fleet(path)
    configured = members_of(fleet, name)
    if fleet.lock is None:
        sight = asyncio.run(member_apis(fleet, None).sight())
        return fleet_document(fleet.name, None, configured, replace(sight, problems=(NO_ENGINE,)))
    sight = _with_engine(path, lambda ordering: ordering.sight())
    return fleet_document(fleet.name, None, configured, sight)


def order(
    path: Path, words: tuple[str, str, str, str, float], wait: float, *, lift: bool
) -> FleetOrderDocument:
    """Give an order to the fleet of this configuration, or lift it. `words`: as for `new_order`. Errors as in
    `status`.
    """
    given = new_order(*words)
    return _with_engine(
        path, lambda ordering: ordering.lift(given, wait) if lift else ordering.give(given, wait)
    )


def _fleet(path: Path) -> tuple[FleetSettings, str | None]:
    config = load(path, KINDS)
    if config.fleet is None:
        raise LookupError(f"{path} has no `fleet:`")
    return config.fleet, config.facilitator.name


def _with_engine(path: Path, act: Callable[[FleetOrdering], Awaitable[ValueT]]) -> ValueT:
    fleet, name = _fleet(path)
    engine = fleet.lock
    if engine is None:
        raise LookupError(NO_ENGINE)

    async def acted() -> ValueT:
        files = Files(path.resolve().parent, lambda secret: None)
        service = lock_service(engine, name or "command", files)
        try:
            return await act(FleetOrdering(service, FleetPlaces(fleet.name), members_of(fleet, name)))
        except LockServiceAway as error:
            raise OSError(f"the lock engine does not answer: {error}") from error
        finally:
            await service.close()

    return asyncio.run(acted())
