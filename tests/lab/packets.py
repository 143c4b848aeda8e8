"""IP packets made by hand, for tests that send what no honest sender would."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: str, destination: str, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """An IPv4 or IPv6 packet."""
    a, b = ip_address(source), ip_address(destination)
    if isinstance(a, IPv6Address):
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + a.packed + b.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, hops, protocol, 0) + a.packed + b.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: str, source_port: int, destination: str, port: int, data: bytes) -> bytes:
    """A datagram."""
    head = struct.pack("!HHHH", source_port, port, 8 + len(data), 0)
    return ip(source, destination, UDP, _summed(source, destination, UDP, head + data, 6))


def icmp(
    source: str,
    destination: str,
    kind: int,
    code: int,
    rest: int,
    about: bytes,
    version6: bool = False,
    hops: int = 64,
) -> bytes:
    """An ICMP message; `rest` is its second word, `about` what follows."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + about
    if version6:
        return ip(source, destination, ICMPV6, _summed(source, destination, ICMPV6, message, 2), hops)
    return ip(
        source, destination, ICMP, message[:2] + struct.pack("!H", checksum(message)) + message[4:], hops
    )


def too_big(sender: str, receiver: str, original: bytes, mtu: int) -> bytes:
    """ICMP "fragmentation needed" (RFC 1191) about a packet that the receiver has sent."""
    return icmp(sender, receiver, 3, 4, mtu, original[:28])


def redirect(sender: str, receiver: str, gateway: str, original: bytes) -> bytes:
    """ICMP redirect (RFC 792): send that by this gateway."""
    return icmp(sender, receiver, 5, 1, int(IPv4Address(gateway)), original[:28])


def router_advertisement(sender: str, prefix: str) -> bytes:
    """A router advertisement (RFC 4861): a default route, and addresses of this prefix."""
    head = struct.pack("!BBHII", 64, 0x08, 9000, 0, 0)  # hop limit, preference high, lifetime
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + IPv6Address(prefix).packed
    (first,) = struct.unpack("!I", head[:4])
    return icmp(sender, "ff02::1", 134, 0, first, head[4:] + option, version6=True, hops=255)


def _summed(source: str, destination: str, protocol: int, payload: bytes, at: int) -> bytes:
    a, b = ip_address(source), ip_address(destination)
    tail = (
        struct.pack("!BBH", 0, protocol, len(payload))
        if a.version == 4
        else struct.pack("!II", len(payload), protocol)
    )
    pseudo = a.packed + b.packed + tail
    return payload[:at] + struct.pack("!H", checksum(pseudo + payload) or 0xFFFF) + payload[at + 2 :]
