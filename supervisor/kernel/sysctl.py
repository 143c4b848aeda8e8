"""Kernel settings that the routing needs (Documentation/networking/ip-sysctl.rst): forwarding, reverse-path
filters, ICMP sockets for the probes.

Each is left alone when it is right already, so that a host that sets them itself and forbids us to write
works too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunnels.drivers.netlink import UNTRUSTED

Note = Callable[[str, Mapping[str, object]], None]

_ROOT = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class ChangedSysctl:
    """A setting that was changed: its value before, and the one that it has by us."""

    first: str
    ours: str


class FirstValues(Protocol):
    """Remembers what settings were before the daemon changed them, by path below /proc/sys/net."""

    @property
    def changed(self) -> Mapping[str, ChangedSysctl]:
        """What is known, the earliest change first."""

    def keep(self, changes: Mapping[str, ChangedSysctl]) -> None:
        """These are about to be changed; of those that are known already the first value stays."""

    def forget(self) -> None:
        """All were put back."""


def put_back(first: FirstValues, root: Path = _ROOT) -> list[str]:
    """Give settings their first values again, the last change first; one line for each. One that somebody
    else has changed since keeps its value, also where the kernel sets it along with another.
    """
    changes = list(first.changed.items())[::-1]
    current = {name: found for name, _ in changes if (found := _read(root / name)) is not None}
    lines = []
    for name, change in changes:
        if (found := current.get(name)) is None:  # its interface is gone
            continue
        mine = found == change.ours
        if not mine and found != change.first:
            lines.append(
                f"kept {_key(name)} = {found}: another program has set it (before facilitator: {change.first})"
            )
        wanted = change.first if mine else found
        if _read(root / name) == wanted:
            continue
        try:
            (root / name).write_text(wanted)
            lines.append(f"put back {_key(name)} = {wanted} (was {found})")
        except OSError as error:
            lines.append(
                f"kept {_key(name)} = {found}: {error.strerror} (before facilitator: {change.first})"
            )
    first.forget()
    return lines


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


class Sysctls:
    """Writes settings. One that is wrong and cannot be written is noted once, with the value that is needed.

    `repairs` counts settings of the whole host that were right and that somebody changed; the first time is
    noted. (Those of a single device are not counted: systemd sets them on each new device, a moment after
    us.)
    """

    def __init__(self, note: Note, root: Path = _ROOT, first: FirstValues | None = None) -> None:
        """`first`: where the values before each change are kept; None: nowhere."""
        self._note = note
        self._first = first
        self._root = root
        self._noted: set[str] = set()
        self._kept: set[str] = set()  # what was seen right
        self.repairs = 0

    def open_host(self, ipv6: bool, tunnels: Container[str], accounting: bool) -> None:
        """Everything that belongs to the whole host. Call it when everything that closes is in place."""
        self.allow_ping()
        self.forward(ipv6, tunnels)
        if accounting:
            self.account()

    def forward(self, ipv6: bool, tunnels: Container[str] = ()) -> None:
        """Let packets through this host, from and to these tunnels' devices too. Call it when everything
        that closes is in place.
        """
        self._keep("ipv4/ip_forward", "1")
        if not ipv6:
            return
        if self._get("ipv6/conf/all/forwarding") != "0":
            self._kept.add("ipv6/conf/all/forwarding")
            return
        for device in self._devices("ipv6"):
            # A router ignores router advertisements, and with them its own default route, unless it is told
            # not to.
            if (
                device not in ("all", "default")
                and device not in tunnels
                and self._get(f"ipv6/conf/{device}/accept_ra") == "1"
            ):
                self._want(f"ipv6/conf/{device}/accept_ra", "2")
        self._keep("ipv6/conf/all/forwarding", "1")

    def account(self) -> None:
        """Let connection tracking count bytes, note moments and tell of every flow, also of those that
        begin while nobody listens.
        """
        for name in ("acct", "timestamp", "events"):
            self._keep(f"netfilter/nf_conntrack_{name}", "1")

    def move_reverse_path_filter(self) -> None:
        """Make `all` 0 without changing any device: the larger of `all` and the device's own value counts.

        The networks behind tunnels are unreachable in the main table, where this filter looks, so even the
        loose one drops all replies.
        """
        everywhere = int(self._get("ipv4/conf/all/rp_filter") or 0)
        if everywhere == 0:
            self._kept.add("ipv4/conf/all/rp_filter")
            return
        devices = [device for device in self._devices("ipv4") if device != "all"]
        for device in sorted(
            devices, key=lambda name: name != "default"
        ):  # what comes to be meanwhile has the default
            own = int(self._get(f"ipv4/conf/{device}/rp_filter") or 0)
            if not self._want(f"ipv4/conf/{device}/rp_filter", str(max(everywhere, own))):
                break
        else:
            self._keep("ipv4/conf/all/rp_filter", "0")

    def accept_replies(self, device: str) -> None:
        """No reverse-path filter on a tunnel's device: our own rules are stricter."""
        self._want(f"ipv4/conf/{device}/rp_filter", "0", lasting=False)

    def distrust(self, device: str) -> None:
        """A remote gateway must not configure this host: no router advertisements, no addresses
        from them, no redirects.
        """
        for setting in UNTRUSTED:
            self._want(setting.format(device), "0", lasting=False)

    def tell_of_flows(self) -> None:
        """Have the kernel send an event for the end of every flow, not only of flows that began while
        somebody listened (nf_conntrack_events, Documentation/networking/nf_conntrack-sysctl.rst).

        Draining works without it, only later.
        """
        with contextlib.suppress(OSError):
            if self._get("netfilter/nf_conntrack_events") == "2":
                self._remember("netfilter/nf_conntrack_events", "2", "1")
                self._write("netfilter/nf_conntrack_events", "1")

    def allow_ping(self, group: int | None = None) -> None:
        """Let this process's group open ICMP sockets."""
        group = os.getegid() if group is None else group
        low, high = (int(word) for word in (self._get("ipv4/ping_group_range") or "1 0").split())
        if low <= group <= high:
            return
        wide = (min(low, group), max(high, group)) if low <= high else (group, group)
        self._want("ipv4/ping_group_range", f"{wide[0]}\t{wide[1]}")

    def _keep(self, name: str, value: str) -> None:
        """Want it; count it when it was right before."""
        before = self._get(name)
        if self._want(name, value):
            if name in self._kept and before != value:
                self.repairs += 1
                if name not in self._noted:
                    self._noted.add(name)
                    self._note(
                        "repairing what was changed from outside",
                        {"changes": [f"{_key(name)} {before} -> {value}"], "count": 1},
                    )
            self._kept.add(name)

    def _want(self, name: str, value: str, lasting: bool = True) -> bool:
        """`lasting`: of the host; else of an interface of ours, with which it vanishes."""
        current = self._get(name)
        if current == value:
            return True
        if current is None:
            return False  # the device is gone, or the kernel has no such thing
        try:
            if lasting:
                self._remember(name, current, value)
            self._write(name, value)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._complain(name, current, value, error)
            return False
        return True

    def _write(self, name: str, value: str) -> None:
        (self._root / name).write_text(value)

    def _remember(self, name: str, before: str, value: str) -> None:
        """Keep the value before this change, and those of what the kernel changes along with it."""
        if self._first is not None:
            self._first.keep(self._followers(name, value) | {name: ChangedSysctl(before, value)})

    def _followers(self, name: str, value: str) -> dict[str, ChangedSysctl]:
        """What the kernel sets along with this setting (inet_forward_change, addrconf_fixup_forwarding): the
        forwarding of every interface, and for IPv4 whether the host accepts redirects.
        """
        family = {"ipv4/ip_forward": "ipv4", "ipv6/conf/all/forwarding": "ipv6"}.get(name)
        if family is None:
            return {}
        follow = {f"{family}/conf/{device}/forwarding": value for device in self._devices(family)}
        if family == "ipv4":
            follow["ipv4/conf/all/accept_redirects"] = "0"
        return {
            each: ChangedSysctl(before, ours)
            for each, ours in follow.items()
            if each != name and (before := self._get(each)) is not None
        }

    def _complain(self, name: str, current: str, value: str, error: OSError) -> None:
        if name not in self._noted:
            self._noted.add(name)
            key = _key(name)
            text = (
                f"{key} is {current} and cannot be written ({error.strerror}); it must be "
                f"{value.replace(chr(9), ' ')}"
            )
            self._note(text, {"sysctl": key, "is": current, "must_be": value})

    def _get(self, name: str) -> str | None:
        try:
            with open(
                f"{self._root}/{name}"
            ) as file:  # hundreds in each round: a Path would cost more than the reading
                return file.read().strip()
        except OSError:
            return None

    def _devices(self, family: str) -> Iterator[str]:
        try:
            yield from sorted(path.name for path in (self._root / family / "conf").iterdir())
        except OSError:
            return


def _key(name: str) -> str:
    """As `sysctl` names it."""
    return "net." + name.translate(str.maketrans("./", "/."))
