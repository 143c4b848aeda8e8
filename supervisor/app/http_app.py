"""What the daemon shows to commands and scrapers, put together: `control.api` over the `Facade`.

Not imported before the clients are adopted: aiohttp and all that only answers takes a seventh of the daemon's
start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from supervisor.app.api.daemon_api import Facade
from supervisor.app.api.explain import Explainer
from supervisor.app.wiring import Parts
from supervisor.config import Config
from supervisor.control.api import Api

Action = Callable[[], Awaitable[dict[str, Any]]]


def face(
    parts: Parts,
    config: Callable[[], Config],
    stalled: Callable[[], str | None],
    reload: Action,
    drain: Callable[[bool], None],
    upgrade: Action,
) -> Api:
    """The API of the daemon that consists of these parts. `config`: what it runs with now; the others are
    as in `Facade`.
    """
    explainer = Explainer(
        parts.identity.wall_offset,
        parts.engine,
        parts.network,
        parts.deaths,
        lambda: config().staff.segments,
        parts.hostwatch.look,
    )
    return Api(
        Facade(
            parts.identity,
            parts.inbox,
            parts.engine,
            parts.runner,
            parts.network,
            parts.metrics,
            parts.history,
            parts.held,
            explainer,
            parts.board,
            parts.alerter,
            parts.auditing,
            stalled,
            reload,
            drain,
            upgrade,
        )
    )
