"""Two facilitators, a router with BIRD: the route follows what works. The speakers run the example's very
text (examples/bird.conf), the router examples/bird-router.conf.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.app.preflight.birdc import bird
from supervisor.app.preflight.host import rules as policy_rules
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight.announcing import announcements
from supervisor.core.preflight.facts import HostFacts, PacketContext
from tests.lab.daemon import LabDaemon
from tests.lab.fleet import MEMBERS, VPN1, VPN2, Bird, FleetLab, LabMember
from tests.lab.network import DATACENTRE, DATACENTRE6, DATACENTRE_WEB
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root
EXAMPLES = Path(__file__).parents[2] / "examples"
LOG = "log stderr all;\n"  # by which the lab sees that it runs


def speaker_text(member: LabMember) -> str:
    """The example, with the addresses of this member in its first lines."""
    text = LOG + (EXAMPLES / "bird.conf").read_text()
    return text.replace(f"{VPN1.address}", f"{member.address}").replace(VPN1.address6, member.address6)


@contextlib.contextmanager
def routed(lab: FleetLab) -> Iterator[tuple[Bird, Mapping[LabMember, Bird]]]:
    """BIRD as the examples have it, on the router and beside both members."""
    text = LOG + (EXAMPLES / "bird-router.conf").read_text()
    router = Bird(lab.network["hub"], lab.directory, "router", text)
    with contextlib.ExitStack() as running:
        speakers = {member: lab.speaker(member, speaker_text(member)) for member in MEMBERS}
        for bird in (router, *speakers.values()):
            bird.start()
            running.callback(bird.stop)
        router.wait_established(2 * len(MEMBERS))
        yield router, speakers


def wait_best(router: Bird, protocol: str, network: object) -> None:
    """Wait until the router uses what came from this session."""
    best = re.compile(rf"\[{protocol} [^]]*\] \*")
    what = f"{network} leads to {protocol}"
    eventually(lambda: best.search(router.ask("show", "route", "for", str(network))), 20, what)


def test_the_examples_announce_what_stands_in_the_table_and_withdraw_with_the_interface() -> None:
    with FleetLab() as lab, routed(lab) as (router, _):
        here = lab.namespace_of(VPN1)
        here.run("ip", "link", "add", "t-acme", "up", "type", "veth", "peer", "name", "t-peer")
        here.run("ip", "link", "set", "t-peer", "up")
        for member, way, metric in ((VPN1, "dev t-acme", 90), (VPN2, "blackhole", 100)):
            for family, network in (("-4", DATACENTRE), ("-6", DATACENTRE6)):
                kind = f"blackhole {network}" if way == "blackhole" else f"{network} {way}"
                words = f"ip {family} route add {kind} table 173 proto 173 metric {metric}"
                lab.namespace_of(member).run(*words.split())
        lab.wait_via(VPN1)
        wait_best(router, "vpn1_v6", DATACENTRE6)
        here.run(
            "ip",
            "route",
            "add",
            "192.0.2.0/24",
            *["dev", "t-acme", "table", "173", "proto", "173", "metric", "90"],
        )
        here.run(*f"ip route add {DATACENTRE} dev t-acme table 173 proto 173 metric 5000".split())
        here.run(*f"ip route del {DATACENTRE} dev t-acme table 173 proto 173 metric 90".split())
        lab.wait_via(VPN2)
        drained = router.ask("show", "route", "all", "for", str(DATACENTRE))
        assert re.search(r"BGP.med: 5000", drained)
        assert re.search(r"BGP.community: \(65535,0\)", drained)
        here.run("ip", "link", "del", "t-acme")
        wait_best(router, "vpn2_v6", DATACENTRE6)
        assert "192.0.2.0" not in router.ask("show", "route")  # not one of the customers' networks


@dataclass(frozen=True)
class AnnouncingFleet:
    """Both daemons, with BIRD beside each and on the router."""

    lab: FleetLab
    router: Bird
    speakers: Mapping[LabMember, Bird]
    daemons: Mapping[LabMember, LabDaemon]

    def metric(self, member: LabMember) -> float:
        """With which this member announces the datacentre."""
        return self.daemons[member].metric("facilitator_fleet_announced", destination=str(DATACENTRE))

    def wait_metric(self, member: LabMember, *metrics: int) -> None:
        """Wait until it is one of these."""
        what = f"{member.name} announces {DATACENTRE} with {metrics}"
        eventually(lambda: self.metric(member) in metrics, 20, what)

    def announced(self, member: LabMember) -> list[str]:
        """What this member announces."""
        tunnels = self.daemons[member].status()["tunnels"]
        return [each["destination"] for tunnel in tunnels for each in tunnel["announced"]]

    def doctor(self, member: LabMember) -> list[str]:
        """What `doctor` finds about announcements, problems first."""
        plan = NetworkPlan(announced_in=173)
        with self.lab.namespace_of(member).entered():
            facts = HostFacts(
                bird=bird(plan, [self.speakers[member].socket]),
                rules=policy_rules(),
                context=PacketContext(plan),
            )
        return sorted(f"{each.severity.value}: {each.text}" for each in announcements(facts))[::-1]

    def carries(self, member: LabMember, network: str = "10.77.0.0_24") -> tuple[int, str]:
        """What a load balancer's health check gets."""
        return self.daemons[member].get(f"/healthz/carries/{network}")


