"""Runs sshuttle as a plain proxy: without its firewall, without privileges, one ssh to one far side for
each worker.

    python -I sshuttle.py --port N --remote USER@HOST[:PORT] --identity FD --known-hosts FD [--user UID:GID]
    [--workers N]
        [--option NAME=VALUE]...

    one worker       this process is sshuttle (tunnels/kinds/sshuttle/patch.py)
    several          this process launches and watches them (tunnels/kinds/sshuttle/workers.py), each is a
    fork of it

The daemon redirects connections to the port with its own rules, so sshuttle's firewall half is replaced by
nothing. The two descriptors are anonymous files with the private key and the known hosts; ssh closes
inherited descriptors, so it opens /proc/PID/fd/FD of this process. Started as root it becomes another user
(--user) for good. Interpreter and packages may lie where that one cannot read, so everything is imported and
read before. READY=1 goes to NOTIFY_SOCKET when the far side answered. Exit code 99: see the output.
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

# Isolated, Python finds no file beside this one; nor must it, because this one is called like the package.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tunnels.drivers import privileges
from tunnels.drivers.exit_helpers import end_like
from tunnels.kinds.sshuttle.connection_limits import Guests
from tunnels.kinds.sshuttle.limits import CONNECTIONS, DESCRIPTORS, MEMORY, NOT_FULL
from tunnels.kinds.sshuttle.messages import Unfit, say
from tunnels.kinds.sshuttle.patch import FATAL, ProxyListener, SshuttlePackage, mapping
from tunnels.kinds.sshuttle.workers import Crew, Post

LATENCY = (
    128 << 10
)  # bytes under way before sshuttle waits for the far side: its own 32 KiB are little for 32 KiB frames


def main(arguments: Sequence[str]) -> int:
    """Run until ssh or sshuttle ends; the exit code, or the negative number of a signal."""
    options = _options(arguments)
    try:
        package = SshuttlePackage()
        notify = _notifier(os.environ.pop("NOTIFY_SOCKET", None))
        os.environ.pop("SSHUTTLE_ARGS", None)
        ciphers = _ciphers()
        # Taken by root, the port can be shared by nobody else.
        doors = [ProxyListener(options.port, options.workers > 1) for _ in range(options.workers)]
        privileges.give_up((options.identity, options.known_hosts), DESCRIPTORS, MEMORY, options.user)
    except Unfit as error:
        say(str(error))
        return FATAL
    post = Post(doors[0], notify, _say_full) if len(doors) == 1 else Crew(doors, notify).run()
    if isinstance(post, int):
        return post
    argv = (
        "-l",
        f"0.0.0.0:{options.port}",
        "-r",
        options.remote,
        "--ssh-cmd",
        shlex.join(_ssh(options, ciphers)),
        "--latency-buffer-size",
        str(LATENCY),
        "0.0.0.0/0",
    )
    return package.run(argv, post.door, post.notify, mapping(options.map), Guests(post.full))


def _say_full(full: bool) -> None:
    """The daemon reads it from the output, which it reads on after a restart of its own; notices would be
    lost meanwhile.
    """
    say(
        f"full: {CONNECTIONS} connections are open, as many as it carries; new ones are refused"
        if full
        else NOT_FULL
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True, help="local TCP port to listen on, IPv4 and IPv6")
    parser.add_argument("--remote", required=True, help="USER@HOST[:PORT]")
    parser.add_argument("--identity", type=int, required=True, help="descriptor of the private key")
    parser.add_argument("--known-hosts", type=int, required=True, help="descriptor of the known hosts")
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


def _ssh(options: argparse.Namespace, ciphers: str) -> tuple[str, ...]:
    """The ssh command. Of one option ssh takes the first value: ours that must be, the operator's, ours
    that may be.
    """
    here = f"/proc/{os.getpid()}/fd"
    must = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={here}/{options.known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        "CheckHostIP=no",
        f"IdentityFile={here}/{options.identity}",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PreferredAuthentications=publickey",
        "ControlMaster=no",
        "ControlPath=none",
        "PermitLocalCommand=no",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "RequestTTY=no",
        "LogLevel=INFO",
    )
    may = (
        f"Ciphers={ciphers}",
        "ConnectTimeout=10",
        "ConnectionAttempts=1",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
    )
    return (
        "ssh",
        "-F",
        "none",
        *(word for option in (*must, *options.option, *may) for word in ("-o", option)),
    )


def _ciphers() -> str:
    """The fastest cipher first. Without instructions for AES that is ChaCha20, with them by far AES-GCM."""
    with contextlib.suppress(OSError):
        if "aes" in Path("/proc/cpuinfo").read_text().split():
            return "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
    return "^chacha20-poly1305@openssh.com"


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
            return False  # the daemon is away; it finds out by itself when it is back

    return send


if __name__ == "__main__":
    end_like(main(sys.argv[1:]))
