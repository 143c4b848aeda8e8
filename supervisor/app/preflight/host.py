"""Facts about the host: privileges, /dev/net/tun, kernel, clock, and a daemon that runs."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

from supervisor import disk
from supervisor.clients.launch import PATH
from supervisor.clients.process_journal import Journal
from supervisor.clients.sweep import leftovers, other_homes
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.netfilter.values import OURS
from supervisor.core.network.layout import MAIN_TABLE
from supervisor.core.network.rules import PRIORITY
from supervisor.core.preflight.facts import (
    DaemonFacts,
    KernelFacts,
    PolicyRule,
    ProcessFacts,
    ReversePath,
    ServiceAccount,
    Setting,
    TableRoute,
)
from supervisor.core.preflight.routing import LOCAL_TABLE
from supervisor.kernel.inspect import foreign_rules
from supervisor.kernel.nft.foreign_tables import ForeignTableReader, ours_exists
from tunnels.networks import IPAddress, IPNetwork

ANSWER_TIMEOUT_SECONDS = 1.5  # of a daemon or a program
_CAPABILITIES = (
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (10, "CAP_NET_BIND_SERVICE"),
    (12, "CAP_NET_ADMIN"),
)
_SETTINGS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ping_group_range",
    "net.ipv6.conf.all.forwarding",
    "net.netfilter.nf_conntrack_acct",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
)
_MAX_SETTING_BYTES = 200
_OF_DEVICES = (("net.ipv4", "forwarding"), ("net.ipv6", "disable_ipv6"))
_AS_PATH = str.maketrans("./", "/.")
_OUTSIDE = ip_address("192.0.2.1")  # nobody's address (RFC 5737): only a default route leads to it
_UNPRIVILEGED_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_MAKER = Path("/sys/class/dmi/id/sys_vendor")
_LEGACY = (("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy"))
_STATUS_OFFSET = struct.calcsize("@Illll")  # of `status` in struct timex
_STA_UNSYNC = 0x40

# --- the daemon
# ----------------------------------------------------------------------------------------------------------


def running(runtime_dir: Path) -> int | None:
    """Pid of the daemon that uses this runtime directory; 0: unknown, None: none runs."""
    holder = _lock_holder(runtime_dir / disk.LOCK)
    if holder is not None:
        return holder
    try:
        pid = ControlClient(runtime_dir / disk.CONTROL_SOCKET, ANSWER_TIMEOUT_SECONDS).get("/api/v1/status")[
            "pid"
        ]
    except Refused:
        return 0
    except (Unreachable, ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) else 0


def _lock_holder(path: Path) -> int | None:
    """Pid of the process that holds the lock, from /proc/locks: taking the lock could prevent a daemon's
    start.
    """
    try:
        found = path.stat()
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    holders = [words[4] for line in locks if (words := line.split())[1] == "FLOCK" and place in words]
    return max(0, int(holders[0])) if holders else None


def daemon(runtime_dir: Path, pid: int | None) -> DaemonFacts:
    """The daemon that runs, or the processes that one has left."""
    orphans = tuple(_orphans(runtime_dir))
    if pid is not None or not runtime_dir.is_dir():
        return DaemonFacts(pid, orphans=orphans)
    left = leftovers(Journal(runtime_dir))
    for one in left:
        os.close(one.pidfd)
    return DaemonFacts(None, tuple((one.tunnel, one.pid) for one in left), orphans)


def _orphans(runtime_dir: Path) -> Iterator[tuple[str, int, str]]:
    """Clients that were started with another runtime_dir, whose daemon is gone."""
    for place, left in other_homes(runtime_dir).items():
        if running(place) is None:
            yield from ((tunnel, pid, str(place)) for tunnel, pid in left)


def process(pid: int | None) -> ProcessFacts:
    """The privileges of the daemon, or of this process if none can be read."""
    try:
        status = _status(pid or os.getpid())
    except OSError:
        pid, status = None, _status(os.getpid())
    bits = int(status["CapEff"], 16)
    names = frozenset(name for bit, name in _CAPABILITIES if bits >> bit & 1)
    who = f"the running daemon (pid {pid})" if pid else "this process"
    return ProcessFacts(
        who, int(status["Uid"].split()[1]), int(status["Gid"].split()[1]), names, _unprivileged_port()
    )


def of_unit(account: ServiceAccount) -> ProcessFacts:
    """The privileges that the daemon will have when systemd starts it."""
    return ProcessFacts(
        "the service as its unit starts it",
        account.uid,
        account.gid,
        account.capabilities,
        _unprivileged_port(),
    )


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _unprivileged_port() -> int:
    try:
        return int(_UNPRIVILEGED_PORT.read_text())
    except (OSError, ValueError):
        return 1024


def environment(pid: int | None) -> Mapping[str, str]:
    """The environment of the daemon, which locates its secrets; our own if it cannot be read."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes() if pid else b""
    except OSError:
        data = b""
    entries = (entry.partition("=") for entry in data.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in entries if name} or os.environ


