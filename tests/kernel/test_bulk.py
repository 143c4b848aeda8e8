"""Routes and rules packed by hand: what the kernel makes of them is what `ip` makes, and each error finds
its route.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network.changes import Change, Op
from supervisor.core.network.lanes import FIRST_LANE
from supervisor.core.network.layout import Route
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.network.rules import Rule
from supervisor.kernel.route.messages import CHUNK, RawRoute, pack, read_route, read_rule
from supervisor.kernel.route.table import RouteTable
from tests.kernel.lab import kernel
from tests.netns import Namespace

KINDS = ("unicast", "local", "unreachable", "blackhole", "prohibit", "throw", "5")
numbers = st.integers(1, 0xFFFF_FFFF)
networks = st.builds(
    lambda a, p: IPv4Network((a >> 32 - p << 32 - p, p)), st.integers(0, 2**32 - 1), st.integers(0, 32)
) | st.builds(
    lambda a, p: IPv6Network((a >> 128 - p << 128 - p, p)), st.integers(0, 2**128 - 1), st.integers(0, 128)
)
routes = st.builds(Route, networks, numbers, numbers, st.sampled_from(KINDS), st.none())
masks = st.one_of(numbers, st.just(0))
rules = st.builds(
    Rule,
    st.sampled_from([4, 6]),
    masks,
    masks,
    numbers,
    masks,
    st.sampled_from(["lookup", "goto", "nop", "8"]),
    masks,
)


@given(routes, st.integers(0, 2**31 - 1))
def test_a_route_is_read_as_it_was_packed(route: Route, device: int) -> None:
    assert read_route(pack(Change(Op.ADD, route), device).body) == RawRoute(route, device)


@given(rules)
def test_a_rule_is_read_as_it_was_packed(rule: Rule) -> None:
    assert read_rule(pack(Change(Op.ADD, rule)).body) == rule


@given(routes | rules)
def test_what_carries_another_protocol_number_is_not_ours(item: Route | Rule) -> None:
    body = bytearray(pack(Change(Op.ADD, item)).body)
    body[5 if isinstance(item, Route) else -4] += 1
    assert (read_route if isinstance(item, Route) else read_rule)(bytes(body)) is None


# --- the real kernel
# ---------------------------------------------------------------------------------------------------------

ACME = Route(ip_network("10.77.0.0/24"), 254, 20000)
WORDS = {
    ACME: "unreachable 10.77.0.0/24 metric 20000",
    Route(ip_network("0.0.0.0/0"), 173001, 100, "unicast", "d0"): "0.0.0.0/0 dev d0 table 173001 metric 100",
    Route(ip_network("0.0.0.0/0"), 173001, 20000): "unreachable 0.0.0.0/0 table 173001 metric 20000",
    Route(ip_network("10.1.2.3/32"), 254, 5, "blackhole"): "blackhole 10.1.2.3/32 metric 5",
    Route(ip_network("10.1.3.0/24"), 200, 6, "prohibit"): "prohibit 10.1.3.0/24 table 200 metric 6",
    Route(ip_network("10.1.4.0/24"), 254, 7, "throw"): "throw 10.1.4.0/24 metric 7",
    Route(ip_network("10.1.5.0/24"), 254, 8, "local", "lo"): "local 10.1.5.0/24 dev lo table main metric 8",
    Route(ip_network("fd00:77::/64"), 254, 20000): "unreachable fd00:77::/64 metric 20000",
    Route(ip_network("::/0"), 173001, 100, "unicast", "d0"): "::/0 dev d0 table 173001 metric 100",
    Route(ip_network("::/0"), 173002, 100, "local", "lo"): "local ::/0 dev lo table 173002 metric 100",
}
RULES = {
    Rule(4, 173001, 173001): "fwmark 173001 lookup 173001 priority 173",
    Rule(4, 9, 200, 174, 0xFF): "fwmark 9/0xff lookup 200 priority 174",
    Rule(6, 173001, 173001): "fwmark 173001 lookup 173001 priority 173",
    Rule(4, 0, 0, 100, kind="goto", target=173): "fwmark 0/0xffffffff goto 173 priority 100",
    Rule(6, 173008, 0, 101, 0xFFFF_FFF0, "goto", 103): "fwmark 173008/0xfffffff0 goto 103 priority 101",
    Rule(6, 0, 0, mask=0, kind="nop"): "nop priority 173",
}


@asynccontextmanager
async def opened() -> AsyncIterator[RouteTable]:
    found = RouteTable()
    found.open()
    try:
        yield found
    finally:
        found.close()


async def said(routes: RouteTable, *changes: Change) -> list[int | None]:
    """The errno of each change."""
    return [
        None if error is None else error.errno
        for error in await routes.change_all(changes, routes.host(["d0"]))
    ]


def add(*items: Route | Rule, replaces: bool = False) -> list[Change]:
    return [Change(Op.ADD, item, replaces) for item in items]


def remove(*items: Route | Rule) -> list[Change]:
    return [Change(Op.REMOVE, item) for item in items]


def shown(namespace: Namespace) -> list[object]:
    """All that `ip` says of routes and rules with our number."""
    listed = []
    for family in ("-4", "-6"):
        listed += json.loads(
            namespace.run("ip", "-j", "-d", family, "route", "show", "table", "all", "proto", "173").stdout
        )
        rules = json.loads(namespace.run("ip", "-j", "-d", family, "rule").stdout)
        listed += [rule for rule in rules if rule.get("protocol") == "173"]
    return sorted(listed, key=str)


@pytest.mark.root
async def test_the_kernel_makes_of_it_what_it_makes_of_ip(netns: Namespace) -> None:
    netns.run("ip", "tuntap", "add", "d0", "mode", "tun")
    netns.run("ip", "link", "set", "d0", "up")
    lines = [f"-{route.network.version} route add {words} proto 173" for route, words in WORDS.items()]
    lines += [f"-{rule.version} rule add {words} protocol 173" for rule, words in RULES.items()]
    for line in lines:
        netns.run("ip", *line.split())
    theirs = shown(netns)
    async with opened() as routes:
        assert await routes.routes((4, 6)) == frozenset(WORDS)
        assert await routes.rules((4, 6)) == frozenset(RULES)
        assert await said(routes, *remove(*WORDS, *RULES)) == [None] * (len(WORDS) + len(RULES))
        assert shown(netns) == []
        assert await said(routes, *add(*WORDS, *RULES)) == [None] * (len(WORDS) + len(RULES))
    assert shown(netns) == theirs


@pytest.mark.root
async def test_each_error_finds_its_route(netns: Namespace) -> None:
    netns.run("ip", "route", "add", "unreachable", "10.77.0.0/24", "metric", "20000")  # a foreign one
    lost = Route(ip_network("10.78.0.0/24"), 254, 100, "unicast", "nowhere")
    fine = Route(ip_network("10.79.0.0/24"), 254, 20000)
    async with opened() as routes:
        assert await said(routes, *add(fine, ACME, lost)) == [None, errno.EEXIST, errno.ENODEV]
        assert await said(routes, *add(fine)) == [errno.EEXIST]
        assert await said(routes, *add(fine, replaces=True)) == [None]
        assert await said(routes, *remove(ACME, fine, fine)) == [None] * 3  # what is gone already is success
        assert await routes.routes((4, 6)) == frozenset()
    assert "10.77.0.0/24" in netns.run("ip", "route").stdout


@pytest.mark.root
async def test_a_route_takes_the_place_of_another_kind(netns: Namespace) -> None:
    other = ACME._replace(kind="blackhole")
    async with opened() as routes:
        assert await said(routes, *add(ACME)) == [None]
        assert await said(routes, *add(other, replaces=True)) == [None]
        assert await routes.routes((4, 6)) == {other}


@pytest.mark.root
async def test_an_exchange_that_was_given_up_does_not_disturb_the_next(netns: Namespace) -> None:
    many = [Route(IPv4Network((10 << 24 | n << 8, 24)), 254, 20000) for n in range(CHUNK * 8)]
    async with opened() as routes:
        for start in range(0, len(many), CHUNK):
            assert not any(await said(routes, *add(*many[start : start + CHUNK])))
        for _ in range(3):
            task = asyncio.create_task(routes.routes((4, 6)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            assert await said(routes, *add(many[0])) == [errno.EEXIST]
        assert await routes.routes((4, 6)) == frozenset(many)


@pytest.mark.root
async def test_ten_thousand_destinations(netns: Namespace) -> None:
    nets = [IPv4Network((10 << 24 | number << 9, 24)) for number in range(10_000)]
    lanes = tuple(Lane(f"tunnel-{i}", FIRST_LANE + i, None, True, 17300 + i) for i in range(200))
    plan = NetworkPlan(
        (ip_network("172.16.0.0/16"),),
        lanes,
        tuple(Carry(net, FIRST_LANE + i % 2, net) for i, net in enumerate(nets)),
    )
    moved = dataclasses.replace(plan, carries=tuple(Carry(net, FIRST_LANE, net) for net in nets))
    async with asyncio.timeout(60), kernel(plan) as held:  # only against disasters
        assert (await held.network.compare())[1] == []
        await held.holds(moved)
        assert held.network.route_counts["tunnel-0"].installed == held.network.route_counts["tunnel-0"].wanted
        assert len(json.loads(netns.run("ip", "-j", "route", "show", "proto", "173").stdout)) == len(nets)
        assert [text for text, _ in held.notes if "refuses" in text] == []
