"""What is on a tunnel's interface: nothing that concerns anybody else, whatever its client and its remote
gateway do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from supervisor.core.events import AddressConflict
from supervisor.core.network.failover import directory
from supervisor.core.network.plan import Lane
from tests.kernel.lab import (
    ACME,
    OWN,
    PLAN,
    SITE,
    STAFF,
    TUNNEL,
    TUNNEL6,
    KernelWorld,
    ask,
    kernel,
    server,
    until,
    world,
)
from tests.netns import Namespace
from tunnels.settings import Destination, Tunnel

pytestmark = pytest.mark.root
ON_INTERFACE = replace(
    PLAN, lanes=(replace(PLAN.lanes[0], addresses=()), PLAN.lanes[1])
)  # its client sets the address itself


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


def addresses(lab: KernelWorld) -> set[str]:
    """Of the tunnel's interface, without link-local ones."""
    (link,) = json.loads(lab.facilitator.run("ip", "-j", "address", "show", "dev", "t-acme").stdout)
    return {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each["scope"] == "global"}


def routes(lab: KernelWorld) -> str:
    """Of the main table, over the tunnel's interface; the kernel lists IPv6 addresses of the host itself
    there too.
    """
    found = "".join(
        lab.facilitator.run("ip", version, "route", "show", "dev", "t-acme").stdout
        for version in ("-4", "-6")
    )
    return "\n".join(
        line
        for line in found.splitlines()
        if not line.startswith("fe80::") and "proto kernel metric 256" not in line
    )


@pytest.mark.parametrize(
    "address", ["10.8.0.5/24", "10.8.0.5/32", "192.0.2.1/24", "128.0.0.9/1", "fd00:8::5/64", f"{SITE}/24"]
)
async def test_an_address_that_a_client_puts_there_is_removed(lab: KernelWorld, address: str) -> None:
    async with kernel(PLAN) as held, server(lab.site):
        lab.facilitator.run("ip", "address", "add", address, "dev", "t-acme")
        await until(lambda: addresses(lab) == set())
        await held.in_place()
        assert routes(lab) == ""
        assert await ask(lab.staff, SITE) == TUNNEL
        assert held.posted == []


async def test_addresses_of_an_earlier_version_are_removed_at_the_start(lab: KernelWorld) -> None:
    for address in (f"{TUNNEL}/24", f"{TUNNEL6}/64"):
        lab.facilitator.run("ip", "address", "add", address, "dev", "t-acme")
    async with kernel(PLAN), server(lab.site):
        assert addresses(lab) == set()
        assert await ask(lab.staff, SITE) == TUNNEL
        assert TUNNEL6 in await ask(lab.staff, "fd00:77::10")


@pytest.mark.parametrize(
    ("address", "left"),
    [
        ("10.78.0.9/24", "10.78.0.9/32"),
        ("10.78.0.9/32", "10.78.0.9/32"),
        ("10.78.0.9 peer 192.0.2.1/32", "10.78.0.9/32"),
        ("fd00:78::9/64", "fd00:78::9/128"),
    ],
)
async def test_where_its_client_needs_it_it_stays_without_a_route(
    lab: KernelWorld, address: str, left: str
) -> None:
    async with kernel(ON_INTERFACE) as held:
        lab.facilitator.run("ip", "address", "add", *address.split(), "dev", "t-acme")
        await until(lambda: addresses(lab) == {left})
        await held.in_place()
        await until(lambda: routes(lab) == "")
        assert held.posted == []


