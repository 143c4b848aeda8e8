"""Builds everything that one run of the daemon consists of. Nothing runs yet; nothing is looked up again
later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supervisor import __version__
from supervisor.app.api.status_page_model import Board, BoardSources
from supervisor.app.files import Files
from supervisor.app.stores.second_sessions import Learned
from supervisor.app.stores.state_store import MemoryFiles, Present
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.app.stores.upgrade_document import HandoverDocument
from supervisor.app.traffic_readers import LaneMeter, SessionMeter
from supervisor.app.watchers.auditing import Auditing
from supervisor.app.watchers.certificates import Certificates
from supervisor.app.watchers.hostwatch import HostWatch
from supervisor.app.watchers.server_tls import TlsRenewal
from supervisor.clients.input_watcher import InputWatcher
from supervisor.clients.processes import boot_id
from supervisor.clients.runner import Runner
from supervisor.clients.totp import Codes
from supervisor.config.model import Config
from supervisor.control.sd_notify import Notifier
from supervisor.control.sockets import Servers
from supervisor.core.events import Event, Noticed
from supervisor.core.faults import Faults
from supervisor.core.network.compose import Scope, compose
from supervisor.core.network.failover import recalled
from supervisor.core.network.plan import NetworkPlan, assign_lanes
from supervisor.core.session.kind_guard import guarded
from supervisor.core.session.record import PreviousRun, found
from supervisor.core.state import Snapshot, Transition, up
from supervisor.core.views.drain_text import silence, waits_for
from supervisor.core.views.status_json import DaemonIdentity
from supervisor.engine import Engine
from supervisor.inbox import Inbox
from supervisor.kernel.conntrack.flow_counter import FlowWatch
from supervisor.kernel.device_counters import LinkBytes
from supervisor.kernel.network import KernelNetwork
from supervisor.kernel.nft.counters import refused_packets
from supervisor.outputs import Outputs
from supervisor.probes.prober import ProbeLoop
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.last_failures import Deaths
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.history.writer_thread import Meters
from supervisor.reports.log.configure import TransitionLog
from supervisor.reports.log.redact import Secrets
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.metrics.series import ScrapeSources
from supervisor.reports.paging.pagers import Pagers
from supervisor.reports.paging.receiver import Hooks
from supervisor.reports.paging.routing import Paging
from tunnels.base import AnyKind
from tunnels.settings import Tunnel

_LAST_LINES = 20  # of a client, in an incident
_SETTLED_WITHIN = 2.0  # seconds for the kernel to follow; a client is ended at any rate


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each."""

    identity: DaemonIdentity
    kinds: Mapping[str, AnyKind]
    faults: Faults
    files: Files
    held: StoppedTunnels
    learned: Learned
    certificates: Certificates
    inbox: Inbox
    runner: Runner
    watcher: InputWatcher
    network: KernelNetwork
    prober: ProbeLoop
    flows: FlowWatch
    metrics: Metrics
    deaths: Deaths
    history: History
    alerter: Pagers
    auditing: Auditing
    engine: Engine
    memory: MemoryFiles
    servers: Servers
    tls_renewal: TlsRenewal
    board: Board
    hostwatch: HostWatch
    notifier: Notifier


