"""Two facilitators, a router with BIRD: the route follows what works. The speakers run the example's very
text (examples/bird.conf), the router examples/bird-router.conf.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.daemon import LabDaemon
from tests.lab.fleet import MEMBERS, VPN1, VPN2, Bird, FleetLab, LabMember
from tests.lab.network import DATACENTRE, DATACENTRE6
from tests.lab.wait import eventually

pytestmark = pytest.mark.root
EXAMPLES = Path(__file__).parents[2] / "examples"
LOG = "log stderr all;\n"  # by which the lab sees that it runs


def speaker_text(member: LabMember) -> str:
    """The example, with the addresses of this member in its first lines."""
    text = LOG + (EXAMPLES / "bird.conf").read_text()
    return text.replace(f"{VPN1.address}", f"{member.address}").replace(VPN1.address6, member.address6)


@contextlib.contextmanager
def routed(lab: FleetLab) -> Iterator[Bird]:
    """BIRD as the examples have it, on the router and beside both members."""
    text = LOG + (EXAMPLES / "bird-router.conf").read_text()
    router = Bird(lab.network["hub"], lab.directory, "router", text)
    with contextlib.ExitStack() as running:
        for bird in (router, *(lab.speaker(member, speaker_text(member)) for member in MEMBERS)):
            bird.start()
            running.callback(bird.stop)
        router.wait_established(2 * len(MEMBERS))
        yield router


def test_the_examples_announce_what_stands_in_the_table_and_withdraw_with_the_interface() -> None:
    with FleetLab() as lab, routed(lab) as router:
        here = lab.namespace_of(VPN1)
        here.run("ip", "link", "add", "t-acme", "up", "type", "veth", "peer", "name", "t-peer")
        here.run("ip", "link", "set", "t-peer", "up")
        for member, way, metric in ((VPN1, "dev t-acme", 90), (VPN2, "blackhole", 100)):
            for family, network in (("-4", DATACENTRE), ("-6", DATACENTRE6)):
                kind = f"blackhole {network}" if way == "blackhole" else f"{network} {way}"
                words = f"ip {family} route add {kind} table 173 proto 173 metric {metric}"
                lab.namespace_of(member).run(*words.split())
        lab.wait_via(VPN1)
        lab.wait_via(VPN1, DATACENTRE6)
        here.run("ip", "route", "add", "192.0.2.0/24", *"dev t-acme table 173 proto 173 metric 90".split())
        here.run(*f"ip route add {DATACENTRE} dev t-acme table 173 proto 173 metric 5000".split())
        here.run(*f"ip route del {DATACENTRE} dev t-acme table 173 proto 173 metric 90".split())
        lab.wait_via(VPN2)
        drained = router.ask("show", "route", "all", "for", str(DATACENTRE))
        assert re.search(r"BGP.med: 5000", drained)
        assert re.search(r"BGP.community: \(65535,0\)", drained)
        here.run("ip", "link", "del", "t-acme")
        lab.wait_via(VPN2, DATACENTRE6)
        assert "192.0.2.0" not in router.ask("show", "route")  # not one of the customers' networks


@contextlib.contextmanager
def fleet(lab: FleetLab) -> Iterator[dict[LabMember, LabDaemon]]:
    """Both daemons run, with their tunnels up."""
    daemons = {}
    with contextlib.ExitStack() as running:
        for member in MEMBERS:
            daemon = lab.member_daemon(member, lab.member_configuration(member))
            running.enter_context(daemon)
            daemons[member] = daemon
        yield daemons


def announced(lab: FleetLab, member: LabMember, network: object = DATACENTRE) -> list[int]:
    """The metrics in this member's table."""
    done = lab.namespace_of(member).run("ip", "route", "show", str(network), "table", "173", check=False)
    return sorted(int(line.split("metric ")[1].split()[0]) for line in done.stdout.splitlines())
