"""sshuttle's package with the parts replaced that are the daemon's: no firewall, a listener that is open
only while connections can pass,
limits on connections, and what sshuttle_mux.py says. Those parts are no public interface of it, so version
and names are checked before anything is replaced.

    Package() while everything can be read  ->  Package.run(argv, door, notify), once in a process, without
    rights
"""

from __future__ import annotations

import contextlib
import errno
import os
import pkgutil
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from tunnels.kinds.sshuttle.connection_limits import Guests
from tunnels.kinds.sshuttle.messages import Unfit, say
from tunnels.kinds.sshuttle.ssnet_patch import SSNET

BACKLOG = 1024  # connections that wait to be accepted: sshuttle's own 10 makes a burst wait for retransmits
BATCH = 64  # connections accepted in one turn of the loop
PATIENCE = 0.01  # seconds between two looks at connections for which the system has no descriptor
GRACE = 0.5  # seconds that sshuttle gets to notice by itself that its ssh is gone
FATAL = 99  # sshuttle's own exit code for "it cannot go on"

_NEEDED = MappingProxyType(
    {  # what we replace or call
        "client": ("FirewallClient", "MultiListener", "ssh", "sdnotify"),
        "cmdline": ("main",),
        "helpers": ("Fatal",),
        "methods": ("BaseMethod",),
        "sdnotify": ("send",),
        "ssh": ("connect", "get_module_source"),
        "ssnet": (
            "Fatal",
            "LATENCY_BUFFER_SIZE",
            "Mux",
            "MuxWrapper",
            "Proxy",
            "SockWrapper",
            "cmd_to_name",
            "log",
            "runonce",
            "_add",
            "select",
        ),
    }
)
VERSIONS = "sshuttle>=1.3.2,<2.1"
_OLDEST, _BEFORE = (
    (1, 3, 2),
    (2, 1),
)  # versions that were read and tried; another one may work past our limits unseen

Real = Callable[[str], str]  # what an address that staff use is at the far side
Notify = Callable[..., object]  # sd_notify(3), one message an argument


_IPV6_TRANSPARENT = 75