def build(
    path: Path,
    kinds: Mapping[str, AnyKind],
    config: Config,
    secrets: Secrets,
    notifier: Notifier,
    log_dropped: Callable[[], int],
    given: HandoverDocument | None = None,
) -> Parts:
    """The parts for the configuration that was read from `path`; `given`: what the program before us in
    this process has left.
    """
    identity = _identity(config, 0 if given is None else given.upgrades + 1)
    files = Files(path.resolve().parent, secrets.add)
    inbox = Inbox()
    faults = Faults(time.monotonic, log_fault, lambda: inbox.post(Noticed("")))
    kinds = {name: guarded(kind, faults) for name, kind in kinds.items()}
    codes = Codes(config.facilitator.state_dir / "codes.json")

    def lane(tunnel: str, slot: int) -> int | None:
        return engine.lane(tunnel, slot)  # which is made later

    runner = Runner(
        kinds,
        config.facilitator.runtime_dir,
        files.inputs,
        inbox.post,
        on_line=_client_said,
        codes=codes,
        lane_of=lane,
        kept={} if given is None else given.kept,
        private=(*files.directories, config.facilitator.state_dir),
    )
    hostwatch = HostWatch(lambda: engine, kinds, inbox.post)
    network = KernelNetwork(inbox.post, _note, changed=hostwatch.changed)
    history = History(
        Archive(config.facilitator.state_dir, __version__),
        HistorySources(boot_id(), meters=Meters(LinkBytes(), LaneMeter(lane)), mask=secrets.mask),
    )
    metrics = Metrics(
        __version__,
        identity.wall_offset,
        ScrapeSources(
            link_bytes=LinkBytes(),
            carried=LaneMeter(lane),
            usage=runner.usage,
            audit=lambda: auditing.counts,
            routes=lambda: network.achieved,
            repairs=lambda: network.repairs,
            availability=history.ratios,
            history_usable=lambda: history.usable,
            refused=lambda: refused_packets(engine.plan),
            pagerduty=lambda: alerter.status,
            log_dropped=log_dropped,
            certificates=lambda: {name: expiry.at for name, expiry in certificates.expiries.items()},
            internal_errors=lambda: faults.counts,
        ),
    )
    hooks = Hooks(files.secret_text, lambda tunnel: runner.tail(tunnel, _LAST_LINES), metrics.pagerduty_event)
    alerter = Pagers(config.facilitator.state_dir, paging(identity, config), hooks, secrets)
    chance = random.SystemRandom().random
    prober = ProbeLoop(inbox.post, network.settled, chance, LinkBytes(), faults.contained)
    deaths = Deaths()
    auditing = Auditing(__version__, lambda: engine.plan, inbox.post)
    learned = Learned(config.facilitator.state_dir)
    recorders = (TransitionLog(), metrics, deaths, history, auditing, learned, SystemdStatus(notifier))
    certificates = Certificates(kinds, files.inputs, inbox.post, faults)
    board = Board(
        BoardSources(
            lambda: engine.snapshot,
            lambda: deaths.last,
            SessionMeter(lane),
            history,
            identity.wall_offset,
            secrets.mask,
        )
    )
    tls_renewal = TlsRenewal(inbox.post)
    held, watcher = (
        StoppedTunnels(config.facilitator.state_dir),
        InputWatcher(_all(inbox.post, certificates.changed)),
    )  # neither raises
    servers = Servers({} if given is None else given.listening)
    present = Present(boot_id(), lambda tunnel: engine.tunnel(tunnel), watcher.digest)  # noqa: PLW0108 - the engine is made later
    memory = MemoryFiles(config.facilitator.runtime_dir, present)
    flows = FlowWatch(inbox.post, network.settled, _note, faults.contained)
    runs, watchers = (
        AfterNetwork(runner, network.released, faults),
        (certificates, tls_renewal, auditing, hostwatch),
    )
    outputs = Outputs(runs, network, prober, flows, (alerter, history, board), recorders, watchers, (memory,))
    engine = Engine(
        inbox, outputs, kinds, clock=time.monotonic, chance=chance, utc_offset=_utc_offset, faults=faults
    )
    return Parts(
        identity,
        kinds,
        faults,
        files,
        held,
        learned,
        certificates,
        inbox,
        runner,
        watcher,
        network,
        prober,
        flows,
        metrics,
        deaths,
        history,
        alerter,
        auditing,
        engine,
        memory,
        servers,
        tls_renewal,
        board,
        hostwatch,
        notifier,
    )


def _identity(config: Config, upgrades: int) -> DaemonIdentity:
    name = config.facilitator.name or socket.gethostname()
    return DaemonIdentity(
        name, __version__, os.getpid(), time.time(), time.time() - time.monotonic(), upgrades
    )


def _all(*takers: Callable[[Event], None]) -> Callable[[Event], None]:
    """Tell each of them."""

    def tell(event: Event) -> None:
        for take in takers:
            take(event)

    return tell


