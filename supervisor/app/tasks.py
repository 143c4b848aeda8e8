"""What the daemon does in the background, beside the engine: a task for each."""

from __future__ import annotations

from functools import partial

from supervisor.app.background import BackgroundTasks
from supervisor.app.engine_view import stalled
from supervisor.app.parts import Parts
from supervisor.app.traffic_readers import LaneMeter, SessionMeter
from supervisor.app.watchers.endpoints import EndpointWatch
from supervisor.app.watchers.entered_flows import EnteredFlowsWatch
from supervisor.app.watchers.idle import IdleWatch
from supervisor.app.watchers.loop_watchdog import feed
from supervisor.app.watchers.retransmissions import RetransmissionWatch
from supervisor.app.watchers.source_addresses import SourceAddressWatch
from supervisor.kernel.uplink import UplinkWatch
from supervisor.probes.members import MemberWatch
from supervisor.reports.metrics import loop_lag


def start_tasks(parts: Parts) -> None:
    """Start all of them; they end when the parts are closed."""
    engine, reports, watchers, post = parts.engine, parts.reports, parts.watchers, parts.inbox.post
    background = BackgroundTasks(parts.faults)
    parts.closing.add("background tasks", background.close)

    def turned(lag: float) -> None:
        """The loop turns, once a second; `lag`: the worst delay lately."""
        reports.metrics.loop_lag(lag)
        reports.history.alive()

    background.start("loop lag", lambda: loop_lag.watch(turned))
    background.start("watchdog", lambda: feed(parts.notifier, partial(stalled, engine)))
    background.start("certificates", watchers.certificates.run)
    background.start("quiet", IdleWatch(engine, SessionMeter(engine.lane), post).run)
    background.start("entered flows", EnteredFlowsWatch(engine, LaneMeter(engine.lane), post).run)
    background.start("uplink", UplinkWatch(post).run)
    sources = parts.data_plane.runner.local_addresses
    background.start("source addresses", SourceAddressWatch(lambda: engine.snapshot, sources, post).run)
    background.start("members", MemberWatch(lambda: engine.plan, post).run)
    missed = parts.data_plane.prober.missed
    background.start("endpoints", EndpointWatch(lambda: engine.snapshot, parts.kinds, post, missed).run)
    background.start("retransmissions", RetransmissionWatch(lambda: engine.snapshot).run)
    background.start("status page samples", reports.page_model.run)
    background.start("host watch", watchers.host.run)
    background.start("http address", watchers.http.run)
    for name, run in parts.fleet.tasks.items() if parts.fleet is not None else ():
        background.start(name, run)
    background.start("names", parts.data_plane.names.run)
    if parts.locks is not None:
        background.start("locks", parts.locks.run)
    background.start("hub", parts.people.run)
    background.start("hub age", parts.people.watch_age)
    watchers.loop.start()
    background.start("loop watchdog", watchers.loop.run)