class ProxyListener:
    """The local port, IPv4 and IPv6: taken at once, open for connections only while they can pass.

    Its sockets are transparent, which needs CAP_NET_ADMIN: the daemon's rules let redirected connections
    reach no other socket, so that whoever takes the port after us gets none. They have SO_REUSEADDR only
    while they listen, when it lets nobody in beside them: without it a door could not open again before its
    last connections are over, and with it anybody could take the port while it is shut.
    """

    def __init__(self, port: int, shared: bool) -> None:
        """`shared`: other doors of this user lead to the port too, and the kernel spreads new connections
        over the open ones.
        """
        try:
            self.v4 = _bound(socket.AF_INET, "0.0.0.0", port, shared)
            self.v6 = _bound_if_there(port, shared)
        except PermissionError as error:
            raise Unfit(
                "cannot mark the listening sockets as transparent: that needs CAP_NET_ADMIN"
            ) from error
        except OSError as error:
            raise Unfit(f"cannot listen on port {port}: {error.strerror}") from error
        self._lock = threading.Lock()
        self.is_open = False
        self.on_open: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Accept connections (again)."""
        for listener in self._sockets():
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.listen(BACKLOG)
        self.is_open = True
        self.on_open()

    def shut(self) -> None:
        """Accept no more, whichever process opened it. Those that wait are reset, and try another door."""
        with self._lock:
            self.is_open = False
            for listener in self._sockets():
                # A second time would be remembered: when it listens again, its connections would be shut from
                # the beginning.
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def forget(self) -> None:
        """This process does not use it."""
        for listener in self._sockets():
            listener.close()

    def _sockets(self) -> tuple[socket.socket, ...]:
        return (self.v4,) if self.v6 is None else (self.v4, self.v6)


def _bound(family: int, address: str, port: int, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT)
        if family == socket.AF_INET6
        else (socket.IPPROTO_IP, socket.IP_TRANSPARENT)
    )
    listener.setsockopt(level, option, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    return listener


def _bound_if_there(port: int, shared: bool) -> socket.socket | None:
    """None where the kernel runs without IPv6."""
    try:
        return _bound(socket.AF_INET6, "::", port, shared)
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise


class SshuttlePackage:
    """The package, imported and read while that is possible. Unfit: it is missing, or is not any more what
    we know.
    """

    def __init__(self) -> None:
        self._modules = _modules()
        self._sources = _sources()
        "lookup".encode("idna")  # name lookups import this codec when they first run

    def run(
        self, argv: Sequence[str], door: ProxyListener, notify: Notify, real: Real, guests: Guests
    ) -> int:
        """sshuttle's own main with these arguments, until it or its ssh ends; the exit code."""
        ssh = _Ssh(self._modules["ssh"].connect, door.shut)
        self._replace(door, notify, ssh, real, guests)
        sys.argv = ["sshuttle", *argv]
        try:
            return int(self._modules["cmdline"].main() or 0)
        except (
            OSError
        ) as error:  # sshuttle lets some escape, above all when ssh dies while something is written to it
            say(f"sshuttle ended: {error.strerror}")
            return FATAL
        except MemoryError:
            say("sshuttle ended: it needs more memory than it may have")
            return FATAL
        finally:
            door.shut()
            ssh.report()

    def _replace(
        self, door: ProxyListener, notify: Notify, connect: Callable[..., Any], real: Real, guests: Guests
    ) -> None:
        client, ssh, ssnet = (self._modules[name] for name in ("client", "ssh", "ssnet"))
        client.MultiListener = _listener(client.MultiListener, self._modules["helpers"].Fatal, door, guests)
        client.FirewallClient = _firewall(self._modules["methods"].BaseMethod, real, door.open)
        self._modules["sdnotify"].send = notify
        ssh.get_module_source = self._sources.__getitem__
        ssh.connect = connect
        # it would run `ssh -G` and look the name up, only to spare the far side's address from firewall rules
        # that do not exist
        ssh.parse_hostname = lambda remote: (None, None, None)
        exec(SSNET, vars(ssnet))


def _modules() -> Mapping[str, Any]:
    try:
        modules = {name: import_module(f"sshuttle.{name}") for name in _NEEDED}
    except ImportError as error:
        raise Unfit(f"the Python package sshuttle is missing: {error}") from error
    version = getattr(import_module("sshuttle"), "__version__", "unknown")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if not _OLDEST <= numbers < _BEFORE:
        raise Unfit(f"this version of sshuttle cannot be used: {version}; install {VERSIONS}")
    missing = [
        f"sshuttle.{module}.{name}"
        for module, names in _NEEDED.items()
        for name in names
        if not hasattr(modules[module], name)
    ]
    if missing:
        raise Unfit(
            f"this version of sshuttle cannot be used: it has no {', '.join(missing)}; install {VERSIONS}"
        )
    return modules


def _sources() -> dict[str, bytes]:
    """The package's own source, which sshuttle sends to the far side."""
    package = import_module("sshuttle")
    names = [
        "sshuttle",
        *(f"sshuttle.{module.name}" for module in pkgutil.iter_modules(package.__path__) if not module.ispkg),
    ]
    folder = Path(package.__path__[0])
    sources = {name: (folder / f"{name.partition('.')[2] or '__init__'}.py").read_bytes() for name in names}
    sources["sshuttle.ssnet"] += SSNET
    return sources


