"""A forwarded flow between namespaces: our rules beside a route and a masquerade made by hand. Nothing but the kernel's way is measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.kernel.network import KernelNetwork
from tests.kernel.lab import PLAN, SITE, World, world
from tests.netns import Namespace

FLOW_SIZE, PINGS = "500M", 1000


@contextlib.contextmanager
def forwarding_by_hand(lab: World) -> Iterator[None]:
    """What a careful person would set up: a route and a masquerade."""
    lab.facilitator.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    lab.facilitator.run("ip", "route", "add", "10.77.0.0/24", "dev", "t-acme", "via", "10.78.0.1")
    lab.facilitator.run("nft", "-f", "-", input="""table ip nat {
        chain postrouting { type nat hook postrouting priority 100; oifname "t-acme" masquerade; }
    }""")
    try:
        yield
    finally:
        lab.facilitator.run("nft", "delete", "table", "ip", "nat")
        lab.facilitator.run("ip", "route", "del", "10.77.0.0/24")


@dataclass
class Flow:
    """What one forwarding was measured to do."""

    throughput: list[float]         # Gbit/s
    work: list[float]               # milliseconds of CPU time for a gigabyte, at both ends and between
    latency: list[float]            # microseconds there and back


def measure_flow(lab: World, flow: Flow) -> None:
    """One run through this forwarding."""
    end = json.loads(lab.staff.run("iperf3", "-J", "-c", SITE, "-n", FLOW_SIZE).stdout)["end"]
    flow.throughput.append(end["sum_received"]["bits_per_second"] / 1e9)
    busy = (end["cpu_utilization_percent"]["host_total"] + end["cpu_utilization_percent"]["remote_total"]) / 100
    flow.work.append(busy * end["sum_sent"]["seconds"] / end["sum_sent"]["bytes"] * 1e12)
    # On one CPU, one after the other: nothing but the kernel's way there and back. Other programs can only slow a packet down.
    done = lab.staff.run("taskset", "-c", "0", "ping", "-n", "-A", "-c", str(PINGS), SITE)
    times = sorted(float(ms) * 1000 for ms in re.findall(r"time=([\d.]+) ms", done.stdout))
    flow.latency.append(statistics.mean(times[:len(times) // 2]))


@contextlib.contextmanager
def forwarding() -> Iterator[World]:
    """Staff, facilitator and site, with an iperf3 server in the site."""
    namespace = Namespace("flow")
    try:
        with world(namespace) as lab:
            server = lab.site.popen("iperf3", "-s", "--forceflush", stdout=subprocess.PIPE)
            assert server.stdout is not None
            next(line for line in server.stdout if "listening" in line)
            try:
                yield lab
            finally:
                server.kill()
                server.wait()
    finally:
        namespace.remove()


async def flows(rounds: int) -> tuple[Flow, Flow]:
    """Ours and by hand, by turns, in the same namespaces."""
    mine, theirs = Flow([], [], []), Flow([], [], [])
    with forwarding() as lab, lab.facilitator.entered():
        for _ in range(rounds):
            network = KernelNetwork(lambda _: None, lambda *_: None)
            await network.start(PLAN)
            await network.settled()
            await asyncio.to_thread(measure_flow, lab, mine)
            await network.close(keep=False)
            with forwarding_by_hand(lab):
                await asyncio.to_thread(measure_flow, lab, theirs)
    return mine, theirs
