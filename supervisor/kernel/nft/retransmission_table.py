"""The nftables tables `ip facilitator-tcp` and `ip6 facilitator-tcp`, of which each exists only while a TCP
connection to a gateway is silent, and never longer than this process lives (NFT_TABLE_F_OWNER):

    chain output {
        type filter hook output priority -310;
        ip saddr . ip daddr . tcp sport . tcp dport @silent jump answered
    }
    chain answered {
        meta mark COPY_MARK reject with icmp net-unreachable
        meta mark set COPY_MARK  dup to ip daddr (four times)  meta mark set (what it was)
    }

A segment passes; its copies start over at the hook, and each is answered by the ICMP message that takes back
one doubling of the pause (RFC 6069; for IPv6 Linux wants `no-route`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.netlink import CREATE, NESTED, NETFILTER, NetlinkRequest, attribute
from supervisor.core.network.layout import Element
from supervisor.core.network.retransmission import TcpConnection
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.nft import expressions as ex
from supervisor.kernel.nft import messages as nft
from supervisor.kernel.nft.elements import pack
from supervisor.kernel.nft.ruleset import TABLE, Chain
from supervisor.kernel.nft.sets import ADDRESS, PORT, Set

RETRANSMISSION_TABLE = f"{TABLE}-tcp"
COPY_MARK = 0x464D4350  # of copies, which never leave this host
COPIES = 4  # of each retransmission: so many doublings are taken back at once, while it adds one
_BEFORE_ALL = -310  # priority: nobody else sees the copies, nor does connection tracking
_FAMILIES = {4: nft.IPV4, 6: nft.IPV6}


class RetransmissionTable:
    """Owned by its socket. Errors are OSError with the kernel's errno."""

    def __init__(self) -> None:
        self._netlink = AsyncNetlink(NETFILTER)
        self._answered: frozenset[TcpConnection] = frozenset()

    def open(self) -> None:
        """Open the socket, in the network namespace of the calling thread."""
        self._netlink.open()

    def close(self) -> None:
        """Close the socket: the tables are gone."""
        self._netlink.close()

    async def answer(self, connections: frozenset[TcpConnection]) -> None:
        """The retransmissions of these connections are answered from now on, and of no others."""
        if connections == self._answered:
            return
        requests = [
            request for version in _FAMILIES for request in _table(version, connections, self._answered)
        ]
        said = await self._netlink.talk(nft.transaction(requests), [0, len(requests)])
        failure = next((error for error in said if error is not None), None)
        if failure is not None:
            raise failure
        self._answered = connections


def _table(
    version: int, wanted: Iterable[TcpConnection], standing: Iterable[TcpConnection]
) -> Iterator[NetlinkRequest]:
    """The table for one IP version as it is to be, whatever it was."""
    connections = _of_version(version, wanted)
    if connections or _of_version(version, standing):
        yield from nft.table_removal(RETRANSMISSION_TABLE, _FAMILIES[version], nft.OWNER)
    if connections:
        yield from _creation(version, connections)


def _creation(version: int, connections: list[TcpConnection]) -> Iterator[NetlinkRequest]:
    family, silent = _FAMILIES[version], _silent(version)
    yield nft.new_table(RETRANSMISSION_TABLE, family, nft.OWNER)
    yield from nft.table_contents((silent,), _chains(version), RETRANSMISSION_TABLE, family)
    elements = b"".join(pack(silent, [_element(silent, connection) for connection in connections]))
    body = nft.elements_of(silent.name, RETRANSMISSION_TABLE) + attribute(
        nft.ELEMENTS_LIST | NESTED, elements
    )
    yield nft.nft_request(nft.NEW_ELEMENTS, CREATE, body, family)


def _chains(version: int) -> Iterator[Chain]:
    copied = ex.copied(COPIES, COPY_MARK, version)
    yield Chain("answered", "", "", 0, ((*ex.with_mark(COPY_MARK), *ex.unreachable()), copied))
    found = (*ex.tcp_connection(version), *ex.within(_silent(version).name), *ex.jump("answered"))
    yield Chain("output", "filter", "output", _BEFORE_ALL, (found,))


def _silent(version: int) -> Set:
    return Set("silent", (ADDRESS[version], ADDRESS[version], PORT, PORT))


def _of_version(version: int, connections: Iterable[TcpConnection]) -> list[TcpConnection]:
    return [connection for connection in connections if connection.remote.version == version]


def _element(silent: Set, connection: TcpConnection) -> Element:
    addresses = int(connection.local), int(connection.remote)
    return Element(silent.name, (*addresses, connection.local_port, connection.remote_port))
