"""Any history of tunnel events, foreign changes and reloads: afterwards the kernel holds what is wanted,
and at no moment was it open.

First as values: the engine makes the plans, every single change is looked at. Then for real: the same kinds
of happenings in a namespace while staff send a thousand packets a second, and the uplink is watched.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network.changes import applied, diff
from supervisor.core.network.compose import Scope
from supervisor.core.network.layout import CLOSED_METRIC, MAIN_TABLE, Device, HostFeatures, Layout, Route
from supervisor.core.network.plan import Lane, NetworkPlan
from supervisor.core.network.wanted import wanted
from tests.fakes import Habits
from tests.fakes import World as SimulatedWorld
from tests.kernel.lab import (
    DEADLINE,
    DOWN,
    MANY,
    PLAN,
    KernelUnderTest,
    KernelWorld,
    PacketStream,
    UplinkCapture,
    kernel,
    until,
    world,
)
from tests.lab.hostile import inject, link_layer
from tests.netns import Namespace, link
from tests.settings import configured
from tunnels.settings import Tunnel

STAFF = (ip_network("10.8.0.0/16"),)
SITES = ("10.77.0.0/24", "10.90.0.0/16", "10.99.0.0/24", "fd00:77::/64")


# --- as values
# ----------------------------------------------------------------------------------------------------------


def tunnels(shape: tuple[tuple[bool, ...], ...]) -> dict[str, Tunnel]:
    """A configuration: which tunnel names which of the sites. Tunnels of one site differ in priority."""
    named = {
        f"t{i}": tuple(site for site, on in zip(SITES, sites, strict=True) if on)
        for i, sites in enumerate(shape)
    }
    return {
        name: configured(Tunnel, name=name, kind="test", destinations=sites, priority=100 + i)
        for i, (name, sites) in enumerate(named.items())
        if sites
    }


shapes = st.lists(st.tuples(*[st.booleans()] * len(SITES)), min_size=1, max_size=3).map(tuple)
happenings = st.one_of(
    st.tuples(st.just("time"), st.floats(0.1, 200)),
    st.tuples(st.just("reload"), shapes),
    st.tuples(st.just("foreign"), st.integers(0, 2**16)),
    st.tuples(st.just("devices"), st.lists(st.sampled_from(["t-t0", "t-t1", "t-t2"]), unique=True)),
)


def closed(layout: Layout, network: str) -> bool:
    """Neither layer alone may be missing for us to call it closed; either alone closes."""
    by_route = Route(ip_network(network), MAIN_TABLE, CLOSED_METRIC) in layout.routes
    by_table = layout.table and any(
        e.set.startswith("destinations") and str(e.key[0]) == network for e in layout.elements
    )
    return by_route or by_table


def spoil(layout: Layout, dice: random.Random) -> Layout:
    """Somebody else removes some of what is ours, from one of the two layers."""
    if dice.random() < 0.5:
        keep = frozenset(route for route in layout.routes if dice.random() < 0.6)
        return replace(
            layout, routes=keep, rules=frozenset(rule for rule in layout.rules if dice.random() < 0.6)
        )
    return replace(layout, table=False, elements=frozenset())


@given(shapes, st.lists(happenings, max_size=12), st.integers(0, 2**32))
def test_every_step_of_every_history_is_closed(
    first: tuple[tuple[bool, ...], ...], story: list[tuple[str, object]], seed: int
) -> None:
    dice = random.Random(seed)
    simulated = SimulatedWorld(
        tunnels(first),
        Habits(
            connects_in=lambda: dice.choice((None, 0.5)),
            lives=lambda: dice.expovariate(1 / 60),
            path_alive=lambda now: dice.random() < 0.8,
        ),
        seed=seed,
    )
    host, actual, before = HostFeatures(), Layout(), frozenset[str]()
    for what, detail in [("time", 1.0), *story]:
        if what == "time":
            simulated.run(until=simulated.now + float(detail))  # type: ignore[arg-type]
        elif what == "reload":
            simulated.engine.configure(Scope("sim", STAFF), tunnels(detail), held=())  # type: ignore[arg-type]
        elif what == "devices":
            host = HostFeatures({name: Device(i + 2, 1400, True, True) for i, name in enumerate(detail)})  # type: ignore[arg-type, call-overload]
        else:
            actual = spoil(actual, random.Random(detail))  # type: ignore[arg-type]
        plan = simulated.engine.plan
        target = wanted(plan, host)
        stays = before & {str(carry.network) for carry in plan.carries}
        for change in diff(actual, target):
            actual = applied(actual, [change])
            assert all(closed(actual, network) for network in stays), f"open after {change}"
        assert actual == target
        before = frozenset(str(carry.network) for carry in plan.carries)


# --- for real
# ----------------------------------------------------------------------------------------------------------

Happening = Callable[[KernelWorld, KernelUnderTest, random.Random], Awaitable[None]]
EVIL = Lane(
    "evil", 173900, "t-evil", True, addresses=(ip_address("10.79.0.2"),)
)  # of a customer that means harm


def beside_evil(plan: NetworkPlan) -> NetworkPlan:
    return replace(plan, lanes=(*plan.lanes, EVIL))


async def tunnel_event(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    held.network.set(
        beside_evil(dice.choice((PLAN, DOWN, replace(PLAN, lanes=(PLAN.lanes[0], DOWN.lanes[1])))))
    )


async def reload(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    """The proxy's tunnel leaves the configuration, or comes back, or many come."""
    others = tuple(carry for carry in PLAN.carries if carry.lane == PLAN.lanes[0].number)
    held.network.set(beside_evil(dice.choice((PLAN, MANY, NetworkPlan(PLAN.staff, PLAN.lanes[:1], others)))))


