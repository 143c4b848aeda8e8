"""`close` in a real kernel: alone, beside what a daemon left, and beside one that runs."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from supervisor.kernel.closing import ClosingResult, close
from supervisor.kernel.nft.table import Nftables
from tests.kernel.lab import PLAN, KernelWorld, PacketStream, UplinkCapture, kernel, world
from tests.kernel.test_ruleset import GOLDEN
from tests.netns import Namespace

pytestmark = pytest.mark.root

DESTINATIONS = [carry.network for carry in PLAN.carries]
MORE = [ip_network("172.20.0.0/16"), ip_network("fd00:20::/48")]
DONE, NOTHING_TO_DO = ClosingResult(True), ClosingResult(False)


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    """A host that forwards, and has no tunnel."""
    with world(netns) as made:
        made.tunnel_down()
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            netns.run("sysctl", "-qw", setting)
        yield made


async def leaked(lab: KernelWorld) -> int:
    """Packets that left in clear, of about a hundred to each address."""
    capture, stream = UplinkCapture(lab), PacketStream(lab)
    await stream.packets(100)
    await stream.stop()
    return len(await capture.leaked())


@pytest.mark.parametrize("lost", ["", "nft flush ruleset", "ip route flush proto 173 and -6"])
async def test_each_layer_closes_alone_from_the_first_packet(lab: KernelWorld, lost: str) -> None:
    assert await leaked(lab) > 50, "the capture sees what leaks"
    assert await close(DESTINATIONS) == DONE
    match lost.split():
        case ["nft", *_]:
            lab.facilitator.run("nft", "flush", "ruleset")
        case ["ip", *_]:
            for family in ("-4", "-6"):
                lab.facilitator.run("ip", family, "route", "flush", "proto", "173")
    assert await leaked(lab) == 0


async def test_a_second_time_nothing_is_changed_and_what_was_lost_is_put_back(netns: Namespace) -> None:
    await close(DESTINATIONS)
    before = everything(netns)
    assert await close(DESTINATIONS) == NOTHING_TO_DO
    assert everything(netns) == before
    netns.run("nft", "flush", "ruleset")
    assert await close(DESTINATIONS) == DONE
    netns.run("ip", "route", "flush", "proto", "173")
    assert await close(DESTINATIONS) == DONE
    assert everything(netns).routes == before.routes


async def test_fewer_destinations_open_nothing(netns: Namespace) -> None:
    """What has left the configuration is opened by the daemon, and by nobody before."""
    await close([*DESTINATIONS, *MORE])
    before = everything(netns)
    assert await close(DESTINATIONS) == NOTHING_TO_DO
    assert everything(netns) == before


async def test_a_daemon_opens_what_has_left_the_configuration_meanwhile(netns: Namespace) -> None:
    await close([*DESTINATIONS, *MORE])
    async with kernel(PLAN) as held:
        await held.in_place()
    assert await close(DESTINATIONS) == NOTHING_TO_DO
    assert "172.20.0.0/16" not in "".join(everything(netns))


async def test_an_interface_that_comes_later_changes_nothing(lab: KernelWorld) -> None:
    await close(DESTINATIONS)
    lab.facilitator.run("ip", "link", "add", "new0", "type", "veth", "peer", "new1")
    lab.facilitator.run("ip", "link", "set", "new0", "up")
    lab.facilitator.run("ip", "addr", "add", "198.51.100.1/24", "dev", "new0")
    assert await leaked(lab) == 0


async def test_a_running_daemon_is_left_alone(lab: KernelWorld) -> None:
    lab.tunnel_up()
    async with kernel(PLAN) as held:
        before = everything(lab.facilitator)
        assert await close(DESTINATIONS) == ClosingResult(False, running=True)
        assert await close([*DESTINATIONS, *MORE]) == ClosingResult(False, running=True, open=tuple(MORE))
        assert everything(lab.facilitator) == before
        assert not held.notes


async def test_what_a_killed_daemon_left_goes_on_and_more_is_closed(lab: KernelWorld) -> None:
    """Also when somebody has changed the table meanwhile; then the next daemon takes over."""
    lab.tunnel_up()
    async with kernel(PLAN) as held:
        since = held.network.closed_since
    lab.facilitator.run("nft", "flush", "chain", "inet", "facilitator", "forward")
    before = await read()
    assert await close([*DESTINATIONS, *MORE]) == DONE
    assert {each for each in before if each.set not in ("destinations4", "destinations6")} <= await read()
    assert await leaked(lab) == 0
    async with kernel(PLAN) as held:
        await held.in_place()
        assert held.network.closed_since == since


async def test_the_table_of_another_version_goes_on(netns: Namespace) -> None:
    """Of one that does not know such destinations, nothing is left."""
    netns.run("nft", "-f", "-", input=GOLDEN.read_text().replace("VERSION", "rules of another version"))
    assert await close(MORE) == DONE
    listed = netns.run("nft", "list", "table", "inet", "facilitator").stdout
    assert "rules of another version" in listed
    assert "172.20.0.0/16" in listed
    assert "10.77.0.0/24 : 0x0002a3c9" in listed, "what it carries"
    netns.run("nft", "delete", "table", "inet", "facilitator")
    netns.run("nft", "add", "table", "inet", "facilitator")
    assert await close(MORE) == DONE
    assert "172.20.0.0/16" in netns.run("nft", "list", "set", "inet", "facilitator", "destinations4").stdout


async def test_it_says_since_when_the_host_is_closed(netns: Namespace) -> None:
    async def since() -> float | None:
        nftables = Nftables()
        nftables.open()
        await nftables.read()
        nftables.close()
        return nftables.closed_since

    assert await since() is None
    await close(DESTINATIONS)
    first = await since()
    async with kernel(PLAN) as held:  # it makes the table anew
        assert held.network.closed_since == first
    await close(MORE)
    assert await since() == first


class Everything(tuple[str, str, str]):
    """What stands in the kernel."""

    @property
    def routes(self) -> str:
        """Those of IPv4."""
        return self[1]


def everything(netns: Namespace) -> Everything:
    """With handles, so that what was made anew is seen."""
    return Everything(
        (
            netns.run("nft", "-s", "-a", "list", "ruleset").stdout,
            netns.run("ip", "route", "show", "table", "all", "proto", "173").stdout,
            netns.run("ip", "-6", "route", "show", "table", "all", "proto", "173").stdout,
        )
    )


async def read() -> frozenset:
    """The elements of our table."""
    nftables = Nftables()
    nftables.open()
    elements = (await nftables.read()).elements
    nftables.close()
    return elements