@pytest.fixture(scope="module")
def living() -> Iterator[AnnouncingFleet]:
    with FleetLab() as lab, routed(lab) as (router, speakers), contextlib.ExitStack() as running:
        lab.shared_server()
        daemons = {}
        for member in MEMBERS:
            daemons[member] = lab.member_daemon(member, lab.member_configuration(member))
            daemons[member].start()
            running.callback(daemons[member].end)
        for daemon in daemons.values():
            daemon.wait_well()
        made = AnnouncingFleet(lab, router, speakers, daemons)
        for member in MEMBERS:
            made.wait_metric(member, 90, 100)
        yield made


def carrier(living: AnnouncingFleet) -> tuple[LabMember, LabMember]:
    """The member that the router sends the datacentre to, once it knows that, and the other one."""
    address = eventually(living.lab.via, 20, "somebody carries the datacentre")
    first = next(member for member in MEMBERS if member.address == address)
    living.wait_metric(first, 90)
    other = next(member for member in MEMBERS if member != first)
    living.wait_metric(other, 100)
    return first, other


def test_the_route_follows_what_works_and_stays_where_it_is(living: AnnouncingFleet) -> None:
    lab = living.lab
    with lab.poller(DATACENTRE_WEB) as poller:
        poller.wait_settled(20)
        first, other = carrier(living)
        assert living.carries(first) == living.carries(other, "10.77.0.0/24") == (200, "ok\n")
        assert living.carries(first, "10.77.0.0%2F24")[0] == 200
        assert living.carries(first, "10.99.0.0_24")[0] == 404
        told = living.daemons[first].cli("why", str(DATACENTRE_WEB))
        assert "announced with metric 90 since 2" in told.stdout
        assert "dev t-acme-dc table 173 metric 90\n" in living.daemons[first].cli("plan").stdout
        # Its tunnel passes nothing any more, although its session and its host live on.
        session = living.daemons[first].replaced("acme-dc")
        lab.network.blackhole(first.uplink)
        start = time.monotonic()
        lab.wait_via(other)
        moved = time.monotonic() - start
        print(f"blackholed, moved after {moved:.2f} s")
        healed = poller.wait_settled(20, start) - start
        print(f"blackholed, answers after {healed:.2f} s")
        assert healed < 4.0 * NOISE
        assert living.carries(first)[0] == 503
        assert living.daemons[first].tunnel("acme-dc")["phase"] == "up"
        lab.network.unblock(first.uplink)
        assert not session()
        living.wait_metric(first, 200, 100)
        living.wait_metric(first, 100)
        living.wait_metric(other, 90)
        assert lab.via() == other.address
        # A planned end.
        start = time.monotonic()
        assert living.daemons[other].cli("stop", "acme-dc").returncode == 0
        lab.wait_via(first)
        assert living.metric(other) == 0
        assert living.carries(other) == (503, "acme-dc does not work: stopped, unknown\n")
        poller.wait_settled(20, time.monotonic())
        assert poller.outage(start).failed == 0, poller.outage(start)
        assert living.daemons[other].cli("start", "acme-dc").returncode == 0
        living.wait_metric(first, 90)
        living.wait_metric(other, 100)


