"""A customer that means harm: a real OpenVPN server whose every setting is the attacker's, and that can
send any packet into our tunnel.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tests.lab.lab import Lab
from tests.lab.pki import Authority
from tests.lab.servers import OpenVpnServer, web_server
from tests.netns import Namespace, link

GATEWAY = IPv4Address("203.0.113.10")  # public address of its OpenVPN server
SITE, SITE6 = IPv4Address("10.200.0.10"), IPv6Address("fd00:200::10")
DESTINATIONS = ["10.200.0.0/24", "fd00:200::/64"]
_OUTGOING = 4  # packet(7): PACKET_OUTGOING
_ALL_PROTOCOLS = 3  # ETH_P_ALL


@dataclass(frozen=True)
class CapturedPacket:
    """What came out of our tunnel at the customer's end."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> CapturedPacket:
        """From its bytes, beginning with the IP header."""
        at, size = (12, 4) if data[0] >> 4 == 4 else (8, 16)
        return cls(ip_address(data[at : at + size]), ip_address(data[at + size : at + 2 * size]), data)


class HostileCustomer:
    """The namespace with the server and a web server behind it. Begin with `assign`."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self._closing = lab, contextlib.ExitStack()
        self.namespace = Namespace("evil")
        self._closing.callback(self.namespace.remove)
        transport = lab.network["transport"]
        link(transport, "site3", self.namespace, "wan")
        transport.run("ip", "address", "add", "203.0.113.9/30", "dev", "site3")
        for command in (
            f"address add {GATEWAY}/30 dev wan",
            "route add default via 203.0.113.9",
            f"address add {SITE}/32 dev lo",
            f"address add {SITE6}/128 dev lo",
        ):
            self.namespace.run("ip", *command.split())
        self.namespace.run(
            "sysctl",
            "-qw",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.ip_forward=1",
        )
        self.directory = lab.directory / "evil"
        self.directory.mkdir(exist_ok=True)
        self._clients = self.directory / "clients"
        self._clients.mkdir(exist_ok=True)
        self.assign()
        options = (
            f"client-config-dir {self._clients}",
            "server-ipv6 fd00:66::/64",
            'push "redirect-gateway def1 ipv6"',
        )
        self.server = OpenVpnServer(
            self.namespace, self.directory, Authority(self.directory), number=20, options=options
        )
        for server in (web_server(self.namespace, self.directory, "evil"), self.server):
            server.start()
            self._closing.callback(server.kill)
        # Whatever address it has assigned to us, what its site sends goes into the tunnel.
        for version in ("-4", "-6"):
            self.namespace.run(
                "ip", version, "rule", "add", "from", str(SITE if version == "-4" else SITE6), "lookup", "77"
            )
            self.namespace.run("ip", version, "route", "add", "default", "dev", self.device, "table", "77")

    def close(self) -> None:
        """End the servers and remove the namespace."""
        self._closing.close()

    @property
    def device(self) -> str:
        """Its end of the tunnel."""
        return f"tun-{self.server.port}"

    def tunnel(self) -> dict[str, Any]:
        """The tunnel's settings."""
        profile = self.directory / "evil.ovpn"
        profile.write_text(self.server.client_config(str(GATEWAY)))
        return {
            "kind": "openvpn",
            "destinations": DESTINATIONS,
            "config": str(profile),
            "probe": {"targets": [f"tcp://{SITE}:80"]},
        }

    def assign(self, *lines: str) -> None:
        """What its server gives the next session, such as `ifconfig-push ADDRESS NETMASK`. Any packet may
        be sent to us.
        """
        (self._clients / "DEFAULT").write_text(
            "\n".join(("iroute 0.0.0.0 0.0.0.0", "iroute-ipv6 ::/0", *lines, ""))
        )

    def inject(self, packets: Iterable[bytes]) -> None:
        """They come out of our tunnel's interface."""
        inject(self.namespace, self.device, packets)

    @contextlib.contextmanager
    def received(self) -> Iterator[list[CapturedPacket]]:
        """What comes to it out of our tunnel meanwhile; complete when the context has ended."""
        packets: list[CapturedPacket] = []
        with self.namespace.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # no protocol: nothing before `bind`
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            sock.bind((self.device, _ALL_PROTOCOLS))
            sock.setblocking(False)
            yield packets
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, sender = sock.recvfrom(65536)
                    if sender[2] != _OUTGOING:
                        packets.append(CapturedPacket.of(data))


def inject(namespace: Namespace, device: str, packets: Iterable[bytes], receiver: str = "") -> None:
    """Send IP packets out of a device, whatever addresses they carry; `receiver`: a link-layer address,
    where there is such a thing.
    """
    link_layer = (0, 0, bytes.fromhex(receiver.replace(":", ""))) if receiver else ()
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        for packet in packets:
            sock.sendto(packet, (device, 0x0800 if packet[0] >> 4 == 4 else 0x86DD, *link_layer))


def link_layer(namespace: Namespace, device: str) -> str:
    """The device's own link-layer address."""
    return str(json.loads(namespace.run("ip", "-j", "link", "show", device).stdout)[0]["address"])


def counter(namespace: Namespace, name: str) -> int:
    """One of the namespace's counters, as nstat(8) names it."""
    text = namespace.run("nstat", "-asz", name).stdout
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(name)))
