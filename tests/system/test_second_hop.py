"""The second hop end to end: two real daemons with the same customers, and a router that moves the routes.
Nothing tells the members of a move.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.lab.fleet import MEMBERS, VPN1, VPN2, FleetLab, LabMember
from tests.lab.network import CLOUD, CLOUD6, CLOUD_WEB, DATACENTRE, DATACENTRE_WEB, STAFF6
from tests.lab.traffic import Streams
from tests.lab.wait import NOISE

pytestmark = pytest.mark.root
CLOUD_WEB6 = IPv6Address("fd00:90::10")
SERVERS = ((DATACENTRE_WEB, 50), (CLOUD_WEB, 10), (CLOUD_WEB6, 5))  # and how many connections to each
MOVED_AFTER = 0.3  # seconds after the death of a member: BFD of 100 ms x 3
TOLD_WITHIN = 2.0  # seconds after that death: each of its connections is reset


def lead_to(lab: FleetLab, member: LabMember) -> None:
    """The router sends all destinations to this member from now on."""
    hub = lab.network["hub"]
    for network in (DATACENTRE, CLOUD):
        hub.run("ip", "route", "replace", str(network), "via", str(member.address))
    hub.run("ip", "-6", "route", "replace", str(CLOUD6), "via", member.address6)


@pytest.fixture(scope="module")
def lab() -> Iterator[FleetLab]:
    """Both members are well."""
    with FleetLab() as made, contextlib.ExitStack() as running:
        made.shared_server()
        daemons = []
        for member in MEMBERS:
            config = made.member_configuration(member)
            config["defaults"] = {"probe": {"interval": "500ms", "timeout": "500ms"}}
            config["staff"]["networks"].append(str(STAFF6))
            config["tunnels"]["own-cloud"]["destinations"].append(str(CLOUD6))
            daemons.append(running.enter_context(made.member_daemon(member, config)))
        for daemon in daemons:
            daemon.wait_well()
        yield made


@contextlib.contextmanager
def streaming(lab: FleetLab) -> Iterator[list[Streams]]:
    """Connections to all servers, which begin at the first member."""
    lead_to(lab, VPN1)
    with contextlib.ExitStack() as running:
        yield [running.enter_context(Streams(lab.network["laptop"], *server)) for server in SERVERS]


def test_streams_live_through_moves_of_the_route(lab: FleetLab) -> None:
    with streaming(lab) as several:
        for member in (VPN2, VPN1, VPN2):
            lead_to(lab, member)
            time.sleep(0.5)
        assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
    for streams in several:
        assert (streams.broken, streams.echoed) == (0, streams.sent)
        assert streams.echoed
        assert streams.gap <= 0.1 * NOISE


def test_streams_of_a_dead_member_are_reset(lab: FleetLab) -> None:
    with streaming(lab) as several:
        died = time.monotonic()
        with lab.silent(VPN1):
            time.sleep(max(0.0, died + MOVED_AFTER - time.monotonic()))
            lead_to(lab, VPN2)
            for streams in several:
                streams.wait_over(TOLD_WITHIN)
            told = time.monotonic() - died
            assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
    assert told <= TOLD_WITHIN * NOISE
    assert all(streams.broken for streams in several)
