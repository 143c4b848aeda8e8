"""Rules by person in the kernel: who is let in, who is cut off and how fast, and what happens when nobody
says anything any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from supervisor.core.identity.book import Holding
from supervisor.core.network.access import AccessPolicy, AccessRule, PersonRule, Segment
from supervisor.core.network.admission import NOBODY_KNOWN, KnownPeople
from tests.kernel.lab import (
    ACME,
    DEADLINE,
    OWN,
    PLAN,
    SITE,
    SITE6,
    STAFF,
    STAFF6,
    KernelUnderTest,
    KernelWorld,
    ask,
    kernel,
    server,
    until,
    world,
)
from tests.kernel.test_draining import OWN_SITE, StaffConnection
from tests.lab.wait import NOISE
from tests.netns import Namespace
from tunnels.settings import Ports

pytestmark = pytest.mark.root
OTHER = "10.8.0.6"  # in the segment `office`
PORT = 17300
WEB = (Ports("tcp", 80, 81), Ports("tcp", 443, 443))
SUPPORT = PersonRule("support", "", (Ports("tcp", 8080, 8081), Ports("udp", 53, 53)), None)
ENGINEERS = PersonRule("engineers", "", None, None)
LIMITED = replace(
    PLAN,
    segments=(Segment("office", (ip_network("10.8.0.6/32"),)),),
    gates=(
        AccessPolicy("acme", ACME, (AccessRule("office", None),), (ENGINEERS, SUPPORT)),
        AccessPolicy("own", OWN, (), (PersonRule("", "alice", None, None), replace(ENGINEERS, ports=WEB))),
    ),
)


def known(*groups: str, person: str = "alice", seconds: float = 3600.0) -> KnownPeople:
    """This person sits at the laptop, and belongs to these groups."""
    present = {
        ip_address(each): Holding(ip_address(each).packed, person, f"of-{person}", 1.0, groups=groups)
        for each in (STAFF, STAFF6)
    }
    return KnownPeople(present, time.monotonic() + seconds)


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        made.staff.run("ip", "address", "add", f"{OTHER}/24", "dev", "s0")
        yield made


async def refused(lab: KernelWorld, address: str, source: str = STAFF) -> bool:
    try:
        await ask(lab.staff, address, source=source)
    except OSError:  # refused, or the table is not there and the routes are closed
        return True
    return False


async def cut(connection: StaffConnection) -> None:
    """It sends all the time, until it is reset."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while True:
            await connection.lives()
            await asyncio.sleep(0.002)


async def let_in(lab: KernelWorld, address: str, source: str = STAFF, so: bool = True) -> float:
    """Seconds until it is, or is not any more."""
    began = time.monotonic()
    while await refused(lab, address, source) is so:
        assert time.monotonic() - began < DEADLINE
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def test_a_group_is_let_in_and_a_removed_member_is_cut_off_at_once(lab: KernelWorld) -> None:
    async with (
        kernel(LIMITED) as held,
        server(lab.site, 80),
        server(lab.facilitator, PORT),
        contextlib.AsyncExitStack() as stack,
    ):
        for address in (SITE, OWN_SITE):
            assert await refused(lab, address)
        assert await refused(lab, SITE6, STAFF6)
        held.network.people.know(known("engineers"))
        assert await let_in(lab, SITE) < 1.0 * NOISE
        assert await let_in(lab, SITE6, STAFF6) < 1.0 * NOISE
        ending = [
            await stack.enter_async_context(StaffConnection(lab, address, source))
            for address, source in ((SITE, STAFF), (SITE6, STAFF6))
        ]
        proxied = await stack.enter_async_context(StaffConnection(lab, OWN_SITE, STAFF))
        staying = await stack.enter_async_context(StaffConnection(lab, SITE, OTHER))
        held.network.people.know(
            known("support")
        )  # alice is an engineer no longer; own is open to her by name
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE):
            for each in ending:
                await cut(each)
        assert time.monotonic() - began < 0.5 * NOISE
        for each in (proxied, staying):
            await each.lives()
        assert await refused(lab, SITE)
        async with server(lab.site, 8080):
            await ask(lab.staff, SITE, 8080, source=STAFF)
        assert not await refused(lab, OWN_SITE)
        held.network.people.know(KnownPeople(known("support", person="bob").present, time.monotonic() + 3600))
        async with asyncio.timeout(DEADLINE):
            await proxied.is_reset(silent=True)  # somebody else is there: nothing of alice's goes on
        assert await refused(lab, OWN_SITE)
        await staying.lives()


