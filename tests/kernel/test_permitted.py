"""The lease in the kernel: a process in a lane's group sends while the lane is permitted, and no longer."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest

from supervisor.core.network.plan import NetworkPlan
from supervisor.kernel.network import KernelNetwork
from tests.kernel.lab import ACME, OWN, kernel
from tests.lab.wait import NOISE
from tests.netns import Namespace, link

pytestmark = pytest.mark.root
PORTS = {ACME: 4501, OWN: 4502, 0: 4503}
SENDER = """
import os, socket, sys, time
group, port = int(sys.argv[1]), int(sys.argv[2])
os.setresgid(group, group, group)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        sender.sendto(b"x", ("192.0.2.1", port))
    except PermissionError:
        pass
    time.sleep(0.01)
"""
COUNTERS = """
table inet seen {{
  {counters}
  chain in {{
    type filter hook input priority 0
    {rules}
  }}
}}
"""


class Senders:
    """A process in the group of each lane, and one in no group of ours; the other end counts."""

    def __init__(self, here: Namespace, there: Namespace) -> None:
        self._there = there
        self.processes = [
            here.popen(sys.executable, "-c", SENDER, str(group), str(port)) for group, port in PORTS.items()
        ]

    def seen(self, group: int) -> int:
        """Packets that have arrived from this group."""
        said = self._there.run("nft", "list", "counter", "inet", "seen", f"p{PORTS[group]}").stdout
        return int(said.split("packets ")[1].split()[0])

    def end_all_but(self, group: int) -> None:
        """Only this one goes on."""
        for other, process in zip(PORTS, self.processes, strict=True):
            if other != group:
                process.kill()
                process.wait()

    async def sends(self, group: int) -> bool:
        """Packets of the group arrive now."""
        before = self.seen(group)
        await asyncio.sleep(0.3)
        return self.seen(group) > before


@pytest.fixture
def senders(netns: Namespace) -> Iterator[Senders]:
    there = Namespace("far")
    try:
        link(netns, "up0", there, "u0")
        netns.run("ip", "address", "add", "192.0.2.2/24", "dev", "up0")
        there.run("ip", "address", "add", "192.0.2.1/24", "dev", "u0")
        counters = "\n".join(f"counter p{port} {{ }}" for port in PORTS.values())
        rules = "\n".join(f"udp dport {port} counter name p{port} drop" for port in PORTS.values())
        there.run("nft", "-f", "-", input=COUNTERS.format(counters=counters, rules=rules))
        made = Senders(netns, there)
        yield made
        for process in made.processes:
            process.kill()
            process.wait()
    finally:
        there.remove()


async def silent_at(senders: Senders, group: int) -> float:
    """The moment since which nothing of the group arrives."""
    while await senders.sends(group):
        pass
    return time.monotonic() - 0.3


async def test_a_group_sends_only_while_it_is_permitted(senders: Senders) -> None:
    assert await senders.sends(ACME)  # without our table everybody does
    async with kernel(NetworkPlan()) as under_test:
        network: KernelNetwork = under_test.network
        assert not await senders.sends(ACME)
        assert await senders.sends(0)
        end = time.monotonic() + 1.5
        await network.permit({ACME: end})
        assert await senders.sends(ACME)
        assert not await senders.sends(OWN)
        assert await silent_at(senders, ACME) < end + 0.5 * NOISE  # by itself: nobody has come back
        await network.permit({ACME: time.monotonic() + 30.0, OWN: time.monotonic() + 30.0})
        assert await senders.sends(ACME)
        assert await senders.sends(OWN)
        await network.permit({OWN: time.monotonic() + 30.0})
        assert not await senders.sends(ACME)
        assert await senders.sends(OWN)


async def test_renewals_prolong_it_and_let_no_packet_fall(senders: Senders, netns: Namespace) -> None:
    async with kernel(NetworkPlan()) as under_test:
        await under_test.network.permit({ACME: time.monotonic() + 0.5, OWN: time.monotonic() + 60.0})
        senders.end_all_but(ACME)
        before, dropped = senders.seen(ACME), dropped_by_the_rule(netns)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            await under_test.network.permit({ACME: time.monotonic() + 0.5})
            await asyncio.sleep(0.02)
        assert senders.seen(ACME) - before > 50
        assert dropped_by_the_rule(netns) == dropped


async def test_a_table_that_is_made_anew_knows_who_is_permitted(senders: Senders) -> None:
    """A daemon that follows another one does not interrupt the clients that it goes on with."""
    async with kernel(NetworkPlan()) as under_test:
        await under_test.network.permit({ACME: time.monotonic() + 30.0})
    network = KernelNetwork(lambda event: None, lambda text, details: None)
    await network.permit({ACME: time.monotonic() + 30.0})
    await network.start(NetworkPlan())
    try:
        assert await senders.sends(ACME)
        assert not await senders.sends(OWN)
    finally:
        await network.close(keep=False)


def dropped_by_the_rule(netns: Namespace) -> int:
    said = netns.run("nft", "list", "chain", "inet", "facilitator", "output").stdout
    rule = next(line for line in said.splitlines() if "@permitted" in line)
    return int(rule.split("packets ")[1].split()[0])
