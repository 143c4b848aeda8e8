"""Runs sshuttle as a plain proxy: without its firewall, without privileges, one ssh to one far side.

    python -I sshuttle.py --port N --remote USER@HOST[:PORT] --identity FD --known-hosts FD [--option NAME=VALUE]...

The daemon redirects connections to the port with its own rules, so sshuttle's firewall half is replaced by nothing. The two descriptors
are anonymous files with the private key and the known hosts; ssh closes inherited descriptors, so it opens /proc/PID/fd/FD of this process.
Started as root it becomes `facilitator` (else `nobody`) for good. Interpreter and packages may lie where that user cannot read, so
everything is imported and read before. READY=1 goes to NOTIFY_SOCKET when the far side answered. Exit code 99: see the output.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import pkgutil
import pwd
import resource
import select
import shlex
import socket
import struct
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

BACKLOG = 1024          # connections that wait to be accepted: sshuttle's own 10 makes a burst wait for retransmits
DESCRIPTORS = 1024      # sshuttle's select() dies above this number; at it, it refuses what is too much and lives
GRACE = 0.5             # seconds that sshuttle gets to notice by itself that its ssh is gone
FATAL = 99              # sshuttle's own exit code for "it cannot go on"
USERS = ("facilitator", "nobody")

_NEEDED = MappingProxyType({             # what we replace or call in the package, which is no public interface of it
    "client": ("FirewallClient", "MultiListener", "ssh", "sdnotify"),
    "cmdline": ("main",),
    "helpers": ("Fatal",),
    "methods": ("BaseMethod",),
    "sdnotify": ("send",),
    "ssh": ("connect", "get_module_source"),
})


class Unfit(Exception):
    """This program cannot run here; the text says why."""


def main(arguments: Sequence[str]) -> int:
    """Run until ssh or sshuttle ends; the exit code."""
    options = _options(arguments)
    try:
        package = _package()
        notify = _notifier(os.environ.pop("NOTIFY_SOCKET", None))
        os.environ.pop("SSHUTTLE_ARGS", None)
        ssh = Ssh(package["ssh"].connect)
        _replace(package, notify, ssh, _mapping(options.map))
        _become_nobody((options.identity, options.known_hosts))
    except Unfit as error:
        _say(str(error))
        return FATAL
    sys.argv = ["sshuttle", "-l", f"0.0.0.0:{options.port}", "-r", options.remote, "--ssh-cmd", shlex.join(_ssh(options)), "0.0.0.0/0"]
    try:
        return int(package["cmdline"].main() or 0)
    except OSError as error:        # sshuttle lets some escape, above all when ssh dies while something is written to it
        _say(f"sshuttle ended: {error.strerror}")
        return FATAL
    finally:
        ssh.report()


def _say(text: str) -> None:
    print(f"facilitator: {text}", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True, help="local TCP port to listen on, IPv4 and IPv6")
    parser.add_argument("--remote", required=True, help="USER@HOST[:PORT]")
    parser.add_argument("--identity", type=int, required=True, help="descriptor of the private key")
    parser.add_argument("--known-hosts", type=int, required=True, help="descriptor of the known hosts")
    parser.add_argument("--option", action="append", default=[], help="an ssh option, NAME=VALUE")
    parser.add_argument("--map", action="append", default=[], help="1:1 mapping, PRESENTED=REAL: connections to the one go to the other")
    return parser.parse_args(arguments)


def _ssh(options: argparse.Namespace) -> tuple[str, ...]:
    """The ssh command. Of one option ssh takes the first value: ours that must be, the operator's, ours that may be."""
    here = f"/proc/{os.getpid()}/fd"
    must = (
        "BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={here}/{options.known_hosts}", "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no", "CheckHostIP=no", f"IdentityFile={here}/{options.identity}", "IdentitiesOnly=yes", "IdentityAgent=none",
        "PreferredAuthentications=publickey", "ControlMaster=no", "ControlPath=none", "PermitLocalCommand=no", "ClearAllForwardings=yes",
        "ForwardAgent=no", "ForwardX11=no", "RequestTTY=no", "LogLevel=INFO",
    )
    may = (
        "ConnectTimeout=10", "ConnectionAttempts=1", "ServerAliveInterval=5", "ServerAliveCountMax=3", "Ciphers=^aes128-gcm@openssh.com",
    )
    return "ssh", "-F", "none", *(word for option in (*must, *options.option, *may) for word in ("-o", option))


# --- sshuttle, with the parts replaced that are the daemon's --------------------------------------------------------------------------


def _package() -> Mapping[str, Any]:
    """The package's modules by name. Unfit when it is missing, or is not any more what we know."""
    try:
        modules = {name: import_module(f"sshuttle.{name}") for name in _NEEDED}
    except ImportError as error:
        raise Unfit(f"the Python package sshuttle is missing: {error}") from error
    missing = [f"sshuttle.{module}.{name}" for module, names in _NEEDED.items() for name in names if not hasattr(modules[module], name)]
    if missing:
        raise Unfit(f"this version of sshuttle cannot be used (1.3.2 or newer, before 3): it has no {', '.join(missing)}")
    return modules


