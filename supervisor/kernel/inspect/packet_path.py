"""Single looks at the kernel for `facilitator why`: what routing says about one packet (`ip route get`),
addresses, listeners, counters. Changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

from common.netlink import DUMP, NETFILTER, attributes, text, text_attribute
from common.rtnetlink import address_dump, read_address
from supervisor.core.diagnosis.query import RouteDecision
from supervisor.kernel.errors import reason
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.nft.messages import (
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    GET_RULE,
    HEADER_BYTES,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_TABLE,
    nft_request,
)
from supervisor.kernel.nft.ruleset import TABLE
from supervisor.kernel.route.messages import read_lookup, route_query
from tunnels.networks import IPAddress

_REFUSALS: Mapping[int, str] = MappingProxyType(
    {
        errno.EHOSTUNREACH: "nowhere: unreachable",
        errno.ENETUNREACH: "nowhere: there is no route",
        errno.EACCES: "nowhere: prohibited",
        errno.EINVAL: "nowhere: dropped in silence (blackhole), or the packet is not a possible one",
        errno.EXDEV: "nowhere: the reverse path filter refuses this sender on this interface",
    }
)
_COUNTER_PACKETS = 2  # NFTA_COUNTER_PACKETS
_FORWARDING = {4: Path("/proc/sys/net/ipv4/ip_forward"), 6: Path("/proc/sys/net/ipv6/conf/all/forwarding")}
_LISTENERS = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_LISTEN = "0A"  # proc(5), net/tcp: TCP_LISTEN


class Inspector:
    """Looks at the routing half. Errors are OSError, TimeoutError among them, if a refusal is not itself the
    answer.
    """

    def __init__(self, netlink: AsyncNetlink) -> None:
        self._netlink = netlink

    async def lookup(
        self, address: IPAddress, *, mark: int = 0, source: IPAddress | None = None, device: str | None = None
    ) -> RouteDecision:
        """Where a packet to the address goes: one of our own, or with `source` and `device` one that came
        in there.
        """
        arrives = socket.if_nametoindex(device) if source is not None and device is not None else 0
        try:
            body = await self._netlink.ask(
                route_query(address, mark=mark, source=source if arrives else None, arrives=arrives)
            )
        except TimeoutError:
            raise
        except OSError as error:
            return RouteDecision(error=_REFUSALS.get(error.errno or 0, f"nowhere: {reason(error)}"))
        found = read_lookup(body)
        gateway = None if found.gateway is None else str(found.gateway)
        return RouteDecision(_name(found.device), gateway, found.table)

    async def addresses(self, device: str, version: int) -> tuple[str, ...]:
        """The interface's addresses that others can answer to; none when it does not exist."""
        try:
            index = socket.if_nametoindex(device)
        except OSError:
            return ()
        found = await self._netlink.dump(address_dump(index, version), read_address)
        return tuple(str(each.address) for each in found if not each.address.is_link_local)


@contextlib.asynccontextmanager
async def inspector() -> AsyncIterator[Inspector]:
    """An inspector on a socket of its own, in the network namespace of the calling thread."""
    netlink = AsyncNetlink()
    try:
        netlink.open()
        yield Inspector(netlink)
    finally:
        netlink.close()


async def refused() -> dict[str, int]:
    """Packets that the counting rules of our table matched, by chain: each of those rules
    refuses. OSError.
    """
    netlink = AsyncNetlink(NETFILTER)
    try:
        netlink.open()
        rules = await netlink.dump(nft_request(GET_RULE, DUMP, text_attribute(RULE_TABLE, TABLE)), _counted)
    finally:
        netlink.close()
    found: Counter[str] = Counter()
    for chain, packets in rules:
        found[chain] += packets
    return dict(found)


def _counted(body: bytes) -> tuple[str, int] | None:
    """Chain and packets of a rule that counts."""
    rule = dict(attributes(body[HEADER_BYTES:]))
    for _, expression in attributes(rule.get(RULE_EXPRESSIONS, b"")):
        parts = dict(attributes(expression))
        if text(parts.get(EXPRESSION_NAME)) == "counter":
            packets = dict(attributes(parts[EXPRESSION_DATA]))[_COUNTER_PACKETS]
            return text(rule[RULE_CHAIN]), int.from_bytes(packets, "big")
    return None


def forwarding(version: int) -> bool | None:
    """Does the kernel forward packets of this IP version; None: it does not say."""
    try:
        return _FORWARDING[version].read_text().strip() != "0"
    except OSError:
        return None


def listening(port: int) -> bool:
    """Does a process of this network namespace take TCP connections on the port."""
    return any(
        _listens(line.split(), port)
        for path in _LISTENERS
        if path.exists()
        for line in path.read_text().splitlines()[1:]
    )


def _listens(columns: list[str], port: int) -> bool:
    return columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port


def _name(index: int) -> str | None:
    try:
        return socket.if_indextoname(index) if index else None
    except OSError:
        return f"if{index}"
