"""The Python package sshuttle, with parts replaced: no firewall, a listener that is open only while
connections can be carried, limits on connections, and `ssnet_patch`. None of that is a public interface of
sshuttle, so `compatibility` checks everything before it is replaced.

    SshuttlePackage() while all files can be read  ->  .run(argv, listener, ...), once in a process, without
    privileges
"""

from __future__ import annotations

import errno
import pkgutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from tunnels.drivers.cli import FATAL, Unfit, say
from tunnels.kinds.sshuttle import compatibility, ssnet_patch
from tunnels.kinds.sshuttle.connection_limits import ConnectionLimits
from tunnels.kinds.sshuttle.connection_queue import ConnectionQueue
from tunnels.kinds.sshuttle.listener import ProxyListener
from tunnels.kinds.sshuttle.ssh_output import SshOutput
from tunnels.kinds.sshuttle.ssh_process import SshProcess

ACCEPT_BATCH = 64  # connections accepted in one turn of the loop
NO_DESCRIPTOR_SECONDS = 0.01  # pause after a connection for which there was no file descriptor

Translate = Callable[[str], str]  # the address that staff use -> the address at the remote site
Notify = Callable[..., object]  # sd_notify(3), one message an argument


class SshuttlePackage:
    """The package, imported, checked and changed while its files can be read. Unfit: it is missing or does
    not fit.
    """

    def __init__(self) -> None:
        self._modules = _modules()
        self._sources = _sources()
        "lookup".encode("idna")  # name lookups import this codec when they first run

    def run(
        self,
        argv: Sequence[str],
        listener: ProxyListener,
        output: SshOutput,
        notify: Notify,
        translate: Translate,
        limits: ConnectionLimits,
    ) -> int:
        """Run sshuttle's own main with these arguments, until it or its ssh ends; returns the exit code."""
        ssh = SshProcess(self._modules["ssh"].connect, output, listener.shut)
        output.begin()
        self._replace(listener, notify, ssh, translate, limits)
        sys.argv = ["sshuttle", *argv]
        try:
            return int(self._modules["cmdline"].main() or 0)
        # sshuttle does not catch all, above all when ssh ends while it is written to
        except OSError as error:
            say(f"sshuttle ended: {error.strerror}")
            return FATAL
        except MemoryError:
            say("sshuttle ended: it needs more memory than it may have")
            return FATAL
        finally:
            listener.shut()
            ssh.report()

    def _replace(
        self,
        listener: ProxyListener,
        notify: Notify,
        connect: Callable[..., Any],
        translate: Translate,
        limits: ConnectionLimits,
    ) -> None:
        client, ssh, ssnet = (self._modules[name] for name in ("client", "ssh", "ssnet"))
        fatal = self._modules["helpers"].Fatal
        client.MultiListener = _listener_class(client.MultiListener, fatal, listener, limits, ssnet.CMD_PING)
        client.FirewallClient = _firewall_class(self._modules["methods"].BaseMethod, translate, listener.open)
        self._modules["sdnotify"].send = notify
        ssh.get_module_source = self._sources.__getitem__
        ssh.connect = connect
        # It would run `ssh -G` and resolve the name, only to exclude the remote host from firewall rules.
        ssh.parse_hostname = lambda remote: (None, None, None)


def _modules() -> Mapping[str, Any]:
    """The modules of sshuttle, checked and changed."""
    try:
        modules = {name: import_module(f"sshuttle.{name}") for name in compatibility.NAMES}
    except ImportError as error:
        raise Unfit(f"the Python package sshuttle is missing: {error}") from error
    compatibility.check(modules, getattr(import_module("sshuttle"), "__version__", "unknown"))
    return modules


def _sources() -> dict[str, bytes]:
    """The source of each module of the package: sshuttle sends some of them to the remote host."""
    package = import_module("sshuttle")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    folder = Path(package.__path__[0])
    sources = {f"sshuttle.{name}": (folder / f"{name}.py").read_bytes() for name in modules}
    sources["sshuttle"] = (folder / "__init__.py").read_bytes()
    sources["sshuttle.ssnet"] = remote_source(sources["sshuttle.ssnet"])
    return sources


