"""Runs sshuttle as a plain proxy: without its firewall and without privileges, with one ssh to the remote
host for each worker.

    python -I driver.py --port N --remote USER@HOST[:PORT] --identity FD --known-hosts FD
        [--certificate FD] [--jump USER@HOST[:PORT] [--jump-identity FD]] [--user UID:GID] [--workers N]
        [--map PRESENTED=REAL]... [--option NAME=VALUE]...

    one worker       this process becomes sshuttle (package.py)
    several          this process forks and watches the workers (workers.py)

The daemon's own rules redirect connections to the port, so sshuttle's firewall is replaced by nothing. The
descriptors are anonymous files with private keys, a certificate and the known hosts; ssh closes inherited
descriptors, so it opens /proc/PID/fd/FD of this process. If it is started as root it switches to another user
(--user) for good. Interpreter and packages may lie where that user cannot read, so everything is imported and
read before. READY=1 is sent to NOTIFY_SOCKET when the remote host has answered. Exit code 99: it cannot run
or go on; the output says why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# -I: Python does not look for modules beside this file, where some have common names.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tunnels.drivers.cli import FATAL, Unfit, end_like, say
from tunnels.kinds.sshuttle import privileges, ssh_command
from tunnels.kinds.sshuttle.account import SshAccount
from tunnels.kinds.sshuttle.connection_limits import ConnectionLimits
from tunnels.kinds.sshuttle.limits import MAX_DATA_BYTES, MAX_DESCRIPTORS, NOT_FULL, WORKER_CONNECTIONS
from tunnels.kinds.sshuttle.listener import ProxyListener
from tunnels.kinds.sshuttle.package import SshuttlePackage, translation
from tunnels.kinds.sshuttle.ssh_output import SshOutput
from tunnels.kinds.sshuttle.workers import WorkerContext, WorkerPool

# In flight before sshuttle waits for the remote host: its own 32 KiB are one frame of ours.
LATENCY_BUFFER_BYTES = 128 << 10


def main(arguments: Sequence[str]) -> int:
    """Run until ssh or sshuttle ends; returns the exit code, or the negative number of a signal."""
    options = _options(arguments)
    try:
        package = SshuttlePackage()
        notify = _notifier(os.environ.pop("NOTIFY_SOCKET", None))
        os.environ.pop("SSHUTTLE_ARGS", None)
        ciphers = _ciphers()
        # Bound by root, the port can be shared by no other user.
        listeners = [ProxyListener(options.port, options.workers > 1) for _ in range(options.workers)]
        privileges.drop(_private(options), MAX_DESCRIPTORS, MAX_DATA_BYTES, options.user)
        ssh_command.check(options, ciphers)
    except Unfit as error:
        say(str(error))
        return FATAL
    if options.workers > 1:
        context = WorkerPool(listeners, notify).run()
        if isinstance(context, int):
            return context
    else:
        context = WorkerContext(listeners[0], notify, _say_full)
    output = SshOutput()
    remote = SshAccount.parse(options.remote)
    argv = (
        "-l",
        f"0.0.0.0:{options.port}",
        "-r",
        remote.address,
        "--ssh-cmd",
        shlex.join(ssh_command.to_remote(options, ciphers, output)),
        "--latency-buffer-size",
        str(LATENCY_BUFFER_BYTES),
        "0.0.0.0/0",
    )
    limits = ConnectionLimits(context.on_full)
    return package.run(argv, context.listener, output, context.notify, translation(options.map), limits)


def _private(options: argparse.Namespace) -> tuple[int, ...]:
    """The descriptors that ssh reads."""
    given = (options.identity, options.known_hosts, options.certificate, options.jump_identity)
    return tuple(descriptor for descriptor in given if descriptor is not None)


def _say_full(full: bool) -> None:
    """Printed rather than notified: a notification is lost while the daemon restarts, the output is not."""
    full_text = (
        f"full: {WORKER_CONNECTIONS} connections are open, as many as it carries; new ones are refused"
    )
    say(full_text if full else NOT_FULL)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True, help="local TCP port to listen on, IPv4 and IPv6")
    parser.add_argument("--remote", required=True, help="USER@HOST[:PORT]")
    parser.add_argument("--identity", type=int, required=True, help="descriptor of the private key")
    parser.add_argument("--known-hosts", type=int, required=True, help="descriptor of the known hosts")
    parser.add_argument("--certificate", type=int, help="descriptor of the certificate of the private key")
    parser.add_argument("--jump", help="USER@HOST[:PORT] of a host on the way")
    parser.add_argument("--jump-identity", type=int, help="descriptor of the private key for that host")
    parser.add_argument("--user", type=privileges.user, help="UID:GID to become, where it is started as root")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument("--option", action="append", default=[], help="an ssh option, NAME=VALUE")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        help="1:1 mapping, PRESENTED=REAL: connections to the one go to the other",
    )
    return parser.parse_args(arguments)


def _ciphers() -> str:
    """The fastest cipher first: AES-GCM if the CPU has instructions for AES, else ChaCha20."""
    with contextlib.suppress(OSError):
        if "aes" in Path("/proc/cpuinfo").read_text().split():
            return "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
    return "^chacha20-poly1305@openssh.com"


def _notifier(address: str | None) -> Callable[..., bool]:
    """sd_notify(3) over a socket that is connected now, while this user may still enter its directory."""
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
            return False  # the daemon does not run; the next one finds out by itself

    return send


if __name__ == "__main__":
    end_like(main(sys.argv[1:]))
