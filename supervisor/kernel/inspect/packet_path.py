"""Single looks at the kernel for `facilitator why`: what routing says about one packet, addresses,
listeners, counters. Changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyroute2 import AsyncIPRoute, AsyncNFTSocket, NetlinkError
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES
from pyroute2.netlink.nfnetlink import nftsocket as nft

from supervisor.core.diagnosis.query import Lookup
from supervisor.kernel.errors import TIMEOUT
from supervisor.kernel.nft.ruleset import TABLE
from supervisor.kernel.nft.table import INET
from tunnels.settings import IPAddress

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_REFUSALS: Mapping[int, str] = MappingProxyType(
    {
        errno.EHOSTUNREACH: "nowhere: unreachable",
        errno.ENETUNREACH: "nowhere: there is no route",
        errno.EACCES: "nowhere: prohibited",
        errno.EINVAL: "nowhere: dropped in silence (blackhole), or the packet is not a possible one",
        errno.EXDEV: "nowhere: the reverse path filter refuses this sender on this device",
    }
)
_TELL_TABLE = 0x1000  # RTM_F_LOOKUP_TABLE: say in which table the route was found
_FORWARDING = {4: Path("/proc/sys/net/ipv4/ip_forward"), 6: Path("/proc/sys/net/ipv6/conf/all/forwarding")}
_LISTENERS = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_LISTEN = "0A"  # proc(5), net/tcp: TCP_LISTEN


class Inspector:
    """Looks at the routing half. Errors are `NetlinkError`, OSError and TimeoutError, if a refusal is not
    itself the answer.
    """

    def __init__(self, rtnl: Any) -> None:
        self._rtnl = rtnl

    async def lookup(
        self, address: IPAddress, *, mark: int = 0, source: IPAddress | None = None, device: str | None = None
    ) -> Lookup:
        """Where a packet to the address goes: one of our own, or with `source` and `device` one that came
        in there.
        """
        query: dict[str, Any] = {"family": _FAMILY[address.version], "dst": str(address)}
        query |= (
            {"flags": _TELL_TABLE} if address.version == 4 else {}
        )  # IPv6 always tells, and refuses the flag
        query |= {"mark": mark} if mark else {}
        try:
            if source is not None and device is not None:
                query |= {"src": str(source), "iif": socket.if_nametoindex(device)}
            async with asyncio.timeout(TIMEOUT):
                found = list(await self._rtnl.route("get", **query))
        except NetlinkError as error:
            return Lookup(error=_REFUSALS.get(error.code, f"nowhere: {error}"))
        return _lookup(found[0]) if found else Lookup()

    async def addresses(self, device: str, version: int) -> tuple[str, ...]:
        """The device's addresses that others can answer to; none when it does not exist."""
        try:
            index = socket.if_nametoindex(device)
        except OSError:
            return ()
        async with asyncio.timeout(TIMEOUT):
            found = [
                m
                async for m in await self._rtnl.addr("dump", family=_FAMILY[version], index=index)
                if m["index"] == index
            ]
        texts = [message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in found]
        return tuple(text for text in texts if not ip_address(text).is_link_local)


@contextlib.asynccontextmanager
async def inspector() -> AsyncIterator[Inspector]:
    """An inspector on a socket of its own, in the network namespace of the calling thread."""
    rtnl = AsyncIPRoute(strict_check=True, ext_ack=True)
    try:
        await rtnl.setup_endpoint()
        yield Inspector(rtnl)
    finally:
        rtnl.close()


async def refused() -> dict[str, int]:
    """Packets that the counting rules of our table matched, by chain: each of those rules refuses.
    NetlinkError, OSError, TimeoutError.
    """
    opened = AsyncNFTSocket()
    try:
        await opened.setup_endpoint()
        message = nft.nft_rule_msg()
        message["nfgen_family"] = INET
        message["attrs"] = [["NFTA_RULE_TABLE", TABLE]]
        request = NFNL_SUBSYS_NFTABLES << 8 | nft.NFT_MSG_GETRULE
        async with asyncio.timeout(TIMEOUT):
            rules = [
                rule async for rule in await opened.nlm_request(message, request, NLM_F_REQUEST | NLM_F_DUMP)
            ]
    finally:
        opened.close()
    found: Counter[str] = Counter()
    for rule in rules:
        for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
            if expression.get_attr("NFTA_EXPR_NAME") == "counter":
                found[rule.get_attr("NFTA_RULE_CHAIN")] += expression.get_attr("NFTA_EXPR_DATA").get_attr(
                    "NFTA_COUNTER_PACKETS"
                )
    return dict(found)


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


def _lookup(message: Any) -> Lookup:
    index = message.get_attr("RTA_OIF")
    try:
        device = socket.if_indextoname(index) if index else None
    except OSError:
        device = f"if{index}"
    gateway = message.get_attr("RTA_GATEWAY") or (message.get_attr("RTA_VIA") or {}).get("addr")
    return Lookup(device, gateway, message.get_attr("RTA_TABLE") or message["table"])
