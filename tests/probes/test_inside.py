"""What tells a dead destination from a dead tunnel: the far end's own answer, what comes out of the
device, and what stops coming.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from supervisor.core.events import Event, Probed
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.state import Proof
from supervisor.kernel.counters import LinkBytes
from supervisor.probes.inner_probe import answers_inside
from supervisor.probes.interface_activity import InterfaceMeter
from supervisor.probes.prober import ProbeLoop
from supervisor.probes.targets import ProbePath
from tests.netns import Namespace, link
from tests.settings import configured
from tunnels.settings import Probe

DEVICE = ProbePath("t-site", 173001)
BEHIND, BEHIND6 = "icmp://10.88.0.9", "icmp://[fd88::9]"  # nobody is there, and nobody says so
SETTINGS = configured(Probe, targets=(BEHIND,), interval="500ms", timeout="500ms")
JOB = ProbeJob("acme", 3, SETTINGS, "t-site", 173001)


@pytest.fixture
def gateway(netns: Namespace) -> Iterator[Namespace]:
    """The far end of the device t-site: it forwards to two networks in which nobody answers. The test
    stands on the near side.
    """
    far = Namespace("gateway")
    link(netns, "t-site", far, "eth0")
    netns.run("sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
    far.run(
        "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
    )
    link(far, "lan", far, "lan-end")
    for last, space, device in ((2, netns, "t-site"), (1, far, "eth0")):
        space.run("ip", "address", "add", f"10.77.0.{last}/24", "dev", device)
        space.run("ip", "address", "add", f"fd77::{last}/64", "dev", device, "nodad")
    for network, via in (("10.88.0.0/24", "10.77.0.1"), ("fd88::/64", "fd77::1")):
        far.run("ip", "route", "add", network, "dev", "lan")
        netns.run("ip", "route", "add", network, "via", via)
    yield far
    far.remove()


def silence(gateway: Namespace) -> None:
    """It keeps its errors to itself, as many do."""
    chain = "add table inet t; add chain inet t o { type filter hook output priority 0; };"
    gateway.run("nft", f"{chain} add rule inet t o meta l4proto {{icmp, icmpv6}} drop")


@pytest.mark.root
@pytest.mark.parametrize("target", [BEHIND, BEHIND6, "tcp://10.88.0.9:80", "icmp://10.77.0.1"])
async def test_the_far_end_answers_whoever_the_request_is_meant_for(gateway: Namespace, target: str) -> None:
    assert await answers_inside((target,), DEVICE, None, 30.0)


@pytest.mark.root
async def test_silence_and_this_hosts_own_errors_prove_nothing(gateway: Namespace, netns: Namespace) -> None:
    netns.run("ip", "route", "add", "unreachable", "10.66.0.0/24")
    assert not await answers_inside(("icmp://10.66.0.1",), DEVICE, None, 0.3)
    assert not await answers_inside(("icmp://10.66.0.1",), ProbePath("lo", 173001), None, 0.3)
    silence(gateway)
    assert not await answers_inside((BEHIND,), DEVICE, None, 0.3)
    gateway.run("ip", "link", "set", "eth0", "down")
    assert not await answers_inside((BEHIND,), DEVICE, None, 0.3)
    netns.run("ip", "link", "delete", "t-site")
    assert not await answers_inside((BEHIND,), DEVICE, None, 30.0)


@pytest.mark.root
async def test_through_a_proxy_a_service_of_the_far_side_is_asked(netns: Namespace) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-test\r\n")

    proxy = ProbePath(None, 173001)
    async with await asyncio.start_server(banner, "127.0.0.1", 0) as server:
        service = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await answers_inside((), proxy, service, 30.0)
    assert not await answers_inside((), proxy, service, 0.3)
    assert not await answers_inside((), proxy, None, 30.0)


@asynccontextmanager
async def rounds(job: ProbeJob) -> AsyncIterator[asyncio.Queue[Event]]:
    """What a prober says about the job."""
    seen: asyncio.Queue[Event] = asyncio.Queue()
    ready = asyncio.Event()
    ready.set()
    prober = ProbeLoop(
        lambda event: isinstance(event, Probed) and seen.put_nowait(event),
        ready.wait,
        lambda: 0.5,
        LinkBytes(),
    )
    prober.set({job.tunnel: job})
    async with asyncio.timeout(60):
        yield seen
    await prober.close()


@pytest.mark.root
async def test_a_round_without_an_answer_says_what_proves_the_tunnel(gateway: Namespace) -> None:
    async with rounds(JOB) as seen:
        assert await seen.get() == Probed("acme", 3, None, Proof.ANSWERED, silent=(BEHIND,))
        silence(gateway)
        while (await seen.get()).proof is not None:
            pass
        noise = gateway.popen(
            "ping", "-q", "-i", "0.1", "10.77.0.2"
        )  # it comes out of the tunnel, and is no answer to us
        while (event := await seen.get()).proof is None:
            assert event.rtt is None
        assert event.proof is Proof.ANSWERED or event.proof is Proof.RECEIVED
        noise.terminate()
        noise.wait()


@pytest.mark.root
async def test_a_round_is_early_when_packets_go_in_and_none_comes_out(
    gateway: Namespace, netns: Namespace
) -> None:
    settings = configured(Probe, targets=("icmp://10.77.0.1",), interval="1h", timeout="200ms")
    async with rounds(replace(JOB, probe=settings)) as seen:
        assert (await seen.get()).rtt is not None
        silence(gateway)
        traffic = netns.popen("ping", "-q", "-i", "0.2", "10.77.0.1")
        assert (await seen.get()).rtt is None  # hours before its time
        traffic.terminate()
        traffic.wait()


def test_a_meter() -> None:
    meter = InterfaceMeter("t")
    story = [  # received, sent: does it stall, and when did something come out last
        ((10, 10), False, float("-inf")),
        ((20, 10), False, 0.0),
        ((20, 20), False, 0.0),
        ((20, 30), True, 0.0),
        ((20, 40), True, 0.0),
        ((21, 40), False, 4.0),
        ((21, 50), False, 4.0),
        ((21, 50), False, 4.0),
        ((21, 60), False, 4.0),
        ((3, 99), False, 4.0),
        (None, False, 4.0),
        ((0, 0), False, 4.0),
        ((5, 0), False, 11.0),
    ]
    for now, (count, stalled, received_at) in enumerate(story):
        meter.take(count, float(now))
        assert (meter.stalled.is_set(), meter.received_at) == (stalled, received_at), now
