"""A client that is nothing but a TUN device behind which everything answers pings, and the kind that runs it.

The client is a shell that sleeps; the devices of all clients belong to one `TunGateway` in the bench's own
process, so that a thousand of them cost little memory and no CPU besides the pings.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.netns import Namespace
from tunnels.base import Carrier, Connected, Kind, Launch, LineSource, Observation, Placement, Say
from tunnels.settings import Tunnel

if TYPE_CHECKING:
    from pyroute2 import IPRoute

# Opening a fifo for both never waits, so that the gateway finds a reader.
SCRIPT = 'mkfifo "$3"; exec 3<>"$3"; echo "$$ $2" >"$1"; read -r up <&3; echo "$up"; exec sleep infinity'
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_ECHO_REQUEST = 8


class AnsweringTunnel(Tunnel):
    """Settings of such a client."""

    kind: Literal["answering"] = "answering"
    fifo: str


class AnsweringDialogue:
    """Up at its first line."""

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        """Any line means connected."""
        return [Connected(address="10.255.0.2")] if source is LineSource.OUTPUT else []

    def answer(self, text: str) -> Iterable[Say | Observation]:
        """It asks nothing."""
        return ()


def _launch(tunnel: AnsweringTunnel, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    ready = f"{tunnel.fifo}.{place.device}"
    return Launch(
        ("/bin/sh", "-c", SCRIPT, "answering", tunnel.fifo, place.device, ready),
        writes=(Path(tunnel.fifo).parent,),
    )


KIND = Kind(
    "answering",
    AnsweringTunnel,
    Carrier.DEVICE,
    lambda t: (),
    _launch,
    lambda t, i: AnsweringDialogue(),
    ("sh",),
)


class TunGateway(threading.Thread):
    """Makes a device for each client that asks through `fifo`, answers its pings, and removes it when the
    client has ended. Lives in `namespace`.
    """

    def __init__(self, namespace: Namespace, fifo: Path) -> None:
        super().__init__(daemon=True)
        os.mkfifo(fifo)
        self._fifo_path, self._namespace = fifo, namespace
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._closing, self._close_told = os.pipe()
        self._poll = select.epoll()
        for fd in (self._fifo, self._closing):
            self._poll.register(fd, select.EPOLLIN)
        self._tunnels: dict[int, int] = {}  # descriptor of the client -> that of its device
        self._devices: set[int] = set()

    def run(self) -> None:
        """Until `close`."""
        from pyroute2 import IPRoute  # not in the daemon that imports this kind

        with self._namespace.entered(), IPRoute() as netlink:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._closing:
                        return
                    if fd == self._fifo:
                        for line in os.read(fd, 65536).decode().splitlines():
                            self._begin(netlink, line)
                    elif fd in self._tunnels:
                        self._end(fd)
                    elif fd in self._devices:
                        _answer(fd)

    def close(self) -> None:
        """All devices are gone afterwards."""
        os.write(self._close_told, b"x")
        self.join()
        for client in list(self._tunnels):
            self._end(client)
        for fd in (self._fifo, self._closing, self._close_told):
            os.close(fd)
        self._poll.close()

    def _begin(self, netlink: IPRoute, line: str) -> None:
        pid, device = line.split()
        try:
            client = os.pidfd_open(int(pid))
        except ProcessLookupError:
            return
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
        index = netlink.link_lookup(ifname=device)[0]
        netlink.link("set", index=index, state="up")
        self._tunnels[client] = tun
        self._devices.add(tun)
        for fd in (client, tun):
            self._poll.register(fd, select.EPOLLIN)
        ready = Path(f"{self._fifo_path}.{device}")
        ready.write_text("up\n")
        ready.unlink()

    def _end(self, client: int) -> None:
        tun = self._tunnels.pop(client)
        self._devices.discard(tun)
        for fd in (client, tun):
            self._poll.unregister(fd)
            os.close(fd)


def _answer(tun: int) -> None:
    try:
        packet = bytearray(os.read(tun, 2048))
    except BlockingIOError:
        return
    start = (packet[0] & 15) * 4
    if packet[0] >> 4 != 4 or packet[9] != 1 or packet[start] != _ECHO_REQUEST:
        return
    packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
    packet[start] = 0
    checksum = struct.unpack_from("!H", packet, start + 2)[0] + 0x0800  # RFC 1624: the type went from 8 to 0
    struct.pack_into("!H", packet, start + 2, (checksum & 0xFFFF) + (checksum >> 16))
    os.write(tun, packet)
