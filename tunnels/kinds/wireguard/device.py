"""A WireGuard interface of the kernel, configured over netlink; of wireguard-go where the kernel has no
WireGuard.

    opened(name) -> WireGuardDevice -> configure, bring up (tunnels.drivers.netlink), look, move, close

The kernel's interface outlives the process that created it, so it carries an alias by which a later start
knows that it may be deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, ip_network

from common.netlink import DUMP, GENERIC, NESTED, NetlinkSocket, attribute, attributes, text_attribute
from common.rtnetlink import ALIAS
from tunnels.drivers.netlink import add_interface, alias_of, delete_interface
from tunnels.kinds.wireguard.peers import DevicePeer, Endpoint, PeerStatus, WireGuardDevice
from tunnels.kinds.wireguard.userspace import UserspaceDevice


async def opened(name: str, said: Callable[[str], None]) -> WireGuardDevice:
    """Create an interface: the kernel's own, else one of wireguard-go, whose output goes to `said` line by
    line. OSError: this host refuses; ENOENT: wireguard-go is not installed either.
    """
    if alias_of(name) == ALIAS:
        with contextlib.suppress(OSError):
            delete_interface(name)  # an earlier driver was killed
    try:
        add_interface(name, "wireguard", ALIAS)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return await UserspaceDevice.started(name, said)
    return KernelDevice(name)


# --- the kernel's
# ----------------------------------------------------------------------------------------------------------

# linux/genetlink.h: GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
# linux/wireguard.h: WG_CMD_*, WGDEVICE_A_*, WGPEER_A_*, WGALLOWEDIP_A_*
_GET_DEVICE, _SET_DEVICE = 0, 1
_IFNAME, _PRIVATE_KEY, _FLAGS, _LISTEN_PORT, _PEERS = 2, 3, 5, 6, 8
_REPLACE_PEERS, _UPDATE_ONLY = 1, 4
_P_KEY, _P_PRESHARED, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE = 1, 2, 3, 4, 5
_P_HANDSHAKE, _P_RECEIVED, _P_SENT, _P_ALLOWED = 6, 7, 8, 9
_A_FAMILY, _A_ADDRESS, _A_LENGTH = 1, 2, 3
_NETWORKS_PER_MESSAGE = 500  # an attribute holds 64 KiB


class KernelDevice:
    """A device that the kernel serves."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._netlink = NetlinkSocket(GENERIC)
        self._family = self._resolved()

    async def configure(self, private_key: bytes, port: int, peers: Sequence[DevicePeer]) -> None:
        """See WireGuardDevice."""
        head = attribute(_FLAGS, _number(_REPLACE_PEERS)) + attribute(_PRIVATE_KEY, private_key)
        self._order(head + attribute(_LISTEN_PORT, struct.pack("=H", port)))
        for peer in peers:
            for start in range(0, max(1, len(peer.allowed)), _NETWORKS_PER_MESSAGE):
                self._order(peer_attribute(peer, peer.allowed[start : start + _NETWORKS_PER_MESSAGE]))

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        """See WireGuardDevice."""
        body = (
            attribute(_P_KEY, key)
            + attribute(_P_FLAGS, _number(_UPDATE_ONLY))
            + attribute(_P_ENDPOINT, _socket_address(endpoint))
        )
        self._order(_peers(body))

    async def look(self) -> list[PeerStatus]:
        """See WireGuardDevice."""
        return [seen for message in self._send(_GET_DEVICE, DUMP, b"") for seen in read_device(message[4:])]

    async def port(self) -> int:
        """See WireGuardDevice."""
        return max(read_port(message[4:]) for message in self._send(_GET_DEVICE, DUMP, b""))

    async def ended(self) -> int:
        """See WireGuardDevice. The kernel does not end; the daemon notices if the interface vanishes."""
        return await self._never

    async def close(self) -> None:
        """See WireGuardDevice."""
        with contextlib.suppress(OSError):
            delete_interface(self._name)

    def _order(self, body: bytes) -> None:
        self._send(_SET_DEVICE, 0, body)

    def _send(self, command: int, flags: int, body: bytes) -> list[bytes]:
        whole = genl_header(command) + text_attribute(_IFNAME, self._name) + body
        return self._netlink.request(self._family, flags, whole)

    def _resolved(self) -> int:
        (answer,) = self._netlink.request(
            _CONTROL, 0, genl_header(_GET_FAMILY) + text_attribute(_FAMILY_NAME, "wireguard")
        )
        (number,) = struct.unpack("=H", dict(attributes(answer[4:]))[_FAMILY_ID])
        return int(number)


def peer_attribute(peer: DevicePeer, allowed: Sequence[str]) -> bytes:
    """The attribute that adds a peer, or more networks to it."""
    body = attribute(_P_KEY, peer.key)
    if peer.preshared is not None:
        body += attribute(_P_PRESHARED, peer.preshared)
    if peer.endpoint is not None:
        body += attribute(_P_ENDPOINT, _socket_address(peer.endpoint))
    body += attribute(_P_KEEPALIVE, struct.pack("=H", peer.keepalive))
    return _peers(
        body
        + attribute(
            _P_ALLOWED | NESTED, b"".join(attribute(NESTED, _allowed(network)) for network in allowed)
        )
    )


def read_port(data: bytes) -> int:
    """The UDP port in one message of a dump; 0: it holds none."""
    (port,) = struct.unpack("=H", dict(attributes(data)).get(_LISTEN_PORT, bytes(2)))
    return int(port)


def read_device(data: bytes) -> Iterator[PeerStatus]:
    """The peers in one message of a dump."""
    for _, body in attributes(dict(attributes(data)).get(_PEERS, b"")):
        peer = dict(attributes(body))
        if _P_HANDSHAKE not in peer:
            continue  # more networks of a peer that the message before was about
        seconds, rest = struct.unpack("=qq", peer[_P_HANDSHAKE])
        sent, received = (struct.unpack("=Q", peer[name])[0] for name in (_P_SENT, _P_RECEIVED))
        where = _address(peer.get(_P_ENDPOINT, b""))
        yield PeerStatus(peer[_P_KEY], where, seconds * 10**9 + rest, sent, received)


def _peers(body: bytes) -> bytes:
    return attribute(_PEERS | NESTED, attribute(NESTED, body))


def _allowed(network: str) -> bytes:
    parsed = ip_network(network)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    address = attribute(_A_ADDRESS, parsed.network_address.packed)
    return (
        attribute(_A_FAMILY, struct.pack("=H", family))
        + address
        + attribute(_A_LENGTH, bytes([parsed.prefixlen]))
    )


def _socket_address(endpoint: Endpoint) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    address, port = ip_address(endpoint[0]), struct.pack("!H", endpoint[1])
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + address.packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + address.packed + bytes(4)


def _address(data: bytes) -> str:
    if not data:
        return ""
    (family,) = struct.unpack_from("=H", data)
    return str(ip_address(data[4:8] if family == socket.AF_INET else data[8:24]))


def genl_header(command: int) -> bytes:
    """`struct genlmsghdr` (linux/genetlink.h): command and version."""
    return struct.pack("=BBH", command, 1, 0)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)
