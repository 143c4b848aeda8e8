"""The sets and maps of our nftables table: what they hold, and how `nft` (not the kernel) is to print it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.network.lanes import SHARES, share_set

PERMITTED = "permitted"  # lanes whose exclusive clients may send, each for some seconds
_SOURCES = 65536  # that hold connections to proxies; beyond that number nobody's are limited
PEOPLE_ELEMENTS = 1 << 18  # more than twice `core.network.admission.MAX_ELEMENTS`
_LANES = 4096  # at least twice as many as there can be: while elements are exchanged, both count


def _tlv(kind: int, value: int | bytes) -> bytes:
    """An entry of nft's user data."""
    data = struct.pack("=I", value) if isinstance(value, int) else value
    return bytes([kind, len(data)]) + data


# How nft (not the kernel) is to read a map. `typeof oifname : tcp option maxseg size`: the byte orders of key
# and data, then what they are
# taken from: meta (9) oifname (7), and an extension header (8), TCP option (1) maxseg (2), field size (2).
_TYPEOF_MSS = (
    _tlv(0, 1)
    + _tlv(1, 2)
    + _tlv(3, _tlv(0, 9) + _tlv(1, _tlv(0, 7)))
    + _tlv(4, _tlv(0, 8) + _tlv(1, _tlv(1, 2) + _tlv(2, 1) + _tlv(0, 2)))
    + _tlv(6, 0)
)


@dataclass(frozen=True, slots=True)
class NftType:
    """A data type of nftables."""

    number: int  # nft's number of the type
    length: int  # bytes
    host_order: bool = False


def _order(kind: NftType) -> int:
    """nft's number of a byte order."""
    return 1 if kind.host_order else 2


ADDRESS = {4: NftType(7, 4), 6: NftType(8, 16)}
MARK = NftType(19, 4, host_order=True)
GROUP = NftType(25, 4, host_order=True)
NAME = NftType(41, 16, host_order=True)
PORT = NftType(13, 2)
SIZE = NftType(4, 2)
PROTOCOL = NftType(12, 1)


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map if it has a value. More than one kind: a concatenation."""

    name: str
    key: tuple[NftType, ...]
    value: NftType | None = None
    interval: bool = False  # keys are ranges of addresses
    value_interval: bool = False  # values are
    counter: bool = False  # each element counts the packets that were looked up successfully
    size: int = 0  # most elements; a number lets the kernel take a quicker kind of hash table
    dynamic: bool = False  # rules add elements; the kernel removes them when their connections are over
    timeout: bool = False  # each element ends by itself (`Nftables.permit`, `Nftables.admit`)
    typeof: bytes = b""  # nft's user data where the kinds do not say it all

    @property
    def planned(self) -> bool:
        """Its elements are those of a plan, and stay as they are until that changes."""
        return not self.dynamic and not self.timeout

    @property
    def userdata(self) -> bytes:
        """How nft is to print it: whether keys and values are numbers in host order, and whether values
        are intervals.
        """
        if self.typeof:
            return self.typeof
        order = 0 if len(self.key) > 1 else _order(self.key[0])
        return _tlv(0, order) + (
            _tlv(1, _order(self.value)) + _tlv(6, int(self.value_interval)) if self.value else b""
        )


def all_sets() -> Iterator[Set]:
    """Each of them."""
    for version, address in ADDRESS.items():
        yield Set(f"staff{version}", (address,), interval=True)
        yield Set(f"denied{version}", (address,), interval=True)
        yield Set(f"destinations{version}", (address,), interval=True)
        yield Set(f"carry{version}", (address,), MARK, interval=True)
        yield Set(f"real{version}", (MARK, address), address, interval=True, value_interval=True)
        yield Set(f"mss{version}", (NAME,), SIZE, typeof=_TYPEOF_MSS)
        yield Set(f"allowed{version}", (MARK, address, PROTOCOL, PORT), interval=True)
        yield Set(f"refused{version}", (MARK, address), interval=True, counter=True)
        yield Set(f"assigned{version}", (MARK,), address, size=_LANES)
        yield Set(f"previous{version}", (address,), MARK, interval=True)
        yield Set(f"members{version}", (address,), interval=True)
    yield Set("up", (MARK,), size=_LANES)
    yield Set("refusing", (MARK,), size=_LANES)
    yield Set("draining", (MARK,), size=_LANES)
    yield Set("flows", (MARK,), counter=True, size=_LANES)
    yield Set("sent", (MARK,), counter=True, size=_LANES)
    yield Set("received", (MARK,), counter=True, size=_LANES)
    yield Set("lanes", (MARK, NAME), size=_LANES)
    yield Set("tunnels", (NAME,), size=_LANES)
    yield Set("own", (MARK, NAME), size=2 * _LANES)
    yield Set("unmoved", (MARK, MARK), size=_LANES)
    yield Set("masqueraded", (MARK,), size=_LANES)
    yield Set("ports", (MARK,), PORT)
    yield Set("hops", (MARK, NAME), size=_LANES)
    yield Set("arriving", (NAME,), size=_LANES)
    yield Set("shared", (NAME,), size=_LANES)
    yield Set("handover", (PORT,))
    for share in SHARES:
        yield Set(share_set(share), (PORT,))
    yield Set(PERMITTED, (GROUP,), size=_LANES, timeout=True)
    for version, address in ADDRESS.items():
        yield Set(f"people{version}", (MARK, address), size=PEOPLE_ELEMENTS, timeout=True)
        yield Set(
            f"people_ports{version}", (MARK, address, PROTOCOL, PORT), size=PEOPLE_ELEMENTS, timeout=True
        )
    for version, address in ADDRESS.items():
        yield Set(f"held{version}", (PORT, address), size=_SOURCES, dynamic=True)
