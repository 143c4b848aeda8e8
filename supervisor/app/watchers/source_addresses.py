"""Notices when this host loses an address from which clients talk to their gateways, as it does with an
uplink that goes or gets another address: their connections never come back, and say so only after minutes.

kernel (RTM_DELADDR) -> addresses that stay away -> clients whose sockets have them -> `SourceLost` -> inbox
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from common.netlink import NetlinkSocket
from common.rtnetlink import (
    ADDRESS_REMOVED,
    IPV4_ADDRESS_GROUP,
    IPV6_ADDRESS_GROUP,
    address_dump,
    read_address,
)
from supervisor.core.events import Event, SourceLost
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import SessionState
from tunnels.networks import IPAddress

SETTLE_SECONDS = 0.3  # in which a DHCP client may put back what it has taken away


class SourceAddressWatch:
    """`local_addresses` tells from which addresses the client of a tunnel's session talks; it reads /proc and
    is called in another thread.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        local_addresses: Callable[[str, int], frozenset[IPAddress]],
        post: Callable[[Event], None],
    ) -> None:
        self._snapshot, self._local_addresses, self._post = snapshot, local_addresses, post
        self._removed: set[IPAddress] = set()
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Listen, for ever. In the namespace in which it begins."""
        with contextlib.closing(
            NetlinkSocket(timeout=0, groups=(IPV4_ADDRESS_GROUP, IPV6_ADDRESS_GROUP))
        ) as netlink:
            asyncio.get_running_loop().add_reader(netlink, self._read, netlink)
            try:
                while True:
                    await self._heard.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
                    self._heard.clear()
                    removed, self._removed = self._removed, set()
                    await self._tell(removed - await asyncio.to_thread(_present))
            finally:
                asyncio.get_running_loop().remove_reader(netlink)

    def _read(self, netlink: NetlinkSocket) -> None:
        with contextlib.suppress(OSError):  # nothing more, or too much at once: a probe will tell then
            while True:
                for message in netlink.receive():
                    if message.kind == ADDRESS_REMOVED and (held := read_address(message.body)) is not None:
                        self._removed.add(held.address)
                        self._heard.set()

    async def _tell(self, gone: set[IPAddress]) -> None:
        if not gone:
            return
        for name, (_, state) in self._snapshot().tunnels.items():
            for session in (state.active, state.standby):
                if session is not None and (lost := gone & await self._used(name, session)):
                    number = session.session.number
                    self._post(SourceLost(name, number, address=str(min(lost, key=str))))

    async def _used(self, name: str, session: SessionState) -> frozenset[IPAddress]:
        return await asyncio.to_thread(self._local_addresses, name, session.session.number)


def _present() -> set[IPAddress]:
    """The addresses that this host has."""
    with contextlib.closing(NetlinkSocket()) as netlink:
        bodies = netlink.request(*address_dump())
        return {held.address for body in bodies if (held := read_address(body)) is not None}
