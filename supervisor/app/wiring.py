"""The composition root: builds all parts of one run of the daemon, each before those that use it.

identity, files, inbox, faults -> reports -> kernel and clients -> watchers -> engine, which drives them all

Nothing runs yet. Each part that must be closed registers that when it is made (`supervisor.app.closing`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.app.api.status_page_model import StatusPageInputs, StatusPageModel
from supervisor.app.closing import Closing
from supervisor.app.deferred_runner import DeferredRunner
from supervisor.app.directories import remove_socket
from supervisor.app.engine_view import EngineView, stalled
from supervisor.app.files import Files
from supervisor.app.fleet.building import MembershipInputs, membership
from supervisor.app.fleet.locks import LockInputs, lock_keeper
from supervisor.app.fleet.membership import Membership
from supervisor.app.identity import daemon_identity, utc_offset
from supervisor.app.log_lines import log_client_line, log_fault, log_warning
from supervisor.app.names import NameServiceProcess
from supervisor.app.owner import Owner
from supervisor.app.paging_config import paging
from supervisor.app.parts import DataPlane, Parts, Reports, RunInputs, Stores, Watchers
from supervisor.app.people.access import follow_people
from supervisor.app.people.watch import PeopleWatch
from supervisor.app.preflight.host_watch import HostWatch
from supervisor.app.status_line import SystemdStatus
from supervisor.app.stores.changed_sysctls import ChangedSysctls
from supervisor.app.stores.last_configuration import LastConfiguration
from supervisor.app.stores.last_end import LastEnd
from supervisor.app.stores.second_sessions import SecondSessions
from supervisor.app.stores.state_store import MemoryFiles, Present
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.app.traffic_readers import LaneMeter, SessionMeter
from supervisor.app.watchers.auditing import Auditing
from supervisor.app.watchers.certificates import Certificates
from supervisor.app.watchers.client_files import ClientFiles
from supervisor.app.watchers.configuration import ConfigurationFile
from supervisor.app.watchers.http_address import HttpAddress
from supervisor.app.watchers.loop_watchdog import LoopWatchdog
from supervisor.app.watchers.server_tls import TlsRenewal
from supervisor.app.watchers.silencing import Silencing
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.hooks import HookRunner, HookSources
from supervisor.clients.input_watcher import InputWatcher
from supervisor.clients.processes import boot_id
from supervisor.clients.runner import Runner
from supervisor.clients.spawner import ClientSources
from supervisor.clients.totp import Codes
from supervisor.config.model import Config
from supervisor.control.sockets import Servers
from supervisor.core.events import Event, Noticed
from supervisor.core.faults import Faults
from supervisor.core.fleet.announcements import metrics_by_destination
from supervisor.core.session.kind_guard import guarded
from supervisor.core.views.status_json import DaemonIdentity
from supervisor.engine import Engine
from supervisor.fleet.lock_keeper import LockKeeper
from supervisor.inbox import Inbox
from supervisor.kernel.conntrack.flow_counter import FlowWatch
from supervisor.kernel.conntrack.replies import LaneReplies
from supervisor.kernel.counters import LinkBytes, link_bytes_now, refused_packets
from supervisor.kernel.network import KernelNetwork
from supervisor.outputs import Outputs
from supervisor.probes.prober import ProbeLoop
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.last_failures import LastFailures
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.history.session_traffic import TrafficSources
from supervisor.reports.log.configure import TransitionLog
from supervisor.reports.log.redact import Secrets
from supervisor.reports.metrics.counters import SentEvents
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.metrics.series import ScrapeSources
from supervisor.reports.paging.notifier import PagerHooks
from supervisor.reports.paging.pagers import Pagers
from supervisor.version import version
from tunnels.base import AnyKind

INCIDENT_LINES = 20  # last lines of a client that go into an incident


@dataclass(frozen=True, slots=True)
class _Base:
    """What all other parts build on."""

    config: Config
    identity: DaemonIdentity
    kinds: Mapping[str, AnyKind]
    files: Files
    inbox: Inbox
    faults: Faults
    secrets: Secrets
    closing: Closing
    engine: EngineView
    people: PeopleWatch

    @property
    def state_dir(self) -> Path:
        """Of the daemon."""
        return self.config.facilitator.state_dir

    @property
    def runtime_dir(self) -> Path:
        """Of the daemon."""
        return self.config.facilitator.runtime_dir


def build(config: Config, inputs: RunInputs) -> Parts:
    """All parts for this configuration."""
    handover = inputs.handover
    inbox, closing, view = Inbox(), Closing(), EngineView()
    last_end = LastEnd(config.facilitator.state_dir)
    identity = daemon_identity(config, 0 if handover is None else handover.upgrades + 1, last_end.entry)
    files = Files(inputs.path.resolve().parent, inputs.secrets.add)
    faults = Faults(time.monotonic, log_fault, lambda: inbox.post(Noticed("")))
    kinds = {name: guarded(kind, faults) for name, kind in inputs.kinds.items()}
    people = PeopleWatch(files.secret_text, inbox.post)
    base = _Base(config, identity, kinds, files, inbox, faults, inputs.secrets, closing, view, people)
    closing.add("control socket", lambda: remove_socket(config.facilitator.runtime_dir))
    history, auditing = _history(base), _auditing(base)
    host = HostWatch(view, kinds, inbox.post, files)
    data_plane = _data_plane(base, host, inputs.owner, {} if handover is None else handover.kept)
    watchers = _watchers(base, host, inputs.path)
    locks = _locks(base, data_plane.network)
    stores = _stores(base, watchers.inputs, inputs.path, last_end)
    fleet = _membership(base, data_plane, stores)
    reports = _reports(
        base, data_plane, watchers.certificates, history, auditing, inputs.log_dropped, fleet, locks
    )
    servers = Servers({} if handover is None else handover.listening)
    closing.add("servers", servers.close)
    engine = Engine(
        inbox,
        _outputs(base, data_plane, reports, watchers, stores, SystemdStatus(inputs.notifier), fleet, locks),
        kinds,
        clock=time.monotonic,
        chance=random.SystemRandom().random,
        utc_offset=utc_offset,
        faults=faults,
    )
    view.complete(engine)
    follow_people(people, data_plane.network, engine, fleet, data_plane.names)
    return Parts(
        identity,
        kinds,
        files,
        faults,
        inbox,
        inputs.notifier,
        closing,
        servers,
        stores,
        data_plane,
        reports,
        watchers,
        engine,
        fleet,
        locks,
        people,
    )


def _membership(base: _Base, data_plane: DataPlane, stores: Stores) -> Membership | None:
    network, known = data_plane.network, base.people.known
    about = MembershipInputs(
        base.engine, base.files, base.inbox.post, lambda: stores.stopped.names, network.settled, known
    )
    if (made := membership(base.config, base.identity.facilitator, about)) is not None:
        base.closing.add("fleet", made.close)
    return made


def _locks(base: _Base, network: KernelNetwork) -> LockKeeper | None:
    about = LockInputs(
        base.identity.facilitator, boot_id(), base.engine, base.files, network, base.inbox.post
    )
    keeper = lock_keeper(base.config, about)
    if keeper is not None:
        base.closing.add("locks", keeper.close)
    return keeper


def _data_plane(base: _Base, host: HostWatch, owner: Owner, kept: Mapping[str, str]) -> DataPlane:
    """`kept`: what spares the next login, by slot."""
    first = ChangedSysctls(base.state_dir)
    network = KernelNetwork(base.inbox.post, log_warning, changed=host.changed, first=first)
    base.closing.add("network", lambda: network.close(keep=True))
    group = None if owner.spares_clients else ClientGroup(base.identity.facilitator)
    if group is not None:
        base.closing.add("client group", group.close)
    runner = Runner(
        base.runtime_dir,
        ClientSources(base.kinds, base.files.inputs, base.engine.lane, _private(base), group=group),
        base.inbox.post,
        on_line=log_client_line,
        codes=Codes(base.state_dir / "codes.json"),
        kept=kept,
    )
    base.closing.add("runner", runner.close)
    flows = FlowWatch(base.inbox.post, network.settled, log_warning, base.faults.contained)
    base.closing.add("flows", flows.close)
    random_unit, contained = random.SystemRandom().random, base.faults.contained
    prober = ProbeLoop(base.inbox.post, network.settled, random_unit, LinkBytes(), LaneReplies(), contained)
    base.closing.add("prober", prober.close)
    offset = base.identity.wall_offset
    names = NameServiceProcess(base.runtime_dir, runner.reaper, group, offset, base.inbox.post)
    base.closing.add("names", names.close)
    return DataPlane(runner, network, prober, flows, names, group)


def _watchers(base: _Base, host: HostWatch, path: Path) -> Watchers:
    certificates = Certificates(base.kinds, base.files.inputs, base.inbox.post, base.faults)

    client_files = ClientFiles(base.kinds, base.files, base.engine, base.inbox.post, base.faults)

    def inputs_changed(event: Event) -> None:
        base.inbox.post(client_files.changed(event))
        certificates.changed(event)

    inputs = InputWatcher(inputs_changed)
    base.closing.add("watcher", inputs.close)
    tls = TlsRenewal(base.inbox.post)
    base.closing.add("TLS renewal", tls.close)
    configuration = ConfigurationFile(path, base.inbox.post)
    base.closing.add("configuration file", configuration.close)
    loop = LoopWatchdog(base.runtime_dir, lambda: stalled(base.engine), time.monotonic)
    base.closing.add("loop watchdog", loop.stop)
    address = HttpAddress(base.inbox.post)
    return Watchers(inputs, client_files, certificates, tls, host, configuration, loop, address)


def _history(base: _Base) -> History:
    traffic = TrafficSources(LinkBytes(), link_bytes_now, LaneMeter(base.engine.lane).of_slot)
    sources = HistorySources(boot_id(), traffic=traffic, mask=base.secrets.mask)
    history = History(Archive(base.state_dir, version()), sources)
    base.closing.add("history", history.close)
    return history


def _auditing(base: _Base) -> Auditing:
    auditing = Auditing(version(), base.engine, base.inbox.post, base.people.person)
    base.closing.add("audit", auditing.close)
    return auditing


def _reports(
    base: _Base,
    data_plane: DataPlane,
    certificates: Certificates,
    history: History,
    auditing: Auditing,
    log_dropped: Callable[[], int],
    fleet: Membership | None,
    locks: LockKeeper | None,
) -> Reports:
    engine, runner, network = base.engine, data_plane.runner, data_plane.network
    sent, last_failures = SentEvents(), LastFailures()
    hooks = PagerHooks(base.files.secret_text, lambda tunnel: runner.tail(tunnel, INCIDENT_LINES), sent.count)
    pagers = Pagers(base.state_dir, paging(base.identity, base.config), hooks, base.secrets)
    base.closing.add("alerter", pagers.close)
    silencing = Silencing(base.state_dir, pagers, base.inbox.post, auditing.noted, base.closing)
    sources = ScrapeSources(
        link_bytes=LinkBytes(),
        carried=LaneMeter(engine.lane),
        usage=runner.usage,
        audit=lambda: auditing.counts,
        routes=lambda: network.route_counts,
        repairs=lambda: network.repairs,
        availability=history.ratios,
        history_usable=lambda: history.usable,
        refused=lambda: refused_packets(engine.plan),
        pagerduty=lambda: pagers.status,
        announced=lambda: metrics_by_destination(engine.plan),
        names=lambda: data_plane.names.report,
        sent_events=sent.counts,
        incidents=lambda: page_model.open_incidents,
        upgrades=lambda: base.identity.upgrades,
        log_dropped=log_dropped,
        book_age=lambda: base.people.age,
        certificates=lambda: {name: expiry.at for name, expiry in certificates.expiries.items()},
        silenced=lambda: silencing.silenced,
        internal_errors=lambda: base.faults.counts,
        members=lambda: None if fleet is None else fleet.members_up,
        locks=lambda: (
            None
            if locks is None
            else (locks.answers and fleet is not None and fleet.reaches_engine, locks.held)
        ),
    )
    metrics = Metrics(version(), base.identity.wall_offset, sources)
    page_model = StatusPageModel(
        StatusPageInputs(
            lambda: engine.snapshot,
            lambda: last_failures.by_tunnel,
            SessionMeter(engine.lane),
            history,
            base.identity.wall_offset,
            base.secrets.mask,
            fleet=lambda: None if fleet is None else fleet.known,
        )
    )
    return Reports(
        metrics, last_failures, history, pagers, silencing, auditing, page_model, _hooks(base, runner)
    )


def _hooks(base: _Base, runner: Runner) -> HookRunner:
    private = (base.runtime_dir.resolve(), *(each.resolve() for each in _private(base)))
    mask, who = base.secrets.mask, base.identity
    sources = HookSources(who.facilitator, who.runbooks, runner.reaper, runner.log, mask, private)
    hooks = HookRunner(base.runtime_dir, sources, base.inbox.post)
    base.closing.add("hooks", hooks.close)
    return hooks


def _private(base: _Base) -> tuple[Path, ...]:
    """Directories of the daemon that neither clients nor hooks may open."""
    return (*base.files.directories, base.state_dir)


def _stores(base: _Base, inputs: InputWatcher, path: Path, last_end: LastEnd) -> Stores:
    present = Present(boot_id(), base.engine.tunnel, inputs.digest)
    return Stores(
        StoppedTunnels(base.state_dir),
        last_end,
        LastConfiguration(path, base.state_dir),
        SecondSessions(base.state_dir),
        MemoryFiles(base.runtime_dir, present),
    )


def _outputs(
    base: _Base,
    data_plane: DataPlane,
    reports: Reports,
    watchers: Watchers,
    stores: Stores,
    status: SystemdStatus,
    fleet: Membership | None,
    locks: LockKeeper | None,
) -> Outputs:
    network, metrics, auditing = data_plane.network, reports.metrics, reports.auditing
    return Outputs(
        DeferredRunner(data_plane.runner, network.released, base.faults),
        network,
        data_plane.prober,
        data_plane.flows,
        alerters=(reports.silencing, reports.history, reports.page_model),
        recorders=(
            TransitionLog(base.identity.runbooks),
            metrics,
            reports.last_failures,
            reports.history,
            auditing,
            stores.second_sessions,
            reports.hooks,
            status,
        ),
        watchers=(
            watchers.certificates,
            watchers.client_files,
            watchers.tls,
            auditing,
            watchers.host,
            watchers.configuration,
            watchers.loop,
            watchers.http,
            reports.hooks,
            data_plane.names,
            reports.silencing,
            *(() if fleet is None else (fleet,)),
            *(() if locks is None else (locks,)),
            base.people,
        ),
        keepers=(stores.records,),
        locks=locks,
        names=data_plane.names,
    )
