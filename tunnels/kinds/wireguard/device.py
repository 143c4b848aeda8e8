"""The two ways to have a WireGuard device: the kernel's own, configured over netlink, and wireguard-go,
configured over its UAPI socket.

    `opened(name)` -> Device -> configure, bring up (tunnels.drivers.netlink), look, move, close

The kernel's is tried first. Its device outlives whoever made it, so it carries a mark by which a later start
knows that it may go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Protocol

from common.netlink import DUMP, GENERIC, NESTED, NetlinkSocket, attribute, attributes, text_attribute
from common.rtnetlink import ALIAS
from tunnels.drivers.netlink import add_interface, alias_of, delete_interface

SOCKETS = Path(
    "/var/run/wireguard"
)  # where wireguard-go insists on a file for each device, and would put its sockets
OWN_SOCKET = "uapi.sock"  # in the private directory that is the program's working directory, for a moment
ANSWER_SECONDS = 5.0  # for an answer of wireguard-go
STOP_SECONDS = 2.0  # for wireguard-go to end before it is killed

Endpoint = tuple[str, int]  # address and UDP port
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EndedError(Exception):
    """The program that serves the device is gone, or is not there yet."""


@dataclass(frozen=True, slots=True)
class DevicePeer:
    """A far side as the device is told it."""

    key: bytes = field(repr=False)
    preshared: bytes | None = field(repr=False)
    endpoint: Endpoint | None
    allowed: tuple[str, ...]
    keepalive: int  # seconds


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A far side as the device sees it."""

    key: bytes = field(repr=False)
    endpoint: str = ""  # address
    handshake: int = 0  # nanoseconds of the wall clock at the last one; 0: there was none
    sent: int = 0  # bytes, all told


class WireGuardDevice(Protocol):
    """A WireGuard device. Every refusal is an OSError; EndedError: nobody serves it."""

    async def configure(self, private_key: bytes, port: int, peers: Sequence[DevicePeer]) -> None:
        """Forget everything and take this over; sessions begin anew."""

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        """The peer is at another address from now on."""

    async def look(self) -> list[PeerStatus]:
        """All peers."""

    async def ended(self) -> int:
        """Return when the device cannot serve any more: an exit code, or a signal's negative number."""

    async def close(self) -> None:
        """Remove it."""


async def opened(name: str, said: Callable[[str], None]) -> WireGuardDevice:
    """A new device. `said` gets the lines of a program that serves it. OSError: this host refuses; ENOENT:
    there is no such program.
    """
    if alias_of(name) == ALIAS:
        with contextlib.suppress(OSError):
            delete_interface(name)  # an earlier program of ours was killed
    try:
        add_interface(name, "wireguard", ALIAS)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return await UserspaceDevice.started(name, said)
    return KernelDevice(name)


# --- wireguard-go
# ----------------------------------------------------------------------------------------------------------


class NameLock:
    """The file of a device's name in wireguard-go's directory, without which it does not serve. A lock on
    it tells that it is in use.
    """

    def __init__(self, path: Path) -> None:
        """OSError: EADDRINUSE where another WireGuard on this host holds it, maybe in another network
        namespace.
        """
        self._path = path
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        with contextlib.suppress(FileNotFoundError):
            _remove_stale_socket(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path)) from None

    def release(self) -> None:
        """The device is gone."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _remove_stale_socket(path: Path) -> None:
    """The socket of a wireguard-go that was started by hand, or by an earlier version of us. OSError:
    EADDRINUSE, it is in use.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as visitor:
        try:
            visitor.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


def _connected() -> tuple[socket.socket, socket.socket]:
    """A listening socket, and the one connection that there will ever be to it: its path is gone before
    anybody listens.

    wireguard-go tells whoever connects the private key, and every client of our user could.
    """
    path = Path(OWN_SOCKET)
    path.unlink(missing_ok=True)
    listening, ours = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(1)
    ours.connect(str(path))
    path.unlink()
    return listening, ours


