"""Path-MTU probes against a real narrow link behind the tunnel: 1500 bytes to the router, fewer after
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from supervisor.core.events import Event, PathMtu, Probed
from supervisor.core.session.jobs import ProbeJob
from supervisor.probes.pmtu import path_mtu
from supervisor.probes.prober import ProbeLoop
from supervisor.probes.targets import ProbePath
from tests.netns import Namespace, link
from tests.settings import configured
from tunnels.settings import Probe

pytestmark = pytest.mark.root
DEVICE = ProbePath("t-site", 173001)
HOST, HOST6 = "icmp://10.77.0.10", "icmp://[fd77::10]"
NO_ERRORS = """
table inet silent {
  chain out { type filter hook output priority 0; icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }
}
"""


@dataclass
class RoutedSite:
    """A router at the tunnel's far end, and a host behind a link of its own."""

    router: Namespace
    host: Namespace

    def narrow(self, mtu: int) -> None:
        """From now on the link takes packets of up to `mtu` bytes."""
        self.router.run("ip", "link", "set", "inside", "mtu", str(mtu))

    def silent(self) -> None:
        """The router tells nobody what it drops."""
        self.router.run("nft", "-f", "-", input=NO_ERRORS)


@pytest.fixture
def site(netns: Namespace) -> Iterator[RoutedSite]:
    made = RoutedSite(Namespace("router"), Namespace("host"))
    try:
        netns.run("sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
        for space in (
            netns,
            made.router,
            made.host,
        ):  # a router's own addresses are else not usable for a second or two
            space.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        link(netns, "t-site", made.router, "tunnel")
        link(made.router, "inside", made.host, "eth0")
        for space, device, *addresses in (
            (netns, "t-site", "10.78.0.2/24", "fd78::2/64"),
            (made.router, "tunnel", "10.78.0.1/24", "fd78::1/64"),
            (made.router, "inside", "10.77.0.1/24", "fd77::1/64"),
            (made.host, "eth0", "10.77.0.10/24", "fd77::10/64"),
        ):
            for address in addresses:
                space.run(
                    "ip", "address", "add", address, "dev", device, *(("nodad",) if ":" in address else ())
                )
        made.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for space, network, gateway in (
            (netns, "10.77.0.0/24", "10.78.0.1"),
            (netns, "fd77::/64", "fd78::1"),
            (made.host, "default", "10.77.0.1"),
            (made.host, "::/0", "fd77::1"),
        ):
            space.run("ip", "route", "add", network, "via", gateway)
        yield made
    finally:
        made.router.remove()
        made.host.remove()


@pytest.mark.parametrize(("target", "mtu"), [(HOST, 1300), (HOST, 1499), (HOST, 577), (HOST6, 1317)])
async def test_a_silent_narrow_link_is_measured_exactly(site: RoutedSite, target: str, mtu: int) -> None:
    site.silent()
    site.narrow(mtu)
    assert await path_mtu([target], DEVICE, 5.0) == mtu


@pytest.mark.parametrize("target", [HOST, HOST6])
async def test_a_link_that_tells_is_measured_too(site: RoutedSite, target: str) -> None:
    site.narrow(1400)
    assert await path_mtu([target], DEVICE, 5.0) == 1400


@pytest.mark.parametrize("target", [HOST, HOST6])
async def test_a_path_as_wide_as_the_device_takes_two_packets(
    site: RoutedSite, netns: Namespace, target: str
) -> None:
    assert await path_mtu([target], DEVICE, 5.0) == 1500
    netns.run("ip", "link", "set", "t-site", "mtu", "1381")
    assert await path_mtu([target], DEVICE, 5.0) == 1381


async def test_lost_packets_are_no_verdict(site: RoutedSite) -> None:
    site.router.run(
        "nft",
        "add table inet loss; add chain inet loss f { type filter hook forward priority 0; }; "
        "add rule inet loss f numgen inc mod 3 == 2 drop",
    )
    site.narrow(1350)
    site.silent()
    assert await path_mtu([HOST], DEVICE, 5.0) == 1350


async def test_the_next_target_is_asked_where_the_first_is_silent(site: RoutedSite, netns: Namespace) -> None:
    site.narrow(1420)
    assert await path_mtu(["tcp://10.77.0.99:80", "http://10.77.0.10:8080/"], DEVICE, 1.5) == 1420
    assert await path_mtu(["icmp://10.77.0.99"], DEVICE, 1.5) is None
    netns.run("ip", "link", "delete", "t-site")
    async with asyncio.timeout(30):
        assert await path_mtu([HOST], DEVICE, 60.0) is None


DEAF = """
table inet deaf {
  chain in { type filter hook input priority 0; icmp type echo-request drop; icmpv6 type echo-request drop; }
}
"""
WEB = """
import http.server, socket, sys
class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)
    def log_message(self, *_):
        pass
server = Server(("::", 8080), Handler)
if len(sys.argv) > 1:
    server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, int(sys.argv[1]))
print("serving", flush=True)
server.serve_forever()
"""
URL, URL6 = "http://10.77.0.10:8080/", "http://[fd77::10]:8080/"


@contextlib.contextmanager
def web(site: RoutedSite, *arguments: str) -> Iterator[None]:
    """An HTTP server on the host, which does not answer echo requests."""
    site.host.run("nft", "-f", "-", input=DEAF)
    server = site.host.popen(sys.executable, "-I", "-S", "-c", WEB, *arguments, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        yield
    finally:
        server.kill()
        server.communicate()


# A size that is dropped in silence costs the whole patience; of these only the largest is.
@pytest.mark.parametrize(
    ("url", "mtu", "silent"), [(URL, 1499, True), (URL6, 1499, True), (URL, 1300, False), (URL6, 1317, False)]
)
async def test_a_web_server_that_is_deaf_to_pings_tells_as_well(
    site: RoutedSite, url: str, mtu: int, silent: bool
) -> None:
    if silent:
        site.silent()
    site.narrow(mtu)
    with web(site):
        assert await path_mtu([url], DEVICE, 3.0) == mtu


async def test_a_wide_path_and_a_server_that_takes_less(site: RoutedSite) -> None:
    with web(site):
        assert await path_mtu([URL], DEVICE, 1.5) == 1500
    with web(site, "1200"):
        assert await path_mtu([URL], DEVICE, 1.5) is None  # what the path would take is not to be seen
    assert await path_mtu([URL, "tcp://10.77.0.10:8080"], DEVICE, 1.5) is None  # nobody listens any more


async def test_the_search_runs_beside_the_rounds_and_once_a_session(site: RoutedSite) -> None:
    site.silent()
    site.narrow(1400)
    seen: asyncio.Queue[Event] = asyncio.Queue()
    loops = ProbeLoop(seen.put_nowait, asyncio.Event().wait, lambda: 0.5)
    settings = configured(Probe, targets=(HOST,), interval="100ms", timeout="100ms")
    loops.set(
        {
            "acme": ProbeJob("acme", 3, settings, "t-site", 173001),
            "cloud": ProbeJob("cloud", 1, settings, None, 173002),
        }
    )
    events: list[Event] = []
    async with asyncio.timeout(60):
        while not any(isinstance(event, PathMtu) for event in events):
            events.append(await seen.get())
    assert events[-1] == PathMtu("acme", 3, 1400)
    answered = [
        event
        for event in events
        if isinstance(event, Probed) and event.tunnel == "acme" and event.rtt is not None
    ]
    assert len(answered) > 3
    await loops.close()
