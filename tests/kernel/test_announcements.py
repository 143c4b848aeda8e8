"""What is announced stands in a table of its own: in which order it changes, and that it is put back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from supervisor.core.network.changes import Op, deserved, diff
from supervisor.core.network.layout import Layout
from supervisor.core.network.plan import Announced, NetworkPlan, Offer
from supervisor.core.network.wanted import wanted
from tests.kernel.lab import ACME, OWN, PLAN, KernelWorld, kernel, until, world
from tests.kernel.test_layout import HOST
from tests.netns import Namespace

TABLE = 173
NETWORKS = (("10.77.0.0/24", ACME), ("fd00:77::/64", ACME), ("10.90.0.0/16", OWN), ("fd00:90::/64", OWN))


def announcing(metric: int, offer: Offer = Offer.WORKS, plan: NetworkPlan = PLAN) -> NetworkPlan:
    """The plan with everything announced in this way."""
    told = (
        Announced(ip_network(network), "acme" if lane == ACME else "own", lane, metric, 0.0, offer)
        for network, lane in NETWORKS
    )
    return replace(plan, announced=tuple(told), announced_in=TABLE)


def without_acme(plan: NetworkPlan) -> NetworkPlan:
    """The plan while the tunnel is down."""
    return replace(plan, lanes=(replace(plan.lanes[0], up=False, addresses=()), plan.lanes[1]))


def lines(before: Layout, after: Layout) -> list[str]:
    return [str(change) for change in diff(before, after) if "table 173 " in str(change)]


def test_the_order_of_changes() -> None:
    works, drains = wanted(announcing(100), HOST), wanted(announcing(5000, Offer.DRAINS), HOST)
    acme = [line for line in lines(works, drains) if "10.77" in line]
    assert acme == [
        "+ route 10.77.0.0/24 dev t-acme table 173 metric 5000",
        "- route 10.77.0.0/24 dev t-acme table 173 metric 100",
    ]
    everything = [str(change) for change in diff(Layout(), works)]
    assert max(map(everything.index, lines(Layout(), works))) == len(everything) - 1  # last, once it works
    gone = [str(change) for change in diff(works, Layout())]
    assert {gone.index(line) for line in lines(works, Layout())} == set(range(4))  # first
    last = wanted(announcing(9000, Offer.LAST, without_acme(PLAN)), HOST)
    worse = [str(change) for change in diff(works, last)]
    assert worse[0] == "+ route 10.77.0.0/24 blackhole table 173 metric 9000"
    assert {worse.index(line) for line in lines(works, last)} == set(range(8))
    better = [str(change) for change in diff(last, works)]
    assert better.index("+ route 0.0.0.0/0 dev t-acme table 173001 metric 100") < better.index(
        "+ route 10.77.0.0/24 dev t-acme table 173 metric 100"
    )


def test_what_failed_is_not_announced_as_if_it_worked() -> None:
    acme, own = (
        next(each for each in diff(Layout(), wanted(announcing(100), HOST)) if text in str(each))
        for text in ("10.77.0.0/24 dev t-acme table 173 ", "10.90.0.0/16 blackhole table 173 ")
    )
    lane, element, other = (
        next(each for each in diff(Layout(), wanted(PLAN, HOST)) if text in str(each))
        for text in ("0.0.0.0/0 dev t-acme table 173001", "element up 173002", "10.77.0.0/24 unreachable")
    )
    failures = ((), (lane,), (element,), (other,))
    assert [deserved(acme, failed) for failed in failures] == [True, False, False, True]
    assert [deserved(own, failed) for failed in failures] == [True, True, False, True]
    assert deserved(acme._replace(op=Op.REMOVE), (lane, element))


def test_a_lane_that_is_not_open_is_not_announced_as_one_that_works() -> None:
    closed = {str(route) for route in wanted(announcing(100, plan=without_acme(PLAN)), HOST).routes}
    assert not any("10.77.0.0/24" in text and "table 173 " in text for text in closed)
    assert any("10.90.0.0/16 blackhole table 173 metric 100" in text for text in closed)


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


def table(lab: KernelWorld) -> list[str]:
    """What `ip` shows of the table: destination, kind or interface, metric."""
    found = []
    for family in ("-4", "-6"):
        done = lab.facilitator.run("ip", family, "route", "show", "table", str(TABLE), check=False)
        for line in done.stdout.splitlines():
            words = line.split()
            kind = words.pop(0) if words[0] == "blackhole" else words[words.index("dev") + 1]
            metric = words[words.index("metric") + 1]
            found.append(f"{words[0]} {kind} {metric}")
    return sorted(found)


@pytest.mark.root
async def test_the_kernel_holds_what_is_announced_and_puts_it_back(lab: KernelWorld) -> None:
    def all_at(metric: int) -> list[str]:
        ways = {ACME: "t-acme", OWN: "blackhole"}
        return sorted(f"{network} {ways[lane]} {metric}" for network, lane in NETWORKS)

    async with kernel(announcing(100)) as held:
        assert table(lab) == all_at(100)
        lab.facilitator.run("ip", "route", "flush", "table", str(TABLE))
        lab.facilitator.run("ip", "-6", "route", "flush", "table", str(TABLE))
        lab.facilitator.run(*f"ip route add 192.0.2.0/24 dev lo table {TABLE} proto 173 metric 7".split())
        await until(lambda: table(lab) == all_at(100))
        watching = lab.facilitator.popen("ip", "monitor", "route", stdout=subprocess.PIPE)
        try:
            await held.holds(announcing(5000, Offer.DRAINS))
            assert table(lab) == all_at(5000)
            await held.holds(announcing(90, Offer.CARRIES))
            assert table(lab) == all_at(90)
            lab.facilitator.run(
                *f"ip route add 192.0.2.9/32 dev lo table {TABLE} proto static metric 7".split()
            )
            stood = {network: 1 for network, _ in NETWORKS}
            assert watching.stdout is not None
            for line in watching.stdout:
                if "192.0.2.9" in line:
                    break
                for network in stood:
                    if f"{network} " in line:
                        stood[network] += -1 if line.startswith("Deleted") else 1
                assert min(stood.values()) >= 1, f"a moment without a route: {line}"
        finally:
            watching.kill()
            watching.wait()
        lab.facilitator.run(*f"ip route del 192.0.2.9/32 table {TABLE}".split())
        await held.holds(announcing(9000, Offer.LAST, without_acme(PLAN)))
        assert table(lab) == sorted(f"{network} blackhole 9000" for network, _ in NETWORKS)
        await held.holds(announcing(100))
        assert table(lab) == all_at(100)
        lab.tunnel_down()
        await until(lambda: table(lab) == [line for line in all_at(100) if "t-acme" not in line])
        lab.tunnel_up()
        await until(lambda: table(lab) == all_at(100))
        assert "table 173" not in lab.facilitator.run("ip", "rule", "show").stdout
        await held.holds(PLAN)
        assert table(lab) == []