async def test_when_nothing_is_heard_rules_by_person_close_and_rules_by_network_do_not(
    lab: KernelWorld,
) -> None:
    async with kernel(LIMITED) as held, server(lab.site, 80), contextlib.AsyncExitStack() as stack:
        held.network.people.know(known("engineers", seconds=4.0))
        await let_in(lab, SITE)
        running = await stack.enter_async_context(StaffConnection(lab, SITE, STAFF))
        staying = await stack.enter_async_context(StaffConnection(lab, SITE, OTHER))
        await let_in(lab, SITE, so=False)
        async with asyncio.timeout(DEADLINE):
            await cut(running)
        await staying.lives()
        assert not await refused(lab, SITE, OTHER)
        held.network.people.know(known("engineers"))
        await let_in(lab, SITE)


async def test_the_kernel_closes_by_itself_and_a_rule_ends_with_its_day(lab: KernelWorld) -> None:
    ending = PersonRule("engineers", "", None, time.time() + 4.0)
    gates = (AccessPolicy("acme", ACME, (), (ending,)),)
    async with kernel(replace(LIMITED, gates=gates)) as held, server(lab.site, 80):
        held.network.people.know(known("engineers"))
        await let_in(lab, SITE)
        await held.network.close(keep=True)  # nobody follows any more
        await let_in(lab, SITE, so=False)


async def test_people_stay_let_in_when_the_table_is_made_anew_and_when_elements_are_gone(
    lab: KernelWorld,
) -> None:
    async with kernel(LIMITED, table_flags=0) as held, server(lab.site, 80):
        held.network.people.know(known("engineers"))
        await let_in(lab, SITE)
        lab.facilitator.run("nft", "flush", "set", "inet", "facilitator", "people4")
        held.network.people.know(
            known("engineers", "oncall", seconds=1800.0)
        )  # renewed: not one of them is there
        await let_in(lab, SITE)
        lab.facilitator.run("nft", "delete", "table", "inet", "facilitator")
        await let_in(lab, SITE, so=True)
        await rebuilt(lab, held)
        assert not await refused(lab, SITE)


async def rebuilt(lab: KernelWorld, held: KernelUnderTest) -> None:
    """The table is there again."""
    deadline = time.monotonic() + DEADLINE
    while (
        "people4"
        not in lab.facilitator.run("nft", "list", "table", "inet", "facilitator", check=False).stdout
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await held.network.settled()


def listed(lab: KernelWorld) -> str:
    return lab.facilitator.run("nft", "list", "set", "inet", "facilitator", "people4").stdout


async def test_ten_thousand_people(lab: KernelWorld) -> None:
    many = {
        ip_address(0x0A080000 + number): Holding(
            (0x0A080000 + number).to_bytes(4, "big"), f"p{number}", "s", 1.0
        )
        for number in range(6, 10_006)
    }
    people = known("engineers").present | {
        address: each._replace(groups=("engineers",)) for address, each in many.items()
    }
    async with kernel(LIMITED) as held, server(lab.site, 80):
        held.network.people.know(KnownPeople(people, time.monotonic() + 3600))
        await let_in(lab, SITE)
        del people[ip_address(STAFF)]
        held.network.people.know(KnownPeople(dict(people), time.monotonic() + 3600))
        seconds = await let_in(lab, SITE, so=False)
        assert "10.8.39.16" in listed(lab)
        assert seconds < 0.5 * NOISE
        held.network.people.know(NOBODY_KNOWN)
        await until(lambda: "10.8.39.16" not in listed(lab))
