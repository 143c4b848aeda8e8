"""Facts for the preflight checks: values only, gathered by `supervisor.app.preflight`. None: could not be
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.core.identity.staff_routes import StaffRoute
from supervisor.core.netfilter.values import Firewall
from supervisor.core.network.layout import MAIN_TABLE
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight.fleet_facts import FleetFacts
from supervisor.core.preflight.isolation import Isolation
from tunnels.base import RequiredFile
from tunnels.networks import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the configuration requires of the host."""

    devices: tuple[str, ...] = ()  # tunnels that run through a network device
    proxies: tuple[str, ...] = ()  # tunnels that run through a local port
    destinations: tuple[tuple[str, IPNetwork], ...] = ()  # tunnel and network, as staff address it
    icmp: tuple[str, ...] = ()  # tunnels with an icmp:// probe
    totp: tuple[str, ...] = ()  # tunnels whose login needs the time
    needs: tuple[
        tuple[str, RequiredFile], ...
    ] = ()  # tunnel and a file of the host that it cannot work without
    staff: tuple[IPNetwork, ...] = ()  # whose packets must get through
    http_port: int = 9464
    drain: float = 8 * 3600.0  # seconds that a drain may take

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions of the destinations."""
        return frozenset(network.version for _, network in self.destinations)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """The process whose privileges are checked: the running daemon, what the unit starts, or this command."""

    who: str = "this process"
    uid: int = 0
    gid: int = 0
    capabilities: frozenset[str] = frozenset()  # effective, such as CAP_NET_ADMIN
    unprivileged_port: int = 1024  # ports from here on need no right


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """A client's program."""

    name: str
    tunnels: tuple[str, ...]
    version: str | None = None  # None: it does not say
    missing: str | None = None  # a sentence that says what to install
    error: str | None = None  # it is there and does not run


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """A Python package that is required."""

    name: str
    wanted: str  # such as <3,>=1.3.2
    version: str | None


@dataclass(frozen=True, slots=True)
class Setting:
    """A kernel setting."""

    value: str | None  # None: the kernel has no such setting
    writable: bool


@dataclass(frozen=True, slots=True)
class ReversePath:
    """The reverse path filter of a device, as it counts together with that of all devices."""

    device: str
    value: int  # 0: none, 1: strict, 2: loose


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A third-party policy rule."""

    version: int
    priority: int
    text: str  # as `ip rule` words it
    mark: int = 0
    mask: int = 0  # 0: it does not look at marks
    narrow: bool = False  # it also looks at something else, such as ports or users
    inverted: bool = False
    source: IPNetwork | None = None  # it is about packets from there
    target: IPNetwork | None = None  # it is about packets to there
    arrives: str = ""  # it is about packets that come in by this device
    action: str = "lookup"  # lookup, goto, nop, blackhole, unreachable, prohibit
    table: int = MAIN_TABLE  # where it looks
    onward: int = 0  # the priority of the rule that a goto leads to
    suppresses: int = -1  # it does not take routes of such a prefix length or a shorter one


@dataclass(frozen=True, slots=True)
class TableRoute:
    """A route that packets may meet before they come to ours."""

    table: int
    network: IPNetwork
    kind: str  # unicast, local, broadcast, blackhole, throw, ...
    device: str = ""
    protocol: int = field(default=0, compare=False)  # whose it is (rtnetlink(7), rtm_protocol)


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What only CAP_NET_ADMIN may see."""

    firewall: Firewall = field(default_factory=Firewall)  # third-party tables
    our_table: bool = False
    owner_persist: bool | None = None  # tables can outlive their owner
    missing_modules: tuple[str, ...] = ()  # that our rules need


@dataclass(frozen=True, slots=True)
class PacketContext:
    """What the checks of packets need to know about this host and the tunnels."""

    plan: NetworkPlan = field(default_factory=NetworkPlan)
    targets: tuple[tuple[str, str], ...] = ()  # tunnel and a probe target
    peers: tuple[
        tuple[str, IPAddress], ...
    ] = ()  # tunnel and the remote gateway that its client was last connected with
    arrivals: tuple[
        tuple[IPNetwork, str], ...
    ] = ()  # a network of staff, and the device by which its packets come
    indexes: Mapping[str, int] = field(default_factory=dict)  # of devices


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host that must be reached outside of every tunnel."""

    what: str  # such as "acme-dc: remote"
    name: str
    addresses: tuple[IPAddress, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address or network that this host itself needs."""

    network: IPNetwork
    what: str  # such as "this host's network on eth0"
    address: str = ""  # of this host in it, as `ip address` names it: 10.0.0.7/24


@dataclass(frozen=True, slots=True)
class SecretFile:
    """An input of a tunnel or of the alerting, never its content."""

    what: str  # such as "acme-dc: password"
    path: str | None = None  # where it was found, or belongs; None: in the environment
    error: str | None = None
    mode: int | None = None  # permission bits, when it is a secret in a file
    unseen: bool = False  # this user may not read it, and is not who runs the daemon
    credential: bool = False  # systemd gives it to the daemon, and to nobody else


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """A directory that the daemon writes to."""

    setting: str  # such as facilitator.state_dir
    path: str
    error: str | None = None  # why it cannot be written
    free: int | None = None  # bytes
    unseen: bool = False  # this user may not write, and is not who runs the daemon


