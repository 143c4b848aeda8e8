"""Builds the HTTP API from the daemon's parts.

Imported only after the clients have been adopted: aiohttp and what else only answers requests takes a
seventh of the daemon's start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from supervisor.app.api.daemon_api import RunningDaemonAPI
from supervisor.app.parts import Parts
from supervisor.config import Config
from supervisor.control.api import HTTPApi
from supervisor.core.diagnosis.query import PacketQuery
from supervisor.core.views.documents import ReloadDocument, UpgradeDocument, WhyDocument


def http_api(
    parts: Parts,
    config: Callable[[], Config],
    stalled: Callable[[], str | None],
    reload: Callable[[], Awaitable[ReloadDocument]],
    drain: Callable[[bool], None],
    upgrade: Callable[[], Awaitable[UpgradeDocument]],
    hand_over: Callable[[str], str | None],
) -> HTTPApi:
    """`config`: the configuration that is in effect now; the others are as in `RunningDaemonAPI`."""
    data_plane, reports = parts.data_plane, parts.reports

    async def explain(question: PacketQuery) -> WhyDocument:
        from supervisor.app.api.explain import Explainer  # slow to import, and seldom asked for

        explainer = Explainer(
            parts.identity.wall_offset,
            parts.engine,
            data_plane.network,
            reports.last_failures,
            lambda: config().staff.segments,
            parts.watchers.host.look,
            lambda: parts.people.view,
        )
        return await explainer.answer(question)

    daemon = RunningDaemonAPI(
        identity=parts.identity,
        inbox=parts.inbox,
        engine=parts.engine,
        runner=data_plane.runner,
        network=data_plane.network,
        metrics_exporter=reports.metrics,
        recorder=reports.history,
        stopped_tunnels=parts.stores.stopped,
        explain=explain,
        page_model=reports.page_model,
        pagers=reports.pagers,
        auditing=reports.auditing,
        file_problem=parts.watchers.client_files.look,
        stalled=stalled,
        on_reload=reload,
        on_drain=drain,
        on_upgrade=upgrade,
        on_hand_over=hand_over,
        membership=parts.fleet,
        people=lambda: parts.people.view,
        names=data_plane.names,
        route_problems=lambda: parts.people.route_problems,
    )
    return HTTPApi(daemon)