def remote_source(ssnet: bytes) -> bytes:
    """The source of sshuttle's module `ssnet` for the remote host: at its end it changes itself, by the text
    of ssnet_patch.py in a namespace of its own.
    """
    text = Path(ssnet_patch.__file__).read_text()
    return (
        ssnet
        + (
            f"\n_patch = {{'__name__': 'ssnet_patch'}}"
            f"\nexec(compile({text!r}, 'ssnet_patch.py', 'exec'), _patch)"
            f"\n_patch['install'](globals())"
            f"\n_patch['limit_descriptors']()\n"
        ).encode()
    )


# --- replacements
# ----------------------------------------------------------------------------------------------------------


class _AcceptedConnection(NamedTuple):
    """Looks like a listening socket with this one connection."""

    connection: socket.socket
    peer: Any

    def accept(self) -> tuple[socket.socket, Any]:
        """Like socket.accept."""
        return self.connection, self.peer


def _listener_class(
    base: Any, fatal: type[Exception], listener: ProxyListener, limits: ConnectionLimits, ping: int
) -> Any:
    class ListenerAdapter(base):  # type: ignore[misc]
        """Uses our listener in the place of sockets of its own."""

        def bind(self, *_: object) -> None:
            self.bind_called = True
            self.v4, self.v6 = listener.v4, listener.v6

        def listen(self, backlog: int) -> None:
            """Not yet: the listener opens when the remote host has answered."""

        def add_handler(self, handlers: Any, callback: Callable[..., None], method: Any, mux: Any) -> None:
            queue = ConnectionQueue(lambda: mux.send(0, ping, b"held"))
            _hear(mux, queue)

            def accept(ready: socket.socket, *arguments: Any) -> None:
                if not listener.is_open:
                    raise fatal("ssh is gone")
                for connection, peer in _waiting(ready):
                    admitted = limits.admit(connection, peer[0])
                    if admitted is None:
                        continue
                    carry = partial(callback, _AcceptedConnection(admitted, peer), *arguments)
                    queue.offer(admitted, carry, probe=admitted is connection)

            listener.on_open = lambda: base.add_handler(self, handlers, accept, method, mux)

    return ListenerAdapter


def _hear(mux: Any, queue: ConnectionQueue) -> None:
    """Tell about each frame that comes from the remote end."""
    got_packet = mux.got_packet

    def heard(channel: int, cmd: int, data: bytes) -> None:
        queue.heard()
        got_packet(channel, cmd, data)

    mux.got_packet = heard


def _waiting(listener: socket.socket) -> Iterator[tuple[socket.socket, Any]]:
    """Accept some of the connections that wait."""
    for _ in range(ACCEPT_BATCH):
        try:
            yield listener.accept()
        except OSError as error:  # most often: none is left
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(NO_DESCRIPTOR_SECONDS)
            return


def _firewall_class(base: Any, translate: Translate, on_ready: Callable[[], None]) -> Any:
    class RedirectedMethod(base):  # type: ignore[misc]
        """Finds out where a redirected connection was meant to go."""

        @staticmethod
        def get_tcp_dstip(connection: socket.socket) -> Any:
            """A connection that was not redirected has no answer, and must not end the program."""
            try:
                address, port = base.get_tcp_dstip(connection)
                return translate(address), port
            except OSError:
                return connection.getsockname()  # sshuttle closes a connection to its own listener

    class NoFirewall:
        """Stands for sshuttle's firewall process: the daemon's rules redirect connections."""

        def __init__(self, *_: object) -> None:
            self.auto_nets: list[object] = []
            self.method = RedirectedMethod("facilitator")
            self.p = SimpleNamespace(returncode=None)

        def start(self) -> None:
            """Called when the remote host has answered and rules would be installed."""
            on_ready()

        def _nothing(self, *_: object) -> None:
            return None

        setup = check = sethostip = done = _nothing

    return NoFirewall


def translation(pairs: Sequence[str]) -> Translate:
    """Translates addresses 1:1, from the first network of each PRESENTED=REAL to the second."""
    networks = [tuple(map(ip_network, pair.split("="))) for pair in pairs]

    def translate(text: str) -> str:
        address = ip_address(text)
        for presented, real in networks:
            if address in presented:
                return str(real[int(address) - int(presented.network_address)])
        return text

    return translate
