"""The second hop: connections that another member of the fleet knows go on through that member.

When the route of a destination moves from one member to another, the packets of running TCP connections reach
a host that has never seen them, and whose source NAT has another address. They are handed over to the member
that carried the destination before: a lane of their own leads there, without NAT. The answers come back from
that member without us.

    members of the configuration, who of them answers -> member_lanes() -> MemberLane
    destinations, who carried them                    -> handed_over()  -> HandedOver
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from supervisor.core.network.by_identity import ByIdentity
from supervisor.core.network.lanes import FIRST_MEMBER, LAST_MEMBER, NOBODY
from supervisor.core.network.plan import Carry, HandedOver, MemberLane
from tunnels.networks import IPAddress

# The next hop in a member's VXLAN interface, by IP version: the same on all of them, and no address of
# anybody; a permanent neighbour entry leads from it to the member.
NEXT_HOP: Mapping[int, IPAddress] = {4: ip_address("169.254.173.1"), 6: ip_address("fe80::ad:1")}
PREFIX = "m-"  # of the names of these interfaces
_NAME_LENGTH = 15  # most characters of an interface's name
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


VXLAN_BYTES: Mapping[int, int] = {4: 50, 6: 70}  # that VXLAN adds to a packet, by version of the addresses
LEAST_MTU = 1280  # bytes, of such an interface: what IPv6 demands


@dataclass(frozen=True, slots=True)
class OtherMember:
    """Another member of the fleet, as configured."""

    name: str
    address: IPAddress
    local: IPAddress | None = None  # our own address in the fleet, where it is configured
    port: int = 0  # of VXLAN; 0: it is a neighbour on a shared subnet


def interface_name(member: str) -> str:
    """The name of the VXLAN interface to a member: `m-NAME`, shortened, with a checksum to keep it unique."""
    name = PREFIX + member
    if len(name) <= _NAME_LENGTH:
        return name
    checksum, digits = zlib.crc32(member.encode()), ""
    for _ in range(4):
        checksum, digit = divmod(checksum, len(_DIGITS))
        digits += _DIGITS[digit]
    return f"{name[: _NAME_LENGTH - 5]}-{digits}"


def network_identifier(one: IPAddress, other: IPAddress) -> int:
    """The VNI between two members, the same at both ends. The kernel wants another one for each of a host's
    interfaces with one port.
    """
    first, second = sorted((one.packed, other.packed))
    return 1 + int.from_bytes(hashlib.sha256(first + second).digest()[:3], "big") % (2**24 - 1)


def link_layer_address(owner: IPAddress) -> bytes:
    """The link-layer address of a member's VXLAN interfaces: a locally administered one, which its address
    tells, so that nobody has to ask.
    """
    return b"\x02" + hashlib.sha256(owner.packed).digest()[:5]


def member_numbers(names: Iterable[str]) -> dict[str, int]:
    """The number of each member's lane. It depends on the name, not on who else is a member, so that flows
    keep their lane over a reload and over a restart.
    """
    room, numbers = LAST_MEMBER - FIRST_MEMBER + 1, dict[str, int]()
    taken: set[int] = set()
    for name in sorted(names):
        place = zlib.crc32(name.encode()) % room
        while FIRST_MEMBER + place in taken:
            place = (place + 1) % room
        taken.add(FIRST_MEMBER + place)
        numbers[name] = FIRST_MEMBER + place
    return numbers


def member_lanes(members: tuple[OtherMember, ...], answering: frozenset[str]) -> tuple[MemberLane, ...]:
    """A lane for each member; `answering`: those that answer through theirs."""
    numbers = member_numbers(member.name for member in members)
    return tuple(
        [
            MemberLane(
                member.name,
                numbers[member.name],
                member.address,
                member.name in answering,
                interface_name(member.name) if member.port else None,
                member.local,
                member.port,
            )
            for member in members
        ]
    )


def handed_over(
    lanes: tuple[MemberLane, ...], carries: tuple[Carry, ...], carried: Mapping[int, str]
) -> tuple[HandedOver, ...]:
    """Whose unknown connections are. `carried`: the member that carried the destinations of a lane before, as
    far as that is known. Of one other member it needs not be known; of several nobody can be asked in turn,
    so without it a connection is reset.
    """
    if not lanes:
        return ()
    numbers = tuple(sorted((lane.member, lane.number) for lane in lanes))
    return _handed_over(numbers, ByIdentity(carries), tuple(sorted(carried.items())))


@functools.lru_cache(maxsize=4)
def _handed_over(
    lanes: tuple[tuple[str, int], ...],
    carries: ByIdentity[tuple[Carry, ...]],
    carried: tuple[tuple[int, str], ...],
) -> tuple[HandedOver, ...]:
    """One and the same object while nothing changes."""
    numbers, before = dict(lanes), dict(carried)
    otherwise = lanes[0][1] if len(lanes) == 1 else NOBODY
    return tuple(
        [
            HandedOver(carry.network, numbers.get(before.get(carry.lane, ""), otherwise))
            for carry in carries.value
        ]
    )