class UserspaceDevice:
    """A device that wireguard-go serves."""

    def __init__(
        self,
        claim: NameLock,
        process: asyncio.subprocess.Process,
        streams: Streams,
        said: Callable[[str], None],
    ) -> None:
        self._claim, self._process = claim, process
        self._reader, self._writer = streams
        self._asking = asyncio.Lock()
        self._talk = asyncio.get_running_loop().create_task(self._listen(said))

    @classmethod
    async def started(cls, name: str, said: Callable[[str], None]) -> UserspaceDevice:
        """Run it. OSError: it cannot be run."""
        claim = NameLock(SOCKETS / f"{name}.sock")
        try:
            listening, ours = _connected()
            with listening:
                process = await asyncio.create_subprocess_exec(
                    "wireguard-go",
                    "-f",
                    name,
                    env={**os.environ, "LOG_LEVEL": "verbose", "WG_UAPI_FD": str(listening.fileno())},
                    pass_fds=(listening.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
            return cls(claim, process, await asyncio.open_unix_connection(sock=ours), said)
        except OSError:
            claim.release()
            raise

    async def configure(self, private_key: bytes, port: int, peers: Sequence[DevicePeer]) -> None:
        """See Device."""
        await self._ask(
            "set=1",
            f"private_key={private_key.hex()}",
            f"listen_port={port}",
            "replace_peers=true",
            *_lines(peers),
        )

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        """See Device."""
        await self._ask(
            "set=1", f"public_key={key.hex()}", "update_only=true", f"endpoint={_joined(endpoint)}"
        )

    async def look(self) -> list[PeerStatus]:
        """See Device."""
        return read_status(await self._ask("get=1"))

    async def ended(self) -> int:
        """See Device."""
        code = await self._process.wait()
        await self._talk
        return code

    async def close(self) -> None:
        """See Device."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._claim.release()
        await self._talk

    async def _listen(self, said: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line beyond the limit
            while line := await self._process.stdout.readline():
                said(line.decode(errors="replace").rstrip("\n"))

    async def _ask(self, *lines: str) -> list[tuple[str, str]]:
        """Names and values of the answer. What is asked before it listens waits for it."""
        try:
            async with self._asking, asyncio.timeout(ANSWER_SECONDS):
                self._writer.write("".join(f"{line}\n" for line in (*lines, "")).encode())
                return await _answer(self._reader)
        except ConnectionError as error:
            raise EndedError from error


async def _answer(reader: asyncio.StreamReader) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    while line := (await _line(reader)):
        name, _, value = line.partition("=")
        if name == "errno" and value != "0":
            raise OSError(abs(int(value)), os.strerror(abs(int(value))))
        pairs.append((name, value))
    return pairs


async def _line(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError
    return line.decode().strip()


def _lines(peers: Sequence[DevicePeer]) -> Iterator[str]:
    for peer in peers:
        yield f"public_key={peer.key.hex()}"
        if peer.preshared is not None:
            yield f"preshared_key={peer.preshared.hex()}"
        if peer.endpoint is not None:
            yield f"endpoint={_joined(peer.endpoint)}"
        yield f"persistent_keepalive_interval={peer.keepalive}"
        yield from (f"allowed_ip={network}" for network in peer.allowed)


def _joined(endpoint: Endpoint) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_status(pairs: Sequence[tuple[str, str]]) -> list[PeerStatus]:
    """The peers in an answer to `get=1`; what does not make sense is left out."""
    found: list[PeerStatus] = []
    for name, value in pairs:
        with contextlib.suppress(ValueError):
            if name == "public_key":
                found.append(PeerStatus(bytes.fromhex(value)))
            elif found:
                found[-1] = _with(found[-1], name, value)
    return found


def _with(seen: PeerStatus, name: str, value: str) -> PeerStatus:
    match name:
        case "endpoint":
            return replace(seen, endpoint=value.rpartition(":")[0].strip("[]"))
        case "last_handshake_time_sec":
            return replace(seen, handshake=int(value) * 10**9)
        case "last_handshake_time_nsec":
            return replace(seen, handshake=seen.handshake + int(value))
        case "tx_bytes":
            return replace(seen, sent=int(value))
    return seen


# --- the kernel's
# ----------------------------------------------------------------------------------------------------------

# linux/genetlink.h: GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
# linux/wireguard.h: WG_CMD_*, WGDEVICE_A_*, WGPEER_A_*, WGALLOWEDIP_A_*
_GET_DEVICE, _SET_DEVICE = 0, 1
_IFNAME, _PRIVATE_KEY, _FLAGS, _LISTEN_PORT, _PEERS = 2, 3, 5, 6, 8
_REPLACE_PEERS, _UPDATE_ONLY = 1, 4
_P_KEY, _P_PRESHARED, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE, _P_HANDSHAKE, _P_SENT, _P_ALLOWED = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
)
_A_FAMILY, _A_ADDRESS, _A_LENGTH = 1, 2, 3
_NETWORKS_PER_MESSAGE = 500  # an attribute holds 64 KiB


class KernelDevice:
    """A device that the kernel serves."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._netlink = NetlinkSocket(GENERIC)
        self._family = self._resolved()

    async def configure(self, private_key: bytes, port: int, peers: Sequence[DevicePeer]) -> None:
        """See Device."""
        head = attribute(_FLAGS, _number(_REPLACE_PEERS)) + attribute(_PRIVATE_KEY, private_key)
        self._order(head + attribute(_LISTEN_PORT, struct.pack("=H", port)))
        for peer in peers:
            for start in range(0, max(1, len(peer.allowed)), _NETWORKS_PER_MESSAGE):
                self._order(peer_attribute(peer, peer.allowed[start : start + _NETWORKS_PER_MESSAGE]))

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        """See Device."""
        body = (
            attribute(_P_KEY, key)
            + attribute(_P_FLAGS, _number(_UPDATE_ONLY))
            + attribute(_P_ENDPOINT, _socket_address(endpoint))
        )
        self._order(_peers(body))

    async def look(self) -> list[PeerStatus]:
        """See Device."""
        return [seen for message in self._send(_GET_DEVICE, DUMP, b"") for seen in read_device(message[4:])]

    async def ended(self) -> int:
        """See Device. The kernel does not end; that a device vanished is the daemon's to notice."""
        return await self._never

    async def close(self) -> None:
        """See Device."""
        with contextlib.suppress(OSError):
            delete_interface(self._name)

    def _order(self, body: bytes) -> None:
        self._send(_SET_DEVICE, 0, body)

    def _send(self, command: int, flags: int, body: bytes) -> list[bytes]:
        whole = _general(command) + text_attribute(_IFNAME, self._name) + body
        return self._netlink.request(self._family, flags, whole)

    def _resolved(self) -> int:
        (answer,) = self._netlink.request(
            _CONTROL, 0, _general(_GET_FAMILY) + text_attribute(_FAMILY_NAME, "wireguard")
        )
        (number,) = struct.unpack("=H", dict(attributes(answer[4:]))[_FAMILY_ID])
        return int(number)


def peer_attribute(peer: DevicePeer, allowed: Sequence[str]) -> bytes:
    """The attribute that adds a peer, or more networks to it."""
    body = attribute(_P_KEY, peer.key)
    if peer.preshared is not None:
        body += attribute(_P_PRESHARED, peer.preshared)
    if peer.endpoint is not None:
        body += attribute(_P_ENDPOINT, _socket_address(peer.endpoint))
    body += attribute(_P_KEEPALIVE, struct.pack("=H", peer.keepalive))
    return _peers(
        body
        + attribute(
            _P_ALLOWED | NESTED, b"".join(attribute(NESTED, _allowed(network)) for network in allowed)
        )
    )


def read_device(data: bytes) -> Iterator[PeerStatus]:
    """The peers in one message of a dump."""
    for _, body in attributes(dict(attributes(data)).get(_PEERS, b"")):
        peer = dict(attributes(body))
        if _P_HANDSHAKE not in peer:
            continue  # more networks of a peer that the message before was about
        seconds, rest = struct.unpack("=qq", peer[_P_HANDSHAKE])
        (sent,) = struct.unpack("=Q", peer[_P_SENT])
        yield PeerStatus(peer[_P_KEY], _address(peer.get(_P_ENDPOINT, b"")), seconds * 10**9 + rest, sent)


def _peers(body: bytes) -> bytes:
    return attribute(_PEERS | NESTED, attribute(NESTED, body))


def _allowed(network: str) -> bytes:
    parsed = ip_network(network)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    address = attribute(_A_ADDRESS, parsed.network_address.packed)
    return (
        attribute(_A_FAMILY, struct.pack("=H", family))
        + address
        + attribute(_A_LENGTH, bytes([parsed.prefixlen]))
    )


def _socket_address(endpoint: Endpoint) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    address, port = ip_address(endpoint[0]), struct.pack("!H", endpoint[1])
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + address.packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + address.packed + bytes(4)


def _address(data: bytes) -> str:
    if not data:
        return ""
    (family,) = struct.unpack_from("=H", data)
    return str(ip_address(data[4:8] if family == socket.AF_INET else data[8:24]))


def _general(command: int) -> bytes:
    return struct.pack("=BBH", command, 1, 0)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)
