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
from supervisor.app.fleet.membership import NO_ENGINE
from supervisor.app.lock_engine import lock_service, member_apis, members_of
from supervisor.config import Config
from supervisor.config.fleet import FleetSettings
from supervisor.core.fleet.orders import new_order
from supervisor.core.fleet.view import fleet_document, no_such_subject
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
    config = load(path, KINDS)
    fleet, name = _fleet(config, path)
    configured = members_of(fleet, name)
    if fleet.lock is None:
        sight = asyncio.run(member_apis(fleet, None).sight())
        return fleet_document(fleet.name, None, configured, replace(sight, problems=(NO_ENGINE,)))
    sight = _with_engine(config, path, lambda ordering: ordering.sight())
    return fleet_document(fleet.name, None, configured, sight)


def order(
    path: Path, words: tuple[str, str, str, str, float], wait: float, *, lift: bool
) -> FleetOrderDocument:
    """Give an order to the fleet of this configuration, or lift it. `words`: as for `new_order`. LookupError
    as well: nobody has such a tunnel, or there is no such member. Errors as in `status`.
    """
    given, config = new_order(*words), load(path, KINDS)

    async def act(ordering: FleetOrdering) -> FleetOrderDocument:
        if lift:
            return await ordering.lift(given, wait)
        sight = await ordering.sight()
        if (text := no_such_subject(given, sight, ordering.configured, config.tunnels)) is not None:
            raise LookupError(text)
        return await ordering.give(given, wait)

    return _with_engine(config, path, act)


def _fleet(config: Config, path: Path) -> tuple[FleetSettings, str | None]:
    if config.fleet is None:
        raise LookupError(f"{path} has no `fleet:`")
    return config.fleet, config.facilitator.name


def _with_engine(config: Config, path: Path, act: Callable[[FleetOrdering], Awaitable[ValueT]]) -> ValueT:
    fleet, name = _fleet(config, path)
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
