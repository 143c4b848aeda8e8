"""sshuttle's package with the parts replaced that are the daemon's: no firewall, a listener that is open only while connections can pass,
larger frames, a loop that idle connections do not slow down. Those parts are no public interface of it, so they are looked for before
anything is replaced.

    Package() while everything can be read  ->  Package.run(argv, door, notify), once in a process, without rights
"""

from __future__ import annotations

import contextlib
import errno
import os
import pkgutil
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from tunnels.programs.unfit import Unfit, say

BACKLOG = 1024          # connections that wait to be accepted: sshuttle's own 10 makes a burst wait for retransmits
GRACE = 0.5             # seconds that sshuttle gets to notice by itself that its ssh is gone
FATAL = 99              # sshuttle's own exit code for "it cannot go on"

# Run in sshuttle's module ssnet, here and at the far side: it sends us the module's source. It changes three things.
# - What is carried is cut into frames of 2 KiB, each of which costs a dozen Python calls on either side. A frame says its own length, so
#   any other end understands larger ones too.
# - Each frame that waits is written by itself, in a turn of the loop of its own.
# - In each turn every connection is asked what it waits for, by a search through lists as long as there are connections, and after each
#   frame every connection tries to read and to write. So a hundred that are idle make all others slow, and where the CPU is scarce more
#   connections mean less done, until nothing is. Here those that have nothing to do are left alone.
SSNET = b"""
def _uwrite(self, data):
    if self.mux.too_full:
        return 0
    frame = data[:32768]
    self.mux.send(self.channel, CMD_TCP_DATA, frame)
    return len(frame)


def _flush(self):
    if len(self.outbuf) > 1:
        self.outbuf[:] = [b"".join(self.outbuf)]
    _flush_first(self)


def _add(socks, elem):
    socks[elem] = True


def _at_rest(handler):
    if type(handler) is not Proxy:
        return False
    one, two = handler.wrap1, handler.wrap2
    return not (
        one.buf or two.buf or one.connect_to or two.connect_to
        or one.shut_read or one.shut_write or two.shut_read or two.shut_write
    )


def runonce(handlers, mux):
    for over in [each for each in handlers if not each.ok]:
        handlers.remove(over)
        if hasattr(over, "dispose"):
            over.dispose()
    r, w = {}, {}
    for each in handlers:
        each.pre_select(r, w, {})
    readable, writable, _ = select.select(list(r), list(w), [])
    ready = {*readable, *writable}
    own = ready - {mux.rfile, mux.wfile}
    for each in handlers:
        called = own if _at_rest(each) else ready
        for sock in [sock for sock in each.socks if sock in called]:
            each.callback(sock)
            if type(each) in (Mux, Proxy):
                break


_flush_first = Mux.flush
MuxWrapper.uwrite, Mux.flush = _uwrite, _flush
"""

_NEEDED = MappingProxyType({             # what we replace or call
    "client": ("FirewallClient", "MultiListener", "ssh", "sdnotify"),
    "cmdline": ("main",),
    "helpers": ("Fatal",),
    "methods": ("BaseMethod",),
    "sdnotify": ("send",),
    "ssh": ("connect", "get_module_source"),
    "ssnet": ("Mux", "MuxWrapper", "Proxy", "CMD_TCP_DATA", "runonce", "_add", "select"),
})

Real = Callable[[str], str]     # what an address that staff use is at the far side
Notify = Callable[..., object]  # sd_notify(3), one message an argument