def _mapping(pairs: Sequence[str]) -> Callable[[str], str]:
    """What an address that staff use is at the far side."""
    networks = [tuple(map(ip_network, pair.split("="))) for pair in pairs]

    def real(text: str) -> str:
        address = ip_address(text)
        for presented, behind in networks:
            if address in presented:
                return str(behind[int(address) - int(presented.network_address)])
        return text

    return real


def _replace(package: Mapping[str, Any], notify: Callable[..., bool], connect: Callable[..., Any], real: Callable[[str], str]) -> None:
    client, ssh = package["client"], package["ssh"]
    client.MultiListener = _listener(client.MultiListener, package["helpers"].Fatal)
    client.FirewallClient = _firewall(package["methods"].BaseMethod, real)
    package["sdnotify"].send = notify
    ssh.get_module_source = _sources().__getitem__
    ssh.connect = connect
    # it would run `ssh -G` and look the name up, only to spare the far side's address from firewall rules that do not exist
    ssh.parse_hostname = lambda remote: (None, None, None)
    "lookup".encode("idna")     # name lookups import this codec when they first run


def _listener(base: Any, fatal: type[Exception]) -> Any:
    class Listener(base):  # type: ignore[misc]
        """One port, IPv4 and IPv6, with a real backlog; a restart need not wait for old connections."""

        def bind(self, address_v6: object, address_v4: tuple[str, int]) -> None:
            self.bind_called = True
            port = address_v4[1]
            try:
                self.v4 = _bound(socket.AF_INET, "0.0.0.0", port)
                self.v6 = _bound_if_there(port)
            except OSError as error:
                raise fatal(f"cannot listen on port {port}: {error.strerror}") from error

        def listen(self, backlog: int) -> None:
            super().listen(BACKLOG)

    return Listener


def _bound(family: int, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    return listener


def _bound_if_there(port: int) -> socket.socket | None:
    """None where the kernel runs without IPv6."""
    try:
        return _bound(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise


def _firewall(base: Any, real: Callable[[str], str]) -> Any:
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

        def _nothing(self, *_: object) -> None:
            return None

        setup = check = start = sethostip = done = _nothing

    return NoFirewall


def _sources() -> dict[str, bytes]:
    """The package's own source, which sshuttle sends to the far side."""
    package = import_module("sshuttle")
    names = ["sshuttle", *(f"sshuttle.{module.name}" for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)]
    folder = Path(package.__path__[0])
    return {name: (folder / f"{name.partition('.')[2] or '__init__'}.py").read_bytes() for name in names}


def _notifier(address: str | None) -> Callable[..., bool]:
    """sd_notify over a socket that is connected now, while its directory can be entered."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    if address is None:
        return lambda *messages: False
    try:
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        raise Unfit(f"NOTIFY_SOCKET: {error.strerror}") from error

    def send(*messages: bytes) -> bool:
        try:
            return notify.send(b"\n".join(messages)) > 0
        except OSError:
            return False        # the daemon is away; it finds out by itself when it is back

    return send


class Ssh:
    """The one ssh child, started by sshuttle's own `connect`, and what becomes of it."""

    def __init__(self, connect: Callable[..., Any]) -> None:
        self._connect = connect
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Start it, and watch it: an idle sshuttle can wait for ever after its ssh died; then we end it."""
        self._process, *streams = self._connect(*arguments, **named)
        threading.Thread(target=_end_with, args=(os.pidfd_open(self._process.pid),), daemon=True).start()
        return self._process, *streams

    def report(self) -> None:
        """Say how it ended: sshuttle often sees the end of the stream before that can be known."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            _say(f"ssh ended with code {self._process.wait(GRACE)}")


def _end_with(pidfd: int) -> None:
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    waiting.poll()
    time.sleep(GRACE)
    _say("ssh is gone")
    os._exit(FATAL)


# --- without privileges ---------------------------------------------------------------------------------------------------------------

_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


def _become_nobody(private: Sequence[int]) -> None:
    """Give up every right for good. The private files stay readable for the user that we become, and for nobody else."""
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.chdir("/")
    user = _user() if os.geteuid() == 0 else None
    for descriptor in private:
        if user is not None:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
        os.fchmod(descriptor, 0o400)
    _drop_capabilities(libc)
    if user is not None:
        _switch(user)
    _forget_capabilities(libc)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)    # else our own ssh may not open /proc/PID/fd


def _user() -> pwd.struct_passwd:
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unfit(f"no unprivileged user to become: neither {' nor '.join(USERS)} exists")


def _switch(user: pwd.struct_passwd) -> None:
    try:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise Unfit(f"cannot become the user {user.pw_name}: {error.strerror}") from error
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise Unfit(f"the user {user.pw_name} is root")
    os.environ.update(HOME="/", USER=user.pw_name, LOGNAME=user.pw_name)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """The bounding set goes as far as we may; no_new_privs covers what is left."""
    capability = 0
    while libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1


def _forget_capabilities(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise Unfit(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
