"""Facts about addresses that this host itself needs, and about programs that listen on our ports."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path

import psutil

from supervisor.clients import processes
from supervisor.clients.ports import FIRST_PORT, LAST_PORT
from supervisor.config.model import Config
from supervisor.core.preflight.facts import ForeignListener, HostAddress
from supervisor.kernel.inspect import foreign_rules
from tunnels.base import device_name

_NET = Path("/proc/self/net")
_GATEWAY = 0x2  # RTF_GATEWAY
_LISTENS = "0A"

# --- what the host lives by
# --------------------------------------------------------------------------------------------------------


def own(config: Config, resolvers: Iterable[Path]) -> tuple[HostAddress, ...]:
    """Networks, gateways and name servers of this host, without those of our tunnels."""
    skipped = {"lo", *(device_name(tunnel, slot) for tunnel in config.tunnels.values() for slot in (0, 1))}
    return tuple(dict.fromkeys([*_networks(skipped), *_gateways(skipped), *_name_servers(resolvers)]))


def _networks(skipped: set[str]) -> Iterator[HostAddress]:
    for device, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if device in skipped or entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = entry.address.partition("%")[0]
            length = _length(entry.netmask)
            interface = ip_interface(f"{address}/{length}" if length is not None else address)
            if not interface.network.is_link_local:
                yield HostAddress(interface.network, f"this host's network on {device}", str(interface))


def _length(netmask: str | None) -> int | None:
    return int(ip_address(netmask)).bit_count() if netmask else None


def _gateways(skipped: set[str]) -> Iterator[HostAddress]:
    for line in _rows("route"):
        if int(line[3], 16) & _GATEWAY and line[0] not in skipped:
            address = IPv4Address(int.from_bytes(bytes.fromhex(line[2]), "little"))
            yield HostAddress(ip_network(address), f"this host's gateway on {line[0]}")
    for line in _rows("ipv6_route", skip=0):
        if not int(line[8], 16) & _GATEWAY or line[9] in skipped:
            continue
        gateway = IPv6Address(bytes.fromhex(line[4]))
        if not gateway.is_link_local:
            yield HostAddress(ip_network(gateway), f"this host's gateway on {line[9]}")


def _name_servers(files: Iterable[Path]) -> Iterator[HostAddress]:
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            entries = (line.split() for line in file.read_text().splitlines())
            for words in entries:
                if len(words) > 1 and words[0] == "nameserver":
                    yield from _name_server(words[1].partition("%")[0])


def _name_server(text: str) -> Iterator[HostAddress]:
    with contextlib.suppress(ValueError):
        address = ip_address(text)
        if not address.is_loopback and not address.is_link_local:
            yield HostAddress(ip_network(address), "a name server of this host")


def _rows(name: str, skip: int = 1) -> list[list[str]]:
    try:
        return [line.split() for line in (_NET / name).read_text().splitlines()[skip:]]
    except OSError:
        return []


# --- who listens
# ----------------------------------------------------------------------------------------------------------


def listeners(config: Config, daemon: int | None, known: Iterable[int] = ()) -> tuple[ForeignListener, ...]:
    """Third-party programs that listen on the ports of proxies, or on that of http.listen while no daemon has
    it.

    `known`: ports of our own proxies.
    """
    ours = frozenset(known)
    taken = {
        each.port: each
        for each in _listening()
        if FIRST_PORT <= each.port <= LAST_PORT and each.port not in ours
    }
    port = config.http.listen.port
    if daemon is None and _in_use(config.http.listen.host, port):
        taken[port] = next((each for each in _listening() if each.port == port), _Socket(port, 0, 0))
    owners = _owners({each.inode for each in taken.values()}) if taken else {}
    found = ((each, owners.get(each.inode)) for _, each in sorted(taken.items()))
    return tuple(
        ForeignListener(each.port, _name(pid)) for each, pid in found if not _ours(each, pid, daemon)
    )


@dataclass(frozen=True, slots=True)
class _Socket:
    """A listening socket."""

    port: int
    inode: int
    user: int


def _listening() -> Iterator[_Socket]:
    """Listening sockets, by sock_diag(7); if that is refused, from the list of all connections."""
    try:
        yield from (_Socket(*each) for each in foreign_rules.listening())
    except OSError:
        for line in (*_rows("tcp"), *_rows("tcp6")):
            if line[3] == _LISTENS:
                yield _Socket(int(line[1].rpartition(":")[2], 16), int(line[9]), int(line[7]))


def _in_use(host: str, port: int) -> bool:
    """Can the address be bound? The socket does not listen, and is closed at once."""
    try:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return False  # a name: not tried
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _owners(inodes: set[int]) -> dict[int, int]:
    """Pid by inode of the socket, as far as visible."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    return {
        wanted[target]: pid
        for pid in processes.all_pids()
        for target in _descriptors(pid)
        if target in wanted
    }


def _descriptors(pid: int) -> Iterator[str]:
    """Targets of a process's open descriptors, as far as visible."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{name}")


def _ours(each: _Socket, pid: int | None, daemon: int | None) -> bool:
    """Is it a process of ours? If it is not visible its user decides."""
    if pid is not None:
        return (daemon is not None and daemon in _line(pid)) or processes.tag_of(pid) is not None
    with contextlib.suppress(psutil.Error):
        return daemon is not None and psutil.Process(daemon or None).uids().effective == each.user
    return daemon is not None


def _line(pid: int) -> Iterator[int]:
    """The process and its ancestors, as far as visible."""
    with contextlib.suppress(psutil.Error):
        yield pid
        yield from (parent.pid for parent in psutil.Process(pid).parents())


def _name(pid: int | None) -> str | None:
    if pid is None:
        return None
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    except OSError:
        return None
