"""What is ours in the kernel: what we believe it holds, how to read it and how to change it.

    read(parts) -> Layout
    carry_out(changes) -> nft.table (one transaction), route.table (hundreds in a datagram)

What to change and when is `supervisor.kernel.network`'s business; commands without a daemon use it as well
(`supervisor.kernel.maintenance`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from supervisor.core.network.changes import Change, applied, deserved
from supervisor.core.network.layout import Device, HostFeatures, Layout
from supervisor.kernel.errors import Failure, explained
from supervisor.kernel.nft.messages import OWNER, PERSIST
from supervisor.kernel.nft.table import Nftables
from supervisor.kernel.notifications import EVERYTHING, KernelPart
from supervisor.kernel.offload import run_offloaded
from supervisor.kernel.route.messages import CHUNK
from supervisor.kernel.route.table import RouteTable

_WITH_ROUTES = frozenset({KernelPart.ROUTES, KernelPart.DEVICES, KernelPart.ADDRESSES})


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[KernelState]:
    """For a command: the sockets are open for the block, and each OSError in it becomes a KernelError. It
    owns no table, so that a daemon that starts meanwhile is not kept from it.
    """
    kernel = KernelState(0)
    try:
        kernel.open()
        yield kernel
    except OSError as error:
        raise explained(error) from error
    finally:
        kernel.close()


class KernelState:
    """Errors are OSError (with the kernel's errno), TimeoutError among them."""

    def __init__(self, table_flags: int = OWNER | PERSIST) -> None:
        self.routes = RouteTable()
        self.nftables = Nftables(table_flags)
        self.layout = Layout()  # as far as we know
        self.host = HostFeatures()
        self.shared: Mapping[str, str] = {}  # as in `HostFeatures`

    def open(self) -> None:
        """Open the sockets, in the network namespace of the calling thread."""
        self.routes.open()
        self.nftables.open()

    def close(self) -> None:
        """Close the sockets; a second time does nothing. What is in the kernel stays, the table without an
        owner.
        """
        self.routes.close()
        self.nftables.close()

    @property
    def ports(self) -> tuple[int, ...]:
        """The netlink addresses of the sockets that change something: notifications with them are our own
        doing.
        """
        return self.routes.netlink.port, self.nftables.port

    def look_at_devices(self, names: Iterable[str]) -> Mapping[str, Device]:
        """Read the state of these interfaces; what was known before.

        Routes over one that vanished, was recreated or went down are gone, and the kernel does not tell.
        """
        before, self.host = self.host.devices, replace(self.routes.host(names), shared=self.shared)
        devices = self.host.devices
        same = {
            name
            for name in devices.keys() & before.keys()
            if devices[name].up and devices[name].index == before[name].index
        }
        routes = self.layout.routes
        dead = [route for route in routes if route.device is not None and route.device not in same]
        if dead:
            self.layout = replace(self.layout, routes=routes.difference(dead))
        return before

    async def read(self, parts: AbstractSet[KernelPart] = EVERYTHING) -> Layout:
        """What the kernel really holds; of other parts, what we believe."""
        layout, versions = self.layout, self.host.versions
        if parts & _WITH_ROUTES:
            found = await self.routes.routes(versions)
            if found != layout.routes:  # else the same objects stay: they are compared at once
                layout = replace(layout, routes=found)
        if KernelPart.RULES in parts:
            layout = replace(layout, rules=await self.routes.rules(versions))
        if KernelPart.TABLE in parts:
            state = await self.nftables.read()
            layout = replace(layout, table=state.intact, elements=state.elements)
        return layout

    async def carry_out(
        self, changes: Sequence[Change], latest: Callable[[], bool] = lambda: True
    ) -> tuple[list[Change], list[Failure]]:
        """The changes that were done, and those that the kernel refuses: nftables in one transaction, the
        others one by one. It ends early when `latest` says that a newer plan came; what was done counts.
        """
        done: list[Change] = []
        failures: list[Failure] = []
        try:
            for planned in await run_offloaded(len(changes), _blocks, changes):
                if not latest():
                    break
                failed = [change for change, _ in failures]
                block = [each for each in planned if deserved(each, failed)] if failed else planned
                if not block:
                    continue
                try:
                    refusals = await self._change(block)
                except OSError as error:  # of nothing in the block is it known that it was done
                    failures.append((block[0], error))
                    continue
                failures += refusals
                refused = {change for change, _ in refusals}
                done += [change for change in block if change not in refused] if refused else block
        finally:
            self.layout = await run_offloaded(len(done), applied, self.layout, done)
        return done, failures

    async def _change(self, block: Sequence[Change]) -> list[Failure]:
        if block[0].concerns_nftables:
            await self.nftables.commit(block)
            return []
        said = await self.routes.change_all(block, self.host)
        return [(change, error) for change, error in zip(block, said, strict=True) if error is not None]


def _blocks(changes: Sequence[Change]) -> list[Sequence[Change]]:
    """What goes to the kernel in one piece, in order: everything of nftables, and routes and rules by the
    hundred.
    """
    blocks: list[Sequence[Change]] = []
    for (nftables, _), group in itertools.groupby(
        changes, key=lambda change: (change.concerns_nftables, change.announces)
    ):
        members = list(group)
        size = len(members) if nftables else CHUNK
        blocks += (members[start : start + size] for start in range(0, len(members), size))
    return blocks