async def routes_deleted(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    table = dice.choice(("main", "173001", "all"))
    lab.facilitator.run(
        "ip", dice.choice(("-4", "-6")), "route", "flush", "table", table, "proto", "173", check=False
    )


async def rules_deleted(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    priority = dice.choice(((), ("priority", "173"), ("priority", "100"), ("priority", "101")))
    lab.facilitator.run(
        "ip",
        dice.choice(("-4", "-6")),
        "rule",
        "del" if priority else "flush",
        *priority,
        "protocol",
        "173",
        check=False,
    )


async def device_event(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    present = "t-acme" in lab.facilitator.run("ip", "-br", "link").stdout
    if not present:
        lab.tunnel_up()
    elif dice.random() < 0.5:
        lab.tunnel_down()
    else:
        for state in ("down", "up"):
            lab.facilitator.run("ip", "link", "set", "t-acme", state)


async def table_deleted(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    lab.facilitator.run("nft", dice.choice(("flush ruleset", "delete table inet facilitator")), check=False)


async def setting_changed(lab: KernelWorld, held: KernelUnderTest, dice: random.Random) -> None:
    lab.facilitator.run(
        "sysctl", "-qw", dice.choice(("net.ipv4.conf.all.rp_filter=1", "net.ipv4.ip_forward=0"))
    )


HAPPENINGS: tuple[Happening, ...] = (
    tunnel_event,
    tunnel_event,
    reload,
    routes_deleted,
    rules_deleted,
    device_event,
    table_deleted,
    setting_changed,
)


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


@pytest.mark.root
@pytest.mark.parametrize("table_flags", [6, 0], ids=["owned", "unowned"])
@pytest.mark.parametrize("seed", range(3))
async def test_the_kernel_after_any_history(lab: KernelWorld, seed: int, table_flags: int) -> None:
    dice = random.Random(seed)
    link(lab.facilitator, "t-evil", lab.site, "evil")
    receiver = link_layer(lab.facilitator, "t-evil")
    async with kernel(beside_evil(PLAN), table_flags=table_flags) as held:
        capture, stream = UplinkCapture(lab), PacketStream(lab)
        told = []
        for _ in range(15):
            happening = dice.choice(HAPPENINGS)
            told.append(happening.__name__)
            await happening(lab, held, dice)
            await stream.packets(dice.randrange(1, 60))
            if (
                not table_flags
            ):  # an unowned table can be deleted: one layer must be whole again before the other one goes
                await quiet(held)
            inject(lab.site, "evil", stream.forged * 20, receiver)  # answers out of another customer's tunnel
        if "t-acme" not in lab.facilitator.run("ip", "-br", "link").stdout:
            lab.tunnel_up()
        held.network.set(beside_evil(PLAN))
        await stream.packets(50)
        await quiet(held)
        assert stream.received() == [], told
        inject(
            lab.site, "acme", stream.forged, link_layer(lab.facilitator, "t-acme")
        )  # the same out of the right one
        await until(stream.received)
        await stream.stop()
        assert await capture.leaked() == [], told
        assert (await held.network.compare())[1] == [], told


async def quiet(held: KernelUnderTest) -> None:
    """Wait until nothing is left to change. Repairs are slowed down after many of them: give them their
    time.
    """
    deadline = time.monotonic() + DEADLINE
    while changes := await left_to_change(held):
        assert time.monotonic() < deadline, changes
        await asyncio.sleep(0.05)


async def left_to_change(held: KernelUnderTest) -> list[str]:
    """What the kernel lacks or has too much. It may have no time to say so on a busy machine."""
    try:
        return (await held.network.compare())[1]
    except TimeoutError:
        return ["the kernel did not answer"]
