"""The parts that one run of the daemon consists of, as `supervisor.app.wiring.build` makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.sd_notify import SystemdNotifier
from supervisor.app.api.status_page_model import StatusPageModel
from supervisor.app.closing import Closing
from supervisor.app.files import Files
from supervisor.app.fleet.membership import Membership
from supervisor.app.names import NameServiceProcess
from supervisor.app.owner import Owner
from supervisor.app.people.watch import PeopleWatch
from supervisor.app.preflight.host_watch import HostWatch
from supervisor.app.stores.last_configuration import LastConfiguration
from supervisor.app.stores.last_end import LastEnd
from supervisor.app.stores.second_sessions import SecondSessions
from supervisor.app.stores.state_store import MemoryFiles
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.app.stores.upgrade_document import HandoverDocument
from supervisor.app.watchers.auditing import Auditing
from supervisor.app.watchers.certificates import Certificates
from supervisor.app.watchers.client_files import ClientFiles
from supervisor.app.watchers.configuration import ConfigurationFile
from supervisor.app.watchers.http_address import HttpAddress
from supervisor.app.watchers.loop_watchdog import LoopWatchdog
from supervisor.app.watchers.server_tls import TlsRenewal
from supervisor.app.watchers.silencing import Silencing
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.hooks import HookRunner
from supervisor.clients.input_watcher import InputWatcher
from supervisor.clients.runner import Runner
from supervisor.control.sockets import Servers
from supervisor.core.faults import Faults
from supervisor.core.views.status_json import DaemonIdentity
from supervisor.engine import Engine
from supervisor.fleet.lock_keeper import LockKeeper
from supervisor.inbox import Inbox
from supervisor.kernel.conntrack.flow_counter import FlowWatch
from supervisor.kernel.network import KernelNetwork
from supervisor.probes.prober import ProbeLoop
from supervisor.reports.history.last_failures import LastFailures
from supervisor.reports.history.recorder import History
from supervisor.reports.log.redact import Secrets
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.paging.pagers import Pagers
from tunnels.base import AnyKind


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What a run is built from, beside its configuration."""

    path: Path  # of the configuration
    kinds: Mapping[str, AnyKind]
    secrets: Secrets
    notifier: SystemdNotifier
    log_dropped: Callable[[], int]  # lines
    owner: Owner
    handover: HandoverDocument | None = None  # from the program that this process was before an upgrade


@dataclass(frozen=True, slots=True)
class Stores:
    """What outlives the daemon in files of its own."""

    stopped: StoppedTunnels
    last_end: LastEnd
    last_configuration: LastConfiguration
    second_sessions: SecondSessions
    records: MemoryFiles


@dataclass(frozen=True, slots=True)
class DataPlane:
    """What carries the tunnels' traffic, and watches that it does: clients, kernel, probes."""

    runner: Runner
    network: KernelNetwork
    prober: ProbeLoop
    flows: FlowWatch
    names: NameServiceProcess
    group: ClientGroup | None  # None: clients stay in the group of the daemon


@dataclass(frozen=True, slots=True)
class Reports:
    """What others learn from the daemon."""

    metrics: Metrics
    last_failures: LastFailures
    history: History
    pagers: Pagers
    silencing: Silencing
    auditing: Auditing
    page_model: StatusPageModel
    hooks: HookRunner


@dataclass(frozen=True, slots=True)
class Watchers:
    """What notices changes that come from outside the tunnels."""

    inputs: InputWatcher
    client_files: ClientFiles
    certificates: Certificates
    tls: TlsRenewal
    host: HostWatch
    configuration: ConfigurationFile
    loop: LoopWatchdog
    http: HttpAddress


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each. `closing` closes all of them."""

    identity: DaemonIdentity
    kinds: Mapping[str, AnyKind]
    files: Files
    faults: Faults
    inbox: Inbox
    notifier: SystemdNotifier
    closing: Closing
    servers: Servers
    stores: Stores
    data_plane: DataPlane
    reports: Reports
    watchers: Watchers
    engine: Engine
    fleet: Membership | None  # None: it is no member of a fleet
    locks: LockKeeper | None  # None: no lock engine is configured
    people: PeopleWatch
