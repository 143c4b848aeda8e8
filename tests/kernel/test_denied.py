"""A source that is denied: what it has under way ends at once, in tunnels and in proxies, it gets nothing
new, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.kernel.lab import (
    DEADLINE,
    PLAN,
    SITE,
    SITE6,
    STAFF,
    STAFF6,
    KernelWorld,
    ask,
    kernel,
    server,
    world,
)
from tests.kernel.test_draining import OWN_SITE, OWN_SITE6, StaffConnection
from tests.netns import Namespace

pytestmark = pytest.mark.root
OTHER, OTHER6 = "10.8.0.6", "fd00:8::6"
PORT = 17300
DENIED = replace(PLAN, denied=(ip_address(STAFF), ip_address(STAFF6)))


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        made.staff.run("ip", "address", "add", f"{OTHER}/24", "dev", "s0")
        made.staff.run("ip", "address", "add", f"{OTHER6}/64", "dev", "s0", "nodad")
        yield made


async def test_what_it_has_under_way_ends_and_nothing_new_begins(lab: KernelWorld) -> None:
    async with (
        kernel(PLAN) as held,
        server(lab.site, 80),
        server(lab.facilitator, PORT),
        contextlib.AsyncExitStack() as stack,
    ):
        sources = {STAFF: (SITE, OWN_SITE), STAFF6: (SITE6, OWN_SITE6)}
        others = {OTHER: (SITE, OWN_SITE), OTHER6: (SITE6, OWN_SITE6)}
        ending = [
            await stack.enter_async_context(StaffConnection(lab, address, source))
            for source, addresses in sources.items()
            for address in addresses
        ]
        staying = [
            await stack.enter_async_context(StaffConnection(lab, address, source))
            for source, addresses in others.items()
            for address in addresses
        ]
        held.network.set(DENIED)
        async with asyncio.timeout(DEADLINE):
            await held.network.settled()
            for each in ending:
                await each.is_reset(silent=each.address in (OWN_SITE, OWN_SITE6))
        for each in staying:
            await each.lives()
        for source, addresses in sources.items():
            for address in addresses:
                with pytest.raises(ConnectionRefusedError):
                    await ask(lab.staff, address, source=source)
        held.network.set(PLAN)
        await held.network.settled()
        for source, addresses in sources.items():
            for address in addresses:
                await ask(lab.staff, address, source=source)
