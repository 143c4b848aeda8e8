"""wireguard-go, the userspace implementation of WireGuard, for hosts whose kernel has none. Configured over
its UAPI socket (https://www.wireguard.com/xplatform/).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tunnels.kinds.wireguard.peers import DevicePeer, EndedError, Endpoint, PeerStatus

SOCKETS = Path("/var/run/wireguard")  # wireguard-go insists on a file for each interface here
OWN_SOCKET = "uapi.sock"  # in the driver's working directory, only for a moment
ANSWER_SECONDS = 5.0
STOP_SECONDS = 2.0  # from SIGTERM to SIGKILL

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NameLock:
    """The file with the name of an interface in wireguard-go's directory, without which it does not start. It
    is locked (flock(2)) while it is in use.
    """

    def __init__(self, path: Path) -> None:
        """OSError: EADDRINUSE if another process of this host holds it, in whatever network namespace."""
        self._path = path
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        with contextlib.suppress(FileNotFoundError):
            _remove_stale_socket(path)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.fd)
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path)) from None

    def release(self) -> None:
        """Delete the file, after the interface."""
        self._path.unlink(missing_ok=True)
        os.close(self.fd)


def _remove_stale_socket(path: Path) -> None:
    """Delete the socket of a wireguard-go that was started by hand. OSError: EADDRINUSE, it is in use."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as visitor:
        try:
            visitor.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


def _connected_socketpair() -> tuple[socket.socket, socket.socket]:
    """A listening socket, and the only connection to it: its path is deleted before wireguard-go listens.

    wireguard-go gives the private key to everybody who connects, and every client of our user could.
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
    """A device that wireguard-go serves, configured over its UAPI socket."""

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
        self._relaying = asyncio.get_running_loop().create_task(self._listen(said))

    @classmethod
    async def started(cls, name: str, said: Callable[[str], None]) -> UserspaceDevice:
        """Start wireguard-go. `said` gets the lines of its output. OSError: it cannot be started."""
        claim = NameLock(SOCKETS / f"{name}.sock")
        try:
            listening, ours = _connected_socketpair()
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
        """See WireGuardDevice."""
        await self._ask(
            "set=1",
            f"private_key={private_key.hex()}",
            f"listen_port={port}",
            "replace_peers=true",
            *_lines(peers),
        )

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        """See WireGuardDevice."""
        await self._ask(
            "set=1", f"public_key={key.hex()}", "update_only=true", f"endpoint={_joined(endpoint)}"
        )

    async def look(self) -> list[PeerStatus]:
        """See WireGuardDevice."""
        return read_status(await self._ask("get=1"))

    async def port(self) -> int:
        """See WireGuardDevice. It forgets a port that was taken when the interface came up, and takes
        another one.
        """
        return int(dict(await self._ask("get=1")).get("listen_port", "0"))

    async def ended(self) -> int:
        """See WireGuardDevice."""
        code = await self._process.wait()
        await self._relaying
        return code

    async def close(self) -> None:
        """See WireGuardDevice."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._claim.release()
        await self._relaying

    async def _listen(self, said: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line beyond the limit
            while line := await self._process.stdout.readline():
                said(line.decode(errors="replace").rstrip("\n"))

    async def _ask(self, *lines: str) -> list[tuple[str, str]]:
        """Names and values of the answer. Before wireguard-go listens, requests wait in the socket."""
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
    """The peers in an answer to `get=1`; values that make no sense are left out."""
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
        case "rx_bytes":
            return replace(seen, received=int(value))
    return seen
