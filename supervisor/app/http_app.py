"""Builds the HTTP API from the daemon's parts.

Imported only after the clients have been adopted: aiohttp and what else only answers requests takes a
seventh of the daemon's start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from supervisor.app.api.daemon_api import RunningDaemonAPI
from supervisor.app.api.explain import Explainer
from supervisor.app.wiring import Parts
from supervisor.config import Config
from supervisor.control.api import HTTPApi
from supervisor.core.views.documents import ReloadDocument, UpgradeDocument


def http_api(
    parts: Parts,
    config: Callable[[], Config],
    stalled: Callable[[], str | None],
    reload: Callable[[], Awaitable[ReloadDocument]],
    drain: Callable[[bool], None],
    upgrade: Callable[[], Awaitable[UpgradeDocument]],
) -> HTTPApi:
    """`config`: the configuration that is in effect now; the others are as in `RunningDaemonAPI`."""
    explainer = Explainer(
        parts.identity.wall_offset,
        parts.engine,
        parts.network,
        parts.deaths,
        lambda: config().staff.segments,
        parts.hostwatch.look,
    )
    daemon = RunningDaemonAPI(
        identity=parts.identity,
        inbox=parts.inbox,
        engine=parts.engine,
        runner=parts.runner,
        network=parts.network,
        metrics_exporter=parts.metrics,
        recorder=parts.history,
        stopped_tunnels=parts.held,
        explainer=explainer,
        page_model=parts.page_model,
        pagers=parts.alerter,
        auditing=parts.auditing,
        stalled=stalled,
        on_reload=reload,
        on_drain=drain,
        on_upgrade=upgrade,
    )
    return HTTPApi(daemon)