@dataclass(frozen=True, slots=True)
class ForeignListener:
    """A third-party program that listens on a TCP port."""

    port: int
    program: str | None  # None: it cannot be seen without root


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """As whom systemd runs the daemon, and its view of the file system. Places are absolute paths."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: frozenset[str] = frozenset()  # such as CAP_NET_ADMIN
    made: tuple[str, ...] = ()  # directories that systemd makes and gives to this user
    writable: tuple[str, ...] = ()  # exceptions from `read_only`
    read_only: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd has loaded for us, in its own words."""

    type: str = "notify"
    kill_mode: str = "process"
    stop_timeout: str = "1min"
    restart: str = "on-failure"
    watchdog: str = "60s"
    preserved: str = "yes"  # RuntimeDirectoryPreserve
    bus: bool = True  # there is a D-Bus to ask systemd over
    credentials: tuple[tuple[str, str], ...] = ()  # name, and the file it is loaded from
    account: ServiceAccount | None = None  # None: its user does not exist


@dataclass(frozen=True, slots=True)
class ClosedUnit:
    """facilitator-closed.service, which closes the host at boot; times are seconds since the boot."""

    loaded: bool
    enabled: bool = False
    closed_at: float | None = None  # when it had closed the host; None: it has not in this boot
    network_at: float | None = None  # when the network was begun with; None: not known
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """What starts and stops the daemon."""

    nomad: bool = False
    max_kill_timeout: str | None = None  # of Nomad's client; empty: not set; None: cannot be seen
    unit: Unit | None = None  # None: there is no such unit, or it does not run us
    closed: ClosedUnit | None = None  # None: there is no systemd on this host, or it cannot be seen
    task_api: str | None = None  # why Nomad's task API cannot be asked; None: it can
    task_api_remedy: str = ""  # what to paste, where that helps
    client_group: str | None = (
        None  # why clients get no control group of their own; None: they do, or need none
    )


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """A daemon that runs, or what one left behind."""

    pid: int | None = None  # 0: one runs, and its pid is not known
    leftovers: tuple[tuple[str, int], ...] = ()  # tunnel and pid
    # clients whose daemon had another runtime_dir and is gone: tunnel, pid, that directory
    orphans: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ClientFileRemark:
    """What is to be said about a file of a tunnel."""

    text: str  # tunnel, file, line and sentence
    fatal: bool  # the tunnel cannot start with it


@dataclass(frozen=True, slots=True)
class BgpSession:
    """A BGP session of BIRD."""

    name: str  # of the protocol
    version: int  # of IP
    established: bool
    text: str  # its state in BIRD's words
    bfd: bool | None = None  # it is up; None: there is none
    exported: frozenset[IPNetwork] = frozenset()  # what its router is told


@dataclass(frozen=True, slots=True)
class BirdFacts:
    """The table that is announced, and what BIRD makes of it."""

    standing: tuple[TableRoute, ...] = ()  # ours
    foreign: tuple[TableRoute, ...] = ()  # those of others
    error: str | None = None  # why it does not answer
    learned: frozenset[IPNetwork] = frozenset()  # that it has read from there
    sessions: tuple[BgpSession, ...] = ()
    missing: str = ""  # why it cannot be asked


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Everything."""

    requirements: Requirements = field(default_factory=Requirements)
    process: ProcessFacts = field(default_factory=ProcessFacts)
    privileged: bool = True  # this command has CAP_NET_ADMIN: what it cannot write, the daemon cannot either
    tun: str | None = ""  # "": usable; None: no such file; else why it cannot be opened
    absent: frozenset[str] = frozenset()  # of the needed files, those that do not exist
    programs: tuple[ProgramFacts, ...] = ()
    packages: tuple[PackageFacts, ...] = ()
    supervisord: bool = False  # PyPI's supervisor is in the same environment
    settings: Mapping[str, Setting] = field(default_factory=dict)
    kernel: KernelFacts | None = None
    isolation: Isolation = field(default_factory=Isolation)
    legacy_tables: bool = False  # of iptables-legacy, which nftables does not show
    rules: tuple[PolicyRule, ...] | None = None
    routes: tuple[TableRoute, ...] = ()  # in the tables where those rules look, and in the local one
    context: PacketContext = field(default_factory=PacketContext)
    filters: tuple[ReversePath, ...] = ()  # of the devices that are no tunnels
    live: bool = False  # the daemon asks: what it repairs by itself was repaired
    synchronised: bool | None = None
    endpoints: tuple[Endpoint, ...] = ()
    own: tuple[HostAddress, ...] = ()
    secrets: tuple[SecretFile, ...] = ()
    client_files: tuple[ClientFileRemark, ...] | None = None  # None: not looked at
    directories: tuple[DirectoryFacts, ...] = ()
    # settings of directories that are full, so that nothing can be written into them, and their paths
    full: tuple[tuple[str, str], ...] = ()
    listeners: tuple[ForeignListener, ...] = ()
    service: Service = field(default_factory=Service)
    bird: BirdFacts | None = None  # None: nothing is announced
    fleet: FleetFacts | None = None  # None: there is none, or it was not asked
    staff_routes: tuple[StaffRoute, ...] = ()  # of the profiles of staff, as the configuration names them
    daemon: DaemonFacts = field(default_factory=DaemonFacts)
    cloud: str | None = None  # the maker of the virtual machine, as the firmware names it
