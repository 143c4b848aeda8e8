"""Runs a program, and notifies the daemon when its interface is up, or when a target answers through it.

    python -I -m tunnels.kinds.command.driver --device NAME [--mark N] [--probe TARGET]... -- PROGRAM
    [ARGUMENT]...

This process becomes the program itself (exec), so that its pid, exit code and signals are the program's own.
What watches the interface is an orphan beside it: it belongs to the same process group, and the daemon reaps
it. READY=1 and X_ADDRESS=... go to NOTIFY_SOCKET, which the program itself does not get.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import socket
import struct
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from common.netlink import NetlinkSocket
from tunnels.drivers.netlink import ADDRESS_GROUPS, address_of

ANSWER_SECONDS = 1.0  # for one target
PAUSE_SECONDS = 0.2  # between two targets
_ECHO = struct.pack("!BBHHH", 8, 0, 0, 0, 1)


def main(arguments: Sequence[str]) -> int:
    """Become the program; returns an exit code if that fails."""
    split = arguments.index("--")
    options, argv = _options(arguments[:split]), arguments[split + 1 :]
    notify = os.environ.pop("NOTIFY_SOCKET", "")
    sys.stdout.flush()
    program = os.getpid()
    if notify and not os.fork():
        if not os.fork():
            _watch(program, options, notify)
        os._exit(0)
    if notify:
        os.wait()
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        print(f"facilitator: {argv[0]} cannot be run: {error.strerror}", flush=True)
        return 127


def _watch(program: int, options: argparse.Namespace, notify: str) -> None:
    """Notify once that the tunnel is up, and end; end also with the program."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.closerange(3, 1 << 16)  # this process needs none of the program's secrets
    ended = os.pidfd_open(program)
    address = _wait_for(options.device, ended)
    if options.probe and address is not None:
        _wait_for_answer(options, ended)
    if not _readable(ended):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.sendto(f"X_ADDRESS={address}\nREADY=1".encode(), notify)


def _wait_for(device: str, ended: int) -> str | None:
    """The interface's address, as soon as it is up and has one; None: the program has ended."""
    with NetlinkSocket(groups=ADDRESS_GROUPS) as changes, NetlinkSocket() as netlink:
        while True:
            if address := address_of(netlink, device):
                return str(address)
            if ended in select.select([changes.fileno(), ended], [], [])[0]:
                return None
            with contextlib.suppress(OSError):  # some notifications were lost: look all the same
                changes.receive()


def _wait_for_answer(options: argparse.Namespace, ended: int) -> None:
    for target in itertools.cycle(options.probe):
        with contextlib.suppress(OSError):
            if _answers(target, options.device, options.mark):
                return
        if _readable(ended, PAUSE_SECONDS):
            return


def _readable(descriptor: int, within: float = 0.0) -> bool:
    return bool(select.select([descriptor], [], [], within)[0])


def _answers(target: str, device: str, mark: int) -> bool:
    """The target answers through the interface; a refused connection is an answer too. OSError: it cannot be
    asked.

    No route leads into a tunnel that is not up, but a socket that is bound to an interface needs none (for
    IPv4).
    """
    url = urlsplit(target)
    echo = url.scheme == "icmp"
    kind, protocol = (socket.SOCK_DGRAM, socket.IPPROTO_ICMP) if echo else (socket.SOCK_STREAM, 0)
    with socket.socket(socket.AF_INET, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)  # the daemon's rules let nothing else in
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect((url.hostname or "", url.port or 80))
            return not echo or _echoed(sock)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False


def _echoed(sock: socket.socket) -> bool:
    sock.send(_ECHO)
    return sock.recv(256)[:1] == b"\0"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True, help="name of the interface that the program creates")
    parser.add_argument("--mark", type=int, default=0, help="mark of packets that may enter the tunnel")
    parser.add_argument(
        "--probe", action="append", default=[], help="a target that must answer: tcp://, http:// or icmp://"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