NEIGHBOUR = Lane(
    "neighbour", OWN + 1, "t-other", True, addresses=(ip_address("10.90.1.1"),), gateway="203.0.113.2"
)
DIRECTORY = directory(
    [
        Tunnel(kind="openvpn", name="acme", destinations=(Destination(network=ip_network("10.77.0.0/24")),)),
        Tunnel(
            kind="openvpn",
            name="neighbour",
            destinations=(
                Destination(network=ip_network("10.66.0.0/16")),
                Destination(network=ip_network("10.77.0.0/24")),
            ),
        ),
    ],
    {},
)
CROWDED = replace(ON_INTERFACE, lanes=(*ON_INTERFACE.lanes, NEIGHBOUR), directory=DIRECTORY)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (STAFF, "in staff.networks (10.8.0.0/24)"),
        ("10.8.0.200", "in staff.networks"),
        ("fd00:8::77", "in staff.networks (fd00:8::/64)"),
        ("192.0.2.2", "an address of this host (interface u1)"),
        ("192.0.2.1", "the next hop of a route of this host"),
        ("2001:db8::1", "the next hop of a route of this host"),
        ("203.0.113.2", "the remote gateway of tunnel neighbour"),
        ("10.66.3.4", "in 10.66.0.0/16, a destination of tunnel neighbour"),
    ],
)
async def test_an_address_that_somebody_needs_ends_the_session(
    lab: KernelWorld, address: str, words: str
) -> None:
    async with kernel(CROWDED) as held:
        length = 64 if ":" in address else 24
        lab.facilitator.run("ip", "address", "add", f"{address}/{length}", "dev", "t-acme")
        await until(lambda: held.posted)
        await until(lambda: addresses(lab) == set())
        (event,) = held.posted
        assert isinstance(event, AddressConflict)
        assert (event.tunnel, event.device) == ("acme", "t-acme")
        assert words in event.text
        assert routes(lab) == ""


async def test_an_address_in_a_destination_of_its_own_is_no_conflict(lab: KernelWorld) -> None:
    """Also where another tunnel reaches that destination too."""
    async with kernel(CROWDED) as held:
        lab.facilitator.run("ip", "address", "add", "10.77.0.200/24", "dev", "t-acme")
        await until(lambda: addresses(lab) == {"10.77.0.200/32"})
        assert held.posted == []


async def test_what_a_remote_gateway_could_reconfigure_is_off(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held:
        for _ in range(2):  # also on an interface that is made anew
            names = [f"net.ipv6.conf.t-acme.{name}" for name in ("accept_ra", "autoconf", "accept_redirects")]
            names.append("net.ipv4.conf.t-acme.accept_redirects")
            await until(lambda: lab.facilitator.run("sysctl", "-n", *names).stdout.split() == ["0"] * 4)  # noqa: B023
            lab.tunnel_down()
            await until(lambda: held.lost)
            lab.tunnel_up()


async def test_an_interface_that_is_down_is_brought_up_with_its_mtu(lab: KernelWorld) -> None:
    lab.facilitator.run("ip", "link", "set", "t-acme", "down")
    plan = replace(PLAN, lanes=(replace(PLAN.lanes[0], link_mtu=1234), PLAN.lanes[1]))
    async with kernel(plan) as held, server(lab.site):
        shown = lab.facilitator.run("ip", "link", "show", "t-acme").stdout
        assert "mtu 1234" in shown
        assert "UP" in shown
        assert await ask(lab.staff, SITE) == TUNNEL
        lab.facilitator.run("ip", "link", "set", "t-acme", "mtu", "1500")
        await until(lambda: "mtu 1234" in lab.facilitator.run("ip", "link", "show", "t-acme").stdout)
        await held.in_place()


async def test_an_interface_without_an_assigned_address_is_brought_up_too(lab: KernelWorld) -> None:
    """Its client leaves the interface to us all the same; packets then carry an address of this host."""
    lab.facilitator.run("ip", "link", "set", "t-acme", "down")
    plan = replace(PLAN, lanes=(replace(PLAN.lanes[0], addresses=(), link_mtu=1300), PLAN.lanes[1]))
    async with kernel(plan) as held:
        assert "state DOWN" not in lab.facilitator.run("ip", "link", "show", "t-acme").stdout
        assert "default dev t-acme" in lab.facilitator.run("ip", "route", "show", "table", str(ACME)).stdout
        await held.in_place()


async def test_a_lane_of_another_address_forgets_its_flows(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site):
        assert await ask(lab.staff, SITE) == TUNNEL
        moved = replace(
            PLAN, lanes=(replace(PLAN.lanes[0], addresses=(ip_address("10.78.0.77"),)), PLAN.lanes[1])
        )
        await held.holds(moved)
        assert "10.78.0.2" not in lab.facilitator.run("conntrack", "-L", "--mark", str(ACME)).stdout