def test_the_doctor_sees_what_keeps_routers_from_being_told(living: AnnouncingFleet) -> None:
    here = living.lab.namespace_of(VPN1)
    told = [str(network) for network in living.announced(VPN1)]
    assert living.doctor(VPN1) == [
        f"ok: upstream{version} is up and tells its router of {count} destinations"
        for version, count in ((6, sum(":" in each for each in told)), (4, sum("." in each for each in told)))
    ]
    assert len(told) >= 2
    here.run(*["ip", "route", "add", "blackhole", "192.0.2.0/24", "table", "173", "proto", "static"])
    here.run(*["ip", "rule", "add", "from", "192.0.2.0/24", "lookup", "173"])
    try:
        first, second, *_ = living.doctor(VPN1)
        assert first.startswith("problem: table 173 is used by others, too: 192.0.2.0/24")
        assert second.startswith("problem: policy rules lead to table 173")
    finally:
        here.run(*["ip", "rule", "del", "from", "192.0.2.0/24", "lookup", "173"])
        here.run(*["ip", "route", "del", "blackhole", "192.0.2.0/24", "table", "173"])
    speaker = living.speakers[VPN1]
    speaker.ask("disable", "facilitator4")
    eventually(
        lambda: living.doctor(VPN1)[0].startswith("problem: no kernel protocol of BIRD reads table 173"),
        20,
        "it is seen that BIRD does not read the table",
    )
    speaker.ask("enable", "facilitator4")
    speaker.ask("disable", "upstream6")
    eventually(
        lambda: living.doctor(VPN1)[0].startswith("problem: the BGP session upstream6 is not up"),
        20,
        "it is seen that a session is down",
    )
    speaker.ask("enable", "upstream6")
    living.router.wait_established(2 * len(MEMBERS))


def test_nothing_is_lost_when_a_member_drains(living: AnnouncingFleet) -> None:
    lab = living.lab
    with lab.poller(DATACENTRE_WEB) as poller:
        poller.wait_settled(20)
        first, other = carrier(living)
        start = time.monotonic()
        with lab.flood(DATACENTRE_WEB) as flood:
            living.daemons[first].signal(signal.SIGTERM)
            lab.wait_via(other)
            time.sleep(0.5)  # what was under way has arrived
            living.daemons[first].signal(signal.SIGTERM)  # nobody waits for the entries of idle datagrams
            living.daemons[first].ended()
            poller.wait_settled(20, time.monotonic())
        assert lab.via() == other.address
        assert flood.sent - flood.echoed <= 0
        assert poller.outage(start).failed == 0
        living.daemons[first].start()
        living.daemons[first].wait_well()


def test_an_interface_that_goes_is_withdrawn_though_the_daemon_is_dead(living: AnnouncingFleet) -> None:
    lab = living.lab
    with lab.poller(DATACENTRE_WEB) as poller:
        poller.wait_settled(20)
        first, other = carrier(living)
        before, start = living.daemons[first].client_pids("openvpn"), time.monotonic()
        living.daemons[first].kill9()
        time.sleep(0.5)  # nothing moves
        assert lab.via() == first.address
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        lab.wait_via(other)
        poller.wait_settled(20, time.monotonic())
        print("daemon dead, then its client:", poller.outage(start))
        assert poller.outage(start).seconds < 1.0 * NOISE
        living.daemons[first].start()
        living.daemons[first].wait_well()
