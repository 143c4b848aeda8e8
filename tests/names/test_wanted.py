"""What the name service is told of a tunnel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from common.plain import from_plain, plain
from supervisor.core.identity.book import Holding
from supervisor.core.names.values import NamesOfTunnel
from supervisor.core.names.wanted import admitted, by_person, names_of
from supervisor.core.network.admission import KnownPeople
from supervisor.core.state import Failure, Health, Phase, Session, SessionState, TunnelState
from tunnels.base import Reason
from tunnels.names import TunnelNames
from tunnels.settings import Allowance, Destination, Tunnel

NAMES = TunnelNames(domains=("acme.internal",), servers=("10.0.0.53",))
MAPPED = Destination(network=ip_network("10.0.0.0/16"), presented_as=ip_network("100.64.0.0/16"))


def tunnel(**more: object) -> Tunnel:
    return Tunnel(name="acme-dc", kind="openvpn", **({"names": NAMES, "destinations": (MAPPED,)} | more))


def state(**more: object) -> TunnelState:
    session = Session(1, device="t-acme-dc", slot=1, name_servers=(ip_address("10.0.0.99"),))
    about = {"session": session, "phase": Phase.UP, "reason": Reason.CONNECTED, "since": 60.0} | more
    return TunnelState(active=SessionState(**about))


def test_a_tunnel_that_is_up_is_asked_through_its_lane() -> None:
    found = names_of(tunnel(), state(), 173001, {}, 0.0)
    assert (found.mark, found.device, found.down, found.allowed) == (174001, "t-acme-dc", "", None)
    assert found.servers == (ip_address("10.0.0.53"),)
    assert str(found.networks[0].presented) == "100.64.0.0/16"
    assert from_plain(NamesOfTunnel, plain(found)) == found


def test_servers_that_the_gateway_pushes() -> None:
    pushed = tunnel(names=replace(NAMES, servers=("pushed",)))
    assert names_of(pushed, state(), 173001, {}, 0.0).servers == (ip_address("10.0.0.99"),)
    none = names_of(pushed, state(session=Session(1, device="t-acme-dc")), 173001, {}, 0.0)
    assert none.down == "acme-dc: its gateway pushes no name server; set names.servers"


def test_why_a_tunnel_cannot_be_asked() -> None:
    failure = Failure(Reason.DNS, "no probe was answered", 70.0)
    sick = state(health=Health.UNHEALTHY, failure=failure)
    assert names_of(tunnel(), sick, 173001, {}, 0.0).down == (
        "acme-dc is unhealthy since 00:01 UTC: no probe was answered"
    )
    assert names_of(tunnel(), TunnelState(), 173001, {}, 0.0).down.startswith(
        "acme-dc is down since 00:00 UTC: "
    )


def test_who_may_ask() -> None:
    rules = (Allowance(segment="engineers"), Allowance(group="oncall"), Allowance(person="eve"))
    segments = {"engineers": (ip_network("10.8.1.0/24"),)}
    allowing = tunnel(allow=rules)
    people = KnownPeople(
        {
            ip_address("10.8.2.1"): Holding(b"", "alice", "1", 0.0, groups=("oncall",)),
            ip_address("10.8.2.2"): Holding(b"", "bob", "2", 0.0),
            ip_address("10.8.2.3"): Holding(b"", "eve", "3", 0.0),
        },
        until=100.0,
    )
    let_in = admitted(by_person(allowing), people, 50.0, 50.0)
    found = names_of(allowing, state(), 173001, segments, 0.0, let_in)
    assert [str(network) for network in found.allowed or ()] == ["10.8.1.0/24", "10.8.2.1/32", "10.8.2.3/32"]
    assert admitted(by_person(allowing), people, 100.0, 100.0) == (), "what is known is too old"
