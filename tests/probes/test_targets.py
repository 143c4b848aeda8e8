"""Probes against real sockets: what proves a path, and what does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from supervisor.core.events import Event, Probed
from supervisor.core.session.jobs import ProbeJob
from supervisor.probes.prober import ProbeLoop
from supervisor.probes.target_rounds import TargetRounds
from supervisor.probes.targets import ProbePath, probe
from tests.netns import Namespace, link
from tests.settings import configured
from tunnels.settings import Probe

pytestmark = pytest.mark.root
DEVICE = ProbePath("t-site", 173001)
PROXY = ProbePath(None, 173001)


@pytest.fixture
def site(netns: Namespace) -> Iterator[Namespace]:
    """A gateway at 10.77.0.1 and fd77::1 behind the device t-site; the test stands on the near side."""
    far = Namespace("site")
    link(netns, "t-site", far, "eth0")
    netns.run("sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
    for space, device, last in ((netns, "t-site", 2), (far, "eth0", 1)):
        space.run("ip", "address", "add", f"10.77.0.{last}/24", "dev", device)
        space.run("ip", "address", "add", f"fd77::{last}/64", "dev", device, "nodad")
    yield far
    far.remove()


async def test_icmp_in_both_families(site: Namespace) -> None:
    assert await probe("icmp://10.77.0.1", DEVICE, 30.0) is not None
    assert await probe("icmp://[fd77::1]", DEVICE, 30.0) is not None
    assert await probe("icmp://10.77.0.9", DEVICE, 0.2) is None


async def test_a_refused_connection_proves_a_device_path_and_silence_does_not(site: Namespace) -> None:
    assert await probe("tcp://10.77.0.1:9", DEVICE, 30.0) is not None
    site.run(
        "nft",
        "add table inet t; add chain inet t i { type filter hook input priority 0; }; add rule inet t i "
        "tcp dport 9 drop",
    )
    assert await probe("tcp://10.77.0.1:9", DEVICE, 0.2) is None


async def test_a_vanished_device_is_noticed_at_once(site: Namespace, netns: Namespace) -> None:
    netns.run("ip", "link", "delete", "t-site")
    async with asyncio.timeout(30):
        assert await probe("icmp://10.77.0.1", DEVICE, 60.0) is None


async def test_probes_never_take_another_device(site: Namespace, netns: Namespace) -> None:
    """The main table would lead elsewhere; a probe bound to the tunnel's device fails rather than be
    answered by it.
    """
    netns.run("ip", "address", "add", "10.99.0.1/32", "dev", "lo")
    assert await probe("icmp://10.99.0.1", ProbePath("lo", 173001), 30.0) is not None
    assert await probe("icmp://10.99.0.1", DEVICE, 0.2) is None


@asynccontextmanager
async def server(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """A TCP server on loopback; gives its port."""
    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-test\r\n")
    await reader.read()


async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 404 Not Found\r\n\r\n")
    writer.close()


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize(
    ("handle", "alive"), [(silent, False), (banner, True), (polite, True), (closes, False)]
)
async def test_through_a_proxy_only_received_bytes_count(netns: Namespace, handle, alive: bool) -> None:
    async with server(handle) as port:
        assert (await probe(f"tcp://127.0.0.1:{port}", PROXY, 4.0 if alive else 0.6) is not None) is alive


async def test_a_wait_for_a_banner_is_no_latency(netns: Namespace) -> None:
    """Of a server that speaks when it is spoken to: the probe waits 0.5 s (of 2) before it asks."""
    async with server(polite) as port:
        started = asyncio.get_running_loop().time()
        rtt = await probe(f"tcp://127.0.0.1:{port}", PROXY, 2.0)
        lasted = asyncio.get_running_loop().time() - started
    assert rtt is not None
    assert rtt < 0.3 < 0.5 <= lasted


@pytest.mark.parametrize(("handle", "alive"), [(silent, False), (polite, True), (closes, False)])
async def test_http_wants_an_answer(netns: Namespace, handle, alive: bool) -> None:
    async with server(handle) as port:
        assert (
            await probe(f"http://127.0.0.1:{port}/health", PROXY, 30.0 if alive else 0.4) is not None
        ) is alive


async def test_any_one_target_is_enough_and_the_first_answer_ends_the_round(site: Namespace) -> None:
    targets = ("icmp://10.77.0.9", "icmp://10.77.0.1")
    rounds = TargetRounds(configured(Probe, targets=targets, timeout="60s"), DEVICE)
    async with asyncio.timeout(30):
        assert await rounds.first_answer() is not None
    assert rounds.silent() is None, "the other one has its time"
    rounds.cancel()


async def test_of_each_target_it_is_known_whether_it_is_silent(site: Namespace) -> None:
    targets = ("icmp://10.77.0.9", "icmp://10.77.0.1")
    rounds = TargetRounds(configured(Probe, targets=targets, timeout="500ms"), DEVICE)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        started = loop.time()
        assert await rounds.first_answer() is not None
        assert loop.time() - started < 0.4, "a dead target does not hold up the round"
        async with asyncio.timeout(5):
            while (silent := rounds.silent()) is None:
                await asyncio.sleep(0.05)
        assert silent == ("icmp://10.77.0.9",)
        assert rounds.silent() is None, "nothing new since"


async def test_a_round_in_which_all_are_silent_tells_it_at_once(site: Namespace) -> None:
    targets = ("icmp://10.77.0.8", "icmp://10.77.0.9")
    rounds = TargetRounds(configured(Probe, targets=targets, timeout="200ms"), DEVICE)
    assert await rounds.first_answer() is None
    assert rounds.silent() == targets


async def test_rounds_follow_the_interval_and_hurry_after_a_miss(site: Namespace) -> None:
    seen: asyncio.Queue[Event] = asyncio.Queue()
    lane = asyncio.Event()
    loops = ProbeLoop(
        lambda event: isinstance(event, Probed) and seen.put_nowait(event), lane.wait, lambda: 0.5
    )
    loop = asyncio.get_running_loop()
    job = ProbeJob(
        "acme",
        3,
        configured(Probe, targets=("icmp://10.77.0.1",), interval="1500ms", timeout="500ms"),
        "t-site",
        173001,
    )
    loops.set({"acme": job})
    await asyncio.sleep(0)
    lane.set()
    first = await seen.get()
    assert (first.tunnel, first.session, isinstance(first, Probed) and first.rtt is not None) == (
        "acme",
        3,
        True,
    )
    threading.Thread(target=site.run, args=("ip", "link", "set", "eth0", "down")).start()
    while (await seen.get()).rtt is not None:
        pass
    started = loop.time()
    for _ in range(2):
        assert (await seen.get()).rtt is None
    assert loop.time() - started < 2.8  # two timeouts are 1 s, two intervals would be 3 s
    loops.set({})
    await loops.close()
    assert seen.empty()