class Door:
    """The local port, IPv4 and IPv6: taken at once, open for connections only while they can pass."""

    def __init__(self, port: int, shared: bool) -> None:
        """`shared`: other doors of this user lead to the port too, and the kernel spreads new connections over the open ones."""
        try:
            self.v4 = _bound(socket.AF_INET, "0.0.0.0", port, shared)
            self.v6 = _bound_if_there(port, shared)
        except OSError as error:
            raise Unfit(f"cannot listen on port {port}: {error.strerror}") from error
        self._lock = threading.Lock()
        self.is_open = False
        self.on_open: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Accept connections (again)."""
        for listener in self._sockets():
            listener.listen(BACKLOG)
        self.is_open = True
        self.on_open()

    def shut(self) -> None:
        """Accept no more, whichever process opened it. Those that wait are reset, and try another door."""
        with self._lock:
            self.is_open = False
            for listener in self._sockets():
                # A second time would be remembered: when it listens again, its connections would be shut from the beginning.
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.shutdown(socket.SHUT_RDWR)

    def _sockets(self) -> tuple[socket.socket, ...]:
        return (self.v4,) if self.v6 is None else (self.v4, self.v6)


def _bound(family: int, address: str, port: int, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)      # a restart need not wait for old connections
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


class Package:
    """The package, imported and read while that is possible. Unfit: it is missing, or is not any more what we know."""

    def __init__(self) -> None:
        self._modules = _modules()
        self._sources = _sources()
        "lookup".encode("idna")     # name lookups import this codec when they first run

    def run(self, argv: Sequence[str], door: Door, notify: Notify, real: Real) -> int:
        """sshuttle's own main with these arguments, until it or its ssh ends; the exit code."""
        ssh = _Ssh(self._modules["ssh"].connect, door.shut)
        self._replace(door, notify, ssh, real)
        sys.argv = ["sshuttle", *argv]
        try:
            return int(self._modules["cmdline"].main() or 0)
        except OSError as error:        # sshuttle lets some escape, above all when ssh dies while something is written to it
            say(f"sshuttle ended: {error.strerror}")
            return FATAL
        finally:
            door.shut()
            ssh.report()

    def _replace(self, door: Door, notify: Notify, connect: Callable[..., Any], real: Real) -> None:
        client, ssh, ssnet = (self._modules[name] for name in ("client", "ssh", "ssnet"))
        client.MultiListener = _listener(client.MultiListener, self._modules["helpers"].Fatal, door)
        client.FirewallClient = _firewall(self._modules["methods"].BaseMethod, real, door.open)
        self._modules["sdnotify"].send = notify
        ssh.get_module_source = self._sources.__getitem__
        ssh.connect = connect
        # it would run `ssh -G` and look the name up, only to spare the far side's address from firewall rules that do not exist
        ssh.parse_hostname = lambda remote: (None, None, None)
        exec(SSNET, vars(ssnet))


def _modules() -> Mapping[str, Any]:
    try:
        modules = {name: import_module(f"sshuttle.{name}") for name in _NEEDED}
    except ImportError as error:
        raise Unfit(f"the Python package sshuttle is missing: {error}") from error
    missing = [f"sshuttle.{module}.{name}" for module, names in _NEEDED.items() for name in names if not hasattr(modules[module], name)]
    if missing:
        raise Unfit(f"this version of sshuttle cannot be used (1.3.2 or newer, before 3): it has no {', '.join(missing)}")
    return modules


def _sources() -> dict[str, bytes]:
    """The package's own source, which sshuttle sends to the far side."""
    package = import_module("sshuttle")
    names = ["sshuttle", *(f"sshuttle.{module.name}" for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)]
    folder = Path(package.__path__[0])
    sources = {name: (folder / f"{name.partition('.')[2] or '__init__'}.py").read_bytes() for name in names}
    sources["sshuttle.ssnet"] += SSNET
    return sources


def _listener(base: Any, fatal: type[Exception], door: Door) -> Any:
    class Listener(base):  # type: ignore[misc]
        """The door in the place of sockets of its own."""

        def bind(self, *_: object) -> None:
            self.bind_called = True
            self.v4, self.v6 = door.v4, door.v6

        def listen(self, backlog: int) -> None:
            """Not yet: the door opens when the far side has answered."""

        def add_handler(self, handlers: Any, callback: Callable[..., None], *rest: Any) -> None:
            def accept(*arguments: Any) -> None:
                if not door.is_open:
                    raise fatal("ssh is gone")
                callback(*arguments)

            door.on_open = lambda: base.add_handler(self, handlers, accept, *rest)

    return Listener


def _firewall(base: Any, real: Real, ready: Callable[[], None]) -> Any:
    class Redirected(base):  # type: ignore[misc]
        """Connections come through the daemon's rules; one that did not must not end the program."""

        @staticmethod
        def get_tcp_dstip(connection: socket.socket) -> Any:
            try:
                address, port = base.get_tcp_dstip(connection)
                return real(address), port
            except OSError:
                return connection.getsockname()     # sshuttle closes a connection that is meant for itself

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
    """What comes from ssh. Its end is the first sign that ssh is gone; the exit of a process may take half a second more."""

    def __init__(self, raw: Any, ended: Callable[[], None]) -> None:
        self._raw, self._ended = raw, ended

    def read(self, size: int) -> bytes | None:
        """As a raw stream; when it is over, nobody is let in any more, and that wakes sshuttle, which would wait for nothing."""
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