def _utc_offset() -> float:
    """Seconds that turn a monotonic moment into local time."""
    now = time.time()
    return now - time.monotonic() + time.localtime(now).tm_gmtoff


def scope(facilitator: str, config: Config) -> Scope:
    """What all tunnels have in common."""
    drain = config.drain
    return Scope(
        facilitator,
        config.staff.networks,
        config.staff.segments,
        drain.timeout,
        drain.idle,
        config.audit is not None,
    )


def first_plan(
    config: Config, kinds: Mapping[str, AnyKind], memory: PreviousRun | None = None
) -> NetworkPlan:
    """What the kernel should hold for this configuration before anything was started: what still runs
    stays as it was.
    """
    tunnels, known = config.tunnels, memory or PreviousRun()
    snapshot = found(tunnels, known, time.monotonic())
    lanes = assign_lanes(list(tunnels), known.lanes)
    carriers = recalled(list(tunnels.values()), known.carries)
    return compose(scope("", config), snapshot, lanes, kinds, carriers).plan


def paging(identity: DaemonIdentity, config: Config) -> Paging:
    """Who is called, and through which key."""
    own = {name: t.alert.routing_key for name, t in config.tunnels.items() if t.alert.routing_key is not None}
    pagerduty, webhook = config.alerts.pagerduty, config.alerts.webhook
    address = None if webhook is None else webhook.url
    if pagerduty is None:
        return Paging(identity.facilitator, tunnels=own, webhook=address)
    return Paging(identity.facilitator, str(pagerduty.url), pagerduty.routing_key, own, address)


def summary(snapshot: Snapshot) -> str:
    """One line about all tunnels."""
    known = (
        f"{sum(up(state) for _, state in snapshot.tunnels.values())} of {len(snapshot.tunnels)} tunnels up"
    )
    if left := waits_for(snapshot):
        return f"{known}, draining: {left}, silent for at most {silence(snapshot)}"
    return f"{known}, draining" if snapshot.draining else known


class AfterNetwork:
    """The runner that ends a client only when the kernel carries out the latest plan: its traffic goes
    elsewhere first, if it can.
    """

    def __init__(self, runner: Runner, settled: Callable[[str], Awaitable[None]], faults: Faults) -> None:
        self._runner, self._settled, self._faults = runner, settled, faults
        self._waiting: set[asyncio.Task[None]] = set()

    def spawn(
        self, tunnel: Tunnel, session: int, resume: bool = False, remote: int = 0, slot: int = 0
    ) -> None:
        """At once."""
        self._runner.spawn(tunnel, session, resume, remote, slot)

    def renew(self, tunnel: str, session: int) -> None:
        """At once."""
        self._runner.renew(tunnel, session)

    def kill(self, tunnel: str, session: int) -> None:
        """At once."""
        self._runner.kill(tunnel, session)

    @property
    def busy(self) -> bool:
        """Clients have not been started yet."""
        return self._runner.busy

    def terminate(self, tunnel: str, session: int, leave: bool = False) -> None:
        """Soon."""
        task = asyncio.get_running_loop().create_task(self._terminate(tunnel, session, leave))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _terminate(self, tunnel: str, session: int, leave: bool) -> None:
        with self._faults.contained("network"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLED_WITHIN):
                await self._settled(tunnel)
        self._faults.run("runner", self._runner.terminate, tunnel, session, leave)


class SystemdStatus:
    """Keeps the line that `systemctl status` shows."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Say how many tunnels are up."""
        self._notifier.status(summary(snapshot))


def _client_said(tunnel: str, text: str) -> None:
    structlog.get_logger().info("client", tunnel=tunnel, text=text)


def log_fault(part: str, place: str, error: BaseException) -> None:
    """One line about a fault of the daemon itself."""
    structlog.get_logger().error(
        "internal error: a part has failed, the others go on", part=part, at=place, error=repr(error)
    )


def _note(text: str, details: Mapping[str, Any]) -> None:
    structlog.get_logger().warning(text, **details)
