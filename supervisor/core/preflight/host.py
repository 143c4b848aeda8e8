"""Preflight checks: privileges, /dev/net/tun, sysctls, kernel features, the clock, and a daemon that runs
already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.core.preflight.facts import DaemonFacts, HostFacts, ProcessFacts, Requirements, Setting
from supervisor.core.preflight.finding import Finding, info, ok, problem, warning
from supervisor.core.preflight.isolation import missing

_UNKNOWN = "cannot be seen without CAP_NET_ADMIN"
_AS_ROOT = "sudo facilitator doctor"

# --- what runs
# ----------------------------------------------------------------------------------------------------------


def daemon(facts: HostFacts) -> Iterator[Finding]:
    """Does a daemon run, or has one crashed?"""
    found = facts.daemon
    if found.pid is not None:
        name = f"pid {found.pid}" if found.pid else "its pid cannot be seen from here"
        yield info("daemon", f"a facilitator runs with this configuration's runtime_dir ({name})")
    if found.orphans:
        yield _orphans(found)
    if found.pid is not None:
        return
    yield info("daemon", "no facilitator runs with this configuration's runtime_dir")
    if found.leftovers:
        processes = ", ".join(f"{tunnel} (pid {pid})" for tunnel, pid in found.leftovers)
        text = f"an earlier facilitator left clients running: {processes}; the next start adopts them"
        yield warning("daemon", text, "facilitator cleanup   # if it is not to start again")
    if facts.kernel is not None and facts.kernel.our_table:
        text = "an earlier facilitator left its firewall table, which keeps the destinations closed"
        yield info("daemon", text, "facilitator cleanup   # if it is not to start again")


def _orphans(found: DaemonFacts) -> Finding:
    """A restart with another runtime_dir does not find what ran in the one before."""
    processes = ", ".join(f"{tunnel} (pid {pid}, {place})" for tunnel, pid, place in found.orphans)
    text = f"clients run that no facilitator supervises, started with another runtime_dir: {processes}"
    pids = " ".join(str(pid) for _, pid, _ in found.orphans)
    return problem("daemon", text, f"kill {pids}   # they may hold the sessions that the tunnels log in for")


# --- privileges
# ----------------------------------------------------------------------------------------------------------


def rights(facts: HostFacts) -> Iterator[Finding]:
    """Missing capabilities, and what does not work without them."""
    process = facts.process
    needed = _needed(facts.requirements, process)
    missing = [name for name in needed if name not in process.capabilities]
    for name in missing:
        hint = (
            f"systemd: AmbientCapabilities={name} and CapabilityBoundingSet={name}; Docker: --cap-add "
            f"{name.removeprefix('CAP_')}; "
            "by hand: run it as root"
        )
        yield problem("rights", f"{process.who} (uid {process.uid}) lacks {name}: {needed[name]}", hint)
    if not missing:
        yield ok("rights", f"{process.who} (uid {process.uid}) has {', '.join(needed)}, and needs no more")


def _needed(requirements: Requirements, process: ProcessFacts) -> dict[str, str]:
    """Capabilities, each with what does not work without it."""
    needed = {"CAP_NET_ADMIN": "no route, firewall rule or tunnel interface can be created"}
    if process.uid == 0 and requirements.proxies:
        names = ", ".join(requirements.proxies)
        needed |= {
            "CAP_SETUID": f"sshuttle cannot give up root, which it must ({names})",
            "CAP_SETGID": f"sshuttle cannot give up root's groups, which it must ({names})",
            "CAP_KILL": f"clients that have given up root cannot be ended ({names})",
        }
    if requirements.http_port < process.unprivileged_port:
        needed["CAP_NET_BIND_SERVICE"] = f"nobody can listen on port {requirements.http_port} (http.listen)"
    return needed


def tun(facts: HostFacts) -> Iterator[Finding]:
    """Can tunnel devices be made?"""
    if not facts.requirements.devices:
        return
    names = ", ".join(facts.requirements.devices)
    if facts.tun == "":
        yield ok("devices", "/dev/net/tun can be opened")
    elif facts.tun is None:
        hint = (
            "modprobe tun && echo tun > /etc/modules-load.d/tun.conf   # in a container: --device "
            "/dev/net/tun"
        )
        yield problem("devices", f"/dev/net/tun does not exist: these tunnels cannot start: {names}", hint)
    else:
        hint = (
            "chmod 0666 /dev/net/tun   # as udev makes it; under systemd: DeviceAllow=/dev/net/tun "
            "rw; Docker: --device /dev/net/tun"
        )
        yield problem(
            "devices",
            f"/dev/net/tun cannot be opened ({facts.tun}): these tunnels cannot start: {names}",
            hint,
        )


def files(facts: HostFacts) -> Iterator[Finding]:
    """Do the other files exist that clients need?"""
    for need in dict.fromkeys(need for _, need in facts.requirements.needs):
        names = ", ".join(name for name, each in facts.requirements.needs if each == need)
        if need.path in facts.absent:
            yield problem(
                "devices", f"{need.path} does not exist: these tunnels cannot start: {names}", need.otherwise
            )
        else:
            yield ok("devices", f"{need.path} exists")


# --- settings
# ----------------------------------------------------------------------------------------------------------


def settings(facts: HostFacts) -> Iterator[Finding]:
    """The sysctls that routing and probing need."""
    versions = facts.requirements.versions
    if 4 in versions or not versions:
        yield _wanted(facts, "net.ipv4.ip_forward", "1", "no packet of the staff passes this host")
        yield _wanted(facts, "net.ipv4.conf.all.rp_filter", "0", "replies out of tunnels are dropped")
    if 6 in versions:
        yield _wanted(
            facts, "net.ipv6.conf.all.forwarding", "1", "no IPv6 packet of the staff passes this host"
        )
    for version in facts.requirements.versions:
        yield from of_devices(facts, version)
    if facts.requirements.icmp:
        yield _ping(facts.settings.get("net.ipv4.ping_group_range"), facts)


def of_devices(facts: HostFacts, version: int) -> Iterator[Finding]:
    """Sysctls of single interfaces that differ from what `all` has set."""
    on = facts.settings.get("net.ipv4.ip_forward", Setting(None, False)).value == "1"
    for name, setting in facts.settings.items():
        *_, device, word = name.split(".")
        hint = _sysctl(name, "1" if word == "forwarding" else "0")
        if (
            version == 4
            and word == "forwarding"
            and name.startswith("net.ipv4.conf.")
            and setting.value == "0"
            and on
        ):
            yield problem(
                "kernel settings",
                f"{name} is 0, must be 1: no packet that comes in by {device} is forwarded",
                hint,
            )
        if version == 6 and word == "disable_ipv6" and setting.value == "1":
            yield problem("kernel settings", f"{name} is 1, must be 0: no IPv6 packet passes {device}", hint)


def _wanted(facts: HostFacts, name: str, value: str, otherwise: str) -> Finding:
    setting = facts.settings.get(name, Setting(None, False))
    if setting.value is None:
        hint = "cat /proc/cmdline   # a kernel with this protocol, not switched off at boot"
        return problem("kernel settings", f"the kernel has no {name}: {otherwise}", hint)
    if setting.value == value:
        return ok("kernel settings", f"{name} is {value}")
    return _unlike(
        facts, setting, f"{name} is {setting.value}, must be {value}", otherwise, _sysctl(name, value)
    )


def _unlike(facts: HostFacts, setting: Setting, text: str, otherwise: str, hint: str) -> Finding:
    """A sysctl is not as it must be: a problem only if the daemon cannot change it."""
    if facts.live and setting.writable:
        return problem("kernel settings", f"{text}: {otherwise}", hint)
    if setting.writable:
        return info("kernel settings", f"{text}; the daemon will see to it")
    if not facts.privileged:
        return info("kernel settings", f"{text}; whether the daemon can change it is not known", _AS_ROOT)
    return problem("kernel settings", f"{text}, and cannot be written from here: {otherwise}", hint)


def _sysctl(name: str, value: str) -> str:
    assignment = f'"{name}={value}"' if " " in value else f"{name}={value}"
    return f"sysctl -w {assignment} && echo {assignment} >> /etc/sysctl.d/90-facilitator.conf"


def _ping(setting: Setting | None, facts: HostFacts) -> Finding:
    name, group = "net.ipv4.ping_group_range", facts.process.gid
    if setting is None or setting.value is None:
        return info("kernel settings", f"{name} cannot be read")
    low, high = (int(word) for word in setting.value.split())
    if low <= group <= high:
        return ok("kernel settings", f"{name} covers group {group}: icmp probes work")
    wide = f"{min(low, group)} {max(high, group)}" if low <= high else f"{group} {group}"
    text, otherwise = (
        f"{name} is {low} {high}, must cover group {group}",
        f"icmp probes fail ({', '.join(facts.requirements.icmp)})",
    )
    return _unlike(facts, setting, text, otherwise, _sysctl(name, wide))


# --- features
# ----------------------------------------------------------------------------------------------------------

CONNTRACK_FULL_RATIO = 0.8  # of the connection table: from here on new connections are at risk


def features(facts: HostFacts) -> Iterator[Finding]:
    """What the kernel can do."""
    if facts.kernel is None:
        yield info("kernel", f"nftables {_UNKNOWN}", _AS_ROOT)
    elif facts.kernel.owner_persist is None:
        yield info("kernel", f"whether nftables tables can have an owner {_UNKNOWN}", _AS_ROOT)
    elif facts.kernel.owner_persist:
        yield ok(
            "kernel",
            "nftables tables can have an owner that they outlive: no other program can remove facilitator's while "
            "the daemon runs",
        )
    else:
        text = (
            "this kernel's nftables tables cannot outlive an owner (before Linux 6.9): another program "
            "can remove facilitator's, "
            "and for milliseconds only the routes keep the destinations closed"
        )
        yield warning("kernel", text, "uname -r   # a kernel of 6.9 or later, e.g. from Debian's backports")
    if facts.kernel is not None and facts.kernel.missing_modules:
        modules = " ".join(facts.kernel.missing_modules)
        text = (
            f"this kernel lacks what facilitator's firewall rules need: {modules.replace(' ', ', ')}; the daemon "
            f"cannot start"
        )
        yield problem(
            "kernel",
            text,
            f"modprobe -a {modules}   # else a kernel that has them; every distribution's own does",
        )
    yield from _conntrack(facts.settings)


def _conntrack(found: Mapping[str, Setting]) -> Iterator[Finding]:
    nothing = Setting(None, False)
    accounting, name = (
        found.get("net.netfilter.nf_conntrack_acct", nothing),
        "net.netfilter.nf_conntrack_acct",
    )
    if accounting.value is None:
        yield info(
            "kernel", "connection tracking is not loaded yet; the first firewall rule that needs it loads it"
        )
    elif accounting.value == "1":
        yield ok("kernel", "connection tracking counts packets and bytes")
    else:
        yield info(
            "kernel",
            f"connection tracking does not count packets and bytes ({name} is 0)",
            _sysctl(name, "1"),
        )
    yield from _fill(found)


def tracked(facts: HostFacts) -> Iterator[Finding]:
    """Is there room for new connections in the connection table?"""
    return _fill(facts.settings)


def _fill(found: Mapping[str, Setting]) -> Iterator[Finding]:
    nothing = Setting(None, False)
    count, limit = (
        found.get(f"net.netfilter.nf_conntrack_{word}", nothing).value for word in ("count", "max")
    )
    if count is not None and limit is not None and int(count) > CONNTRACK_FULL_RATIO * int(limit):
        text = f"the connection table is nearly full ({count} of {limit}): new connections will be dropped"
        yield warning("kernel", text, _sysctl("net.netfilter.nf_conntrack_max", str(2 * int(limit))))


def isolation(facts: HostFacts) -> Iterator[Finding]:
    """What a compromised client could do to the others."""
    wanting = [warning("isolation", text, hint) for text, hint in missing(facts.isolation)]
    yield from wanting or [
        ok("isolation", "each client is confined to its own files and processes (Landlock, seccomp)")
    ]


_CODES: Mapping[bool, str] = MappingProxyType(
    {
        True: "certificates, one-time passwords ({names}) and the times in incidents depend on it",
        False: "certificates and the times in incidents depend on it",
    }
)


def clock(facts: HostFacts) -> Iterator[Finding]:
    """Is the time right?"""
    totp = facts.requirements.totp
    if facts.synchronised is None:
        yield info("clock", "whether the clock is synchronised cannot be seen", "timedatectl")
    elif facts.synchronised:
        yield ok("clock", "the clock is synchronised")
    else:
        why = _CODES[bool(totp)].format(names=", ".join(totp))
        yield warning(
            "clock",
            f"the system clock is not NTP-synchronised: {why}",
            "apt install systemd-timesyncd && timedatectl set-ntp true   # chrony: add rtcsync to its "
            "configuration",
        )


_FILTERS: Mapping[int, str] = MappingProxyType({0: "off", 1: "strict", 2: "loose"})


def reverse_path(facts: HostFacts) -> Iterator[Finding]:
    """Is reverse path filtering strict on the interfaces of staff and of the internet?"""
    for each in facts.filters:
        name = f"net.ipv4.conf.{each.device.replace('.', '/')}.rp_filter"
        if each.value == 1:
            yield ok("reverse path", f"{name} is strict")
        else:
            found = f"{each.value} ({_FILTERS.get(each.value, 'unknown')})"
            text = (
                f"{name} is {found}, not 1 (strict): a packet that comes in by {each.device} "
                "with a sender that is routed elsewhere is rejected by facilitator's own rules only, on its way into "
                "a tunnel"
            )
            yield warning(
                "reverse path",
                text,
                f"{_sysctl(name, '1')}   # unless answers may leave by another interface",
            )