# --- devices, settings, clock
# --------------------------------------------------------------------------------------------------------


def tun(path: Path) -> str | None:
    """ "": it can be opened (which makes no interface yet); None: it does not exist; else why not."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    return ""


def settings(root: Path, devices: Iterable[str] = ()) -> dict[str, Setting]:
    """Sysctls by name. Whether one is writable is found out by opening it, which changes nothing."""
    own = (
        f"{protocol}.conf.{device.replace('.', '/')}.{word}"
        for device in devices
        for protocol, word in _OF_DEVICES
    )
    return {name: _setting(root / name.translate(_AS_PATH)) for name in (*_SETTINGS, *own)}


def reread(root: Path, known: Mapping[str, Setting]) -> dict[str, Setting]:
    """The same sysctls with their current values; `writable` is taken over."""
    return {
        name: Setting(_value(f"{root}/{name.translate(_AS_PATH)}"), each.writable)
        for name, each in known.items()
    }


def _setting(path: Path) -> Setting:
    value = _value(str(path))
    if value is None:
        return Setting(None, False)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return Setting(value, False)
    return Setting(value, True)


def _value(path: str) -> str | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return " ".join(os.read(file, _MAX_SETTING_BYTES).decode(errors="replace").split())
    except OSError:
        return None
    finally:
        os.close(file)


def synchronised() -> bool | None:
    """Is the clock synchronised, as the kernel says (adjtimex(2))?"""
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes 0: only asks
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return not struct.unpack_from("@i", buffer, _STATUS_OFFSET)[0] & _STA_UNSYNC


def maker() -> str | None:
    """The maker of the machine, from its DMI data."""
    try:
        return _MAKER.read_text().strip() or None
    except OSError:
        return None


# --- what other programs put into the kernel
# -----------------------------------------------------------------------------------------


def kernel() -> KernelFacts | None:
    """Third-party firewall rules and features of nftables. None: no CAP_NET_ADMIN."""
    try:
        return KernelFacts(
            ForeignTableReader().read(),
            ours_exists(),
            foreign_rules.owner_persist(),
            foreign_rules.missing_modules(),
        )
    except OSError:
        return None


def legacy_tables() -> bool:
    """Does iptables-legacy, which nftables does not show, have a filter table that may drop?"""
    return any(
        "filter" in _words(Path("/proc/self/net") / name) and _may_drop(program) for name, program in _LEGACY
    )


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _may_drop(program: str) -> bool:
    """True also if the program cannot be run."""
    rules = _output(program, "-S")
    return rules is None or (("DROP" in rules or "REJECT" in rules) and OURS not in rules)


def _output(program: str, *arguments: str) -> str | None:
    command = (shutil.which(program, path=PATH) or program, *arguments)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def rules() -> tuple[PolicyRule, ...] | None:
    """Third-party policy routing rules."""
    try:
        return foreign_rules.policy_rules()
    except OSError:
        return None


def routes(found: Iterable[PolicyRule]) -> tuple[TableRoute, ...]:
    """Routes that come before ours: of the local table, and of the tables that these rules lead to."""
    first = (rule for rule in found if rule.priority <= PRIORITY and rule.action == "lookup")
    early = {(rule.version, rule.table) for rule in first if rule.table != MAIN_TABLE}
    try:
        return foreign_rules.table_routes(sorted({(4, LOCAL_TABLE), (6, LOCAL_TABLE)} | early))
    except OSError:
        return ()


def arrivals(networks: Iterable[IPNetwork]) -> tuple[tuple[IPNetwork, str], ...]:
    """The interface by which packets of each network come in."""
    found = ((network, next(filter(None, map(_arrival, _examples(network))), None)) for network in networks)
    return tuple((network, device) for network, device in found if device is not None)


def _examples(network: IPNetwork) -> list[IPAddress]:
    """Some of its addresses: the first may be this host's own."""
    return [network[n] for n in (1, 2, 3) if n < network.num_addresses] or [network[0]]


def _arrival(address: IPAddress) -> str | None:
    return device if (device := foreign_rules.outgoing(address)) != "lo" else None


def reverse_path(root: Path, devices: Iterable[str]) -> tuple[ReversePath, ...]:
    """The filters of these devices and of the one that leads to the internet, as far as they speak IPv4."""
    ways_out = [device] if (device := foreign_rules.outgoing(_OUTSIDE)) is not None else []
    names = sorted({*devices, *ways_out} - {"lo"})
    values = {name: _setting(root / "net/ipv4/conf" / name / "rp_filter").value for name in ("all", *names)}
    everywhere = int(values["all"] or 0)
    return tuple(
        ReversePath(name, max(everywhere, int(value)))
        for name in names
        if (value := values[name]) is not None
    )
