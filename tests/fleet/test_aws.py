"""Routes of VPC route tables follow the lock, at moto's EC2 API with AWS' faults: takeover after a death, a
planned move, answers that are stale or throttled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from supervisor.fleet.aws_program import AwsProblem, RouteKeeper
from supervisor.fleet.route_owner import RouteOwner, RouteSettings
from tests.fleet.aws_double import CREDENTIALS, REGION, AwsDouble
from tests.fleet.test_sharing import MemoryEngine, running
from tests.lab.wait import NOISE

pytestmark = pytest.mark.slow
NETWORK = "10.77.0.0/24"
PATIENCE = 60.0
TAKEOVER_SECONDS = 6.0


@dataclass
class VpcUnderTest:
    """A VPC with one route table, and an interface for each of two members."""

    double: AwsDouble
    ec2: Any
    table: str
    interfaces: tuple[str, str]

    def leads_to(self) -> str | None:
        """The interface of the route, as AWS really has it."""
        tables = self.ec2.describe_route_tables(RouteTableIds=[self.table])["RouteTables"]
        found = [route for route in tables[0]["Routes"] if route.get("DestinationCidrBlock") == NETWORK]
        return found[0].get("NetworkInterfaceId") if found else None

    async def until(self, interface: str) -> None:
        """Wait until the route leads there."""
        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(self.leads_to) != interface:
                await asyncio.sleep(0.05)

    @property
    def writes(self) -> int:
        """Of the route, so far."""
        return self.double.calls["ReplaceRoute"] + self.double.calls["CreateRoute"]

    def owner(self, engine: MemoryEngine, number: int) -> RouteOwner:
        """A member."""
        environment = {**os.environ, **CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"}
        settings = RouteSettings(
            (self.table,), self.interfaces[number], self.double.endpoint, REGION, environment
        )
        return RouteOwner(engine, "f/routes/", f"vpn{number + 1}", settings, lambda: None)


@pytest.fixture
def vpc() -> Iterator[VpcUnderTest]:
    with AwsDouble() as double:
        ec2 = double.client()
        made = ec2.create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=made, CidrBlock="172.31.1.0/24")["Subnet"]["SubnetId"]
        table = ec2.create_route_table(VpcId=made)["RouteTable"]["RouteTableId"]
        first, second = (
            ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
            for _ in range(2)
        )
        yield VpcUnderTest(double, ec2, table, (first, second))


@contextlib.asynccontextmanager
async def living(owner: RouteOwner) -> AsyncIterator[None]:
    """The member runs; at the end of the block it is dead, without a word."""
    async with running(owner.follow()), running(owner.keep()):
        yield


async def test_the_route_follows_the_lock(vpc: VpcUnderTest) -> None:
    engine = MemoryEngine()
    first, second = vpc.owner(engine, 0), vpc.owner(engine, 1)
    async with living(second):
        async with living(first):
            first.set([NETWORK])
            await vpc.until(vpc.interfaces[0])
            second.set([NETWORK])
            vpc.double.stale, vpc.double.throttled = 1, 1
            await asyncio.sleep(7.0)  # a reading while nothing is wrong is one each 5 s
            assert (second.held, vpc.writes) == (frozenset(), 1), "no stale and no throttled answer moves it"
            first.set([])  # drained, or its tunnel is down: the route moves, and it forwards meanwhile
            await vpc.until(vpc.interfaces[1])
            assert (vpc.writes, first.held, second.held) == (2, frozenset(), {NETWORK})
            first.set([NETWORK])
            second.set([])
            await vpc.until(vpc.interfaces[0])
            second.set([NETWORK])
            lease = engine.values[f"f/routes/{NETWORK.replace('/', '_')}"].lease
        vpc.double.throttled, died = 2, time.monotonic()
        vpc.double.gone.add(vpc.interfaces[0])
        await asyncio.sleep(engine.ttl)
        assert lease is not None
        engine.expire(lease)
        await vpc.until(vpc.interfaces[1])
        assert time.monotonic() - died <= (engine.ttl + TAKEOVER_SECONDS) * NOISE
        assert vpc.writes == 4
        # Somebody else changes the route: it is put back.
        await asyncio.to_thread(
            vpc.ec2.replace_route,
            RouteTableId=vpc.table,
            DestinationCidrBlock=NETWORK,
            NetworkInterfaceId=vpc.interfaces[0],
        )
        await vpc.until(vpc.interfaces[1])


async def test_an_engine_that_is_away_moves_nothing(vpc: VpcUnderTest) -> None:
    engine = MemoryEngine()
    first, second = vpc.owner(engine, 0), vpc.owner(engine, 1)
    async with living(first), living(second):
        first.set([NETWORK])
        await vpc.until(vpc.interfaces[0])
        second.set([NETWORK])
        engine.away = True
        await asyncio.sleep(3 * engine.ttl)
        assert first.held == {NETWORK}
        assert vpc.leads_to() == vpc.interfaces[0]
        engine.away = False
        await asyncio.sleep(engine.ttl)
        assert (first.held, vpc.writes) == ({NETWORK}, 1)


async def test_what_the_api_refuses_is_said(vpc: VpcUnderTest) -> None:
    engine = MemoryEngine()
    vpc.interfaces = ("eni-0123456789", vpc.interfaces[1])
    owner = vpc.owner(engine, 0)
    async with living(owner):
        owner.set([NETWORK])
        async with asyncio.timeout(PATIENCE):
            while owner.problem is None:
                await asyncio.sleep(0.05)
        assert "eni-0123456789" in owner.problem


def test_the_doctor_tries_and_changes_nothing(vpc: VpcUnderTest) -> None:
    keeper = RouteKeeper(vpc.ec2, [vpc.table], vpc.interfaces[0])
    assert list(keeper.dry_run()) == []
    assert vpc.leads_to() is None
    (unread, *unwritten) = RouteKeeper(vpc.ec2, ["rtb-0123"], vpc.interfaces[0]).dry_run()
    assert "cannot be read" in unread
    vpc.double.throttled = 100
    assert len(list(keeper.dry_run())) == 3


def test_a_route_that_is_refused_does_not_hold_up_the_others(vpc: VpcUnderTest) -> None:
    keeper = RouteKeeper(vpc.ec2, [vpc.table], vpc.interfaces[0])
    bad, good = "10.76.0.0/24", NETWORK  # in this order
    vpc.double.no_room.add(bad)
    with pytest.raises(AwsProblem, match="RouteLimitExceeded"):
        keeper.turn([bad, good])
    assert vpc.leads_to() == vpc.interfaces[0]
    vpc.double.throttled, calls = 100, vpc.double.calls.total()
    with pytest.raises(AwsProblem, match="RequestLimitExceeded"):
        keeper.turn([bad, good])
    assert vpc.double.calls.total() - calls <= 5, "boto3's own attempts at one call"