class _Accepted(NamedTuple):
    """Stands for a listening socket of which sshuttle accepts this one connection."""

    connection: socket.socket
    peer: Any

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket."""
        return self.connection, self.peer


def _listener(base: Any, fatal: type[Exception], door: ProxyListener, guests: Guests) -> Any:
    class ListenerAdapter(base):  # type: ignore[misc]
        """The door in the place of sockets of its own."""

        def bind(self, *_: object) -> None:
            self.bind_called = True
            self.v4, self.v6 = door.v4, door.v6

        def listen(self, backlog: int) -> None:
            """Not yet: the door opens when the far side has answered."""

        def add_handler(self, handlers: Any, callback: Callable[..., None], *rest: Any) -> None:
            def accept(listener: socket.socket, *arguments: Any) -> None:
                if not door.is_open:
                    raise fatal("ssh is gone")
                for connection, peer in _waiting(listener):
                    admitted = guests.admit(connection, peer[0])
                    if admitted is not None:
                        callback(_Accepted(admitted, peer), *arguments)

            door.on_open = lambda: base.add_handler(self, handlers, accept, *rest)

    return ListenerAdapter


def _waiting(listener: socket.socket) -> Iterator[tuple[socket.socket, Any]]:
    """Some of the connections that wait."""
    for _ in range(BATCH):
        try:
            yield listener.accept()
        except OSError as error:  # most often: none is left
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(PATIENCE)
            return


def _firewall(base: Any, real: Real, ready: Callable[[], None]) -> Any:
    class Redirected(base):  # type: ignore[misc]
        """Connections come through the daemon's rules; one that did not must not end the program."""

        @staticmethod
        def get_tcp_dstip(connection: socket.socket) -> Any:
            try:
                address, port = base.get_tcp_dstip(connection)
                return real(address), port
            except OSError:
                return connection.getsockname()  # sshuttle closes a connection that is meant for itself

    class NoFirewall:
        """What sshuttle believes to be its firewall process."""

        def __init__(self, *_: object) -> None:
            self.auto_nets: list[object] = []
            self.method = Redirected("facilitator")
            self.p = SimpleNamespace(returncode=None)

        def start(self) -> None:
            """Rules would be made now: the far side has answered."""
            ready()

        def _nothing(self, *_: object) -> None:
            return None

        setup = check = sethostip = done = _nothing

    return NoFirewall


def mapping(pairs: Sequence[str]) -> Real:
    """Translates addresses 1:1, from the first network of each PRESENTED=REAL to the second."""
    networks = [tuple(map(ip_network, pair.split("="))) for pair in pairs]

    def real(text: str) -> str:
        address = ip_address(text)
        for presented, behind in networks:
            if address in presented:
                return str(behind[int(address) - int(presented.network_address)])
        return text

    return real


class _Ssh:
    """The one ssh child, started by sshuttle's own `connect`, and what becomes of it."""

    def __init__(self, connect: Callable[..., Any], gone: Callable[[], None]) -> None:
        self._connect, self._gone = connect, gone
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Start it, and watch it: an idle sshuttle can wait for ever after its ssh died."""
        self._process, stream, *rest = self._connect(*arguments, **named)
        threading.Thread(target=self._watch, args=(os.pidfd_open(self._process.pid),), daemon=True).start()
        return self._process, _Stream(stream, self._gone), *rest

    def report(self) -> None:
        """Say how it ended: sshuttle often sees the end of the stream before that can be known."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            say(f"ssh ended with code {self._process.wait(GRACE)}")

    def _watch(self, pidfd: int) -> None:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        waiting.poll()
        self._gone()
        time.sleep(GRACE)
        say("ssh is gone")
        os._exit(FATAL)


class _Stream:
    """What comes from ssh. Its end is the first sign that ssh is gone; the exit of a process may take half
    a second more.
    """

    def __init__(self, raw: Any, ended: Callable[[], None]) -> None:
        self._raw, self._ended = raw, ended

    def read(self, size: int) -> bytes | None:
        """As a raw stream; when it is over, nobody is let in any more, and that wakes sshuttle, which
        would wait for nothing.
        """
        try:
            data: bytes | None = self._raw.read(size)
        except OSError:
            self._ended()
            raise
        if data == b"":
            self._ended()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
