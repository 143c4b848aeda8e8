"""Which addresses on a tunnel's interface collide, and with whom."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from supervisor.core import events as ev
from supervisor.core.network.failover import directory
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.network.running_flows import left_behind, left_over, overshadowed, to_forget
from supervisor.core.session.address_conflict import AddressesInUse, conflict, unusable
from supervisor.core.state import Phase, Session, connected
from tests.core.test_machine import TUNNEL, run, started
from tunnels.base import Connected, Reason
from tunnels.settings import Destination, Tunnel

AROUND = AddressesInUse(
    staff=(ip_network("10.8.0.0/16"), ip_network("fd00:8::/64")),
    own={ip_address("198.51.100.2"): "interface eth0"},
    next_hops=frozenset({ip_address("198.51.100.1")}),
    resolvers=frozenset({ip_address("203.0.113.53"), ip_address("2001:db8::53")}),
    gateways={ip_address("203.0.113.2"): "acme"},
    assigned={ip_address("10.78.0.2"): "acme"},
    destinations=((ip_network("10.77.0.0/24"), "acme"), (ip_network("fd00:77::/64"), "acme")),
)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.8.0.2", "in staff.networks (10.8.0.0/16)"),
        ("fd00:8::99", "in staff.networks (fd00:8::/64)"),
        ("198.51.100.2", "an address of this host (interface eth0)"),
        ("198.51.100.1", "the next hop of a route of this host"),
        ("203.0.113.53", "a DNS resolver of this host"),
        ("2001:db8::53", "a DNS resolver of this host"),
        ("203.0.113.2", "the remote gateway of tunnel acme"),
        ("10.78.0.2", "also the address of tunnel acme"),
        ("10.77.0.10", "in 10.77.0.0/24, a destination of tunnel acme"),
        ("fd00:77::1", "in fd00:77::/64, a destination of tunnel acme"),
    ],
)
def test_what_somebody_needs_is_a_conflict(address: str, words: str) -> None:
    assert conflict(ip_address(address), AROUND) == f"the remote gateway assigned {address}, which is {words}"


@pytest.mark.parametrize("address", ["10.79.0.2", "192.0.2.7", "fd00:78::2", "169.254.3.4", "100.64.0.1"])
def test_what_nobody_needs_is_none(address: str) -> None:
    assert conflict(ip_address(address), AROUND) is None


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"]
)
def test_no_host_can_have_it(address: str) -> None:
    assert conflict(ip_address(address), AddressesInUse()) == unusable(ip_address(address)) is not None


@pytest.mark.parametrize(
    "what", [Connected("127.0.0.1"), Connected(address6="ff02::1"), Connected("10.78.0.2", address6="::")]
)
def test_a_session_with_such_an_address_ends(what: Connected) -> None:
    before = started()
    state, actions = run(before, ev.ClientSaid(TUNNEL.name, before.session.number, what))
    assert (state.phase, state.reason, state.failure is not None) == (
        Phase.STOPPING,
        Reason.ADDRESS_CONFLICT,
        True,
    )
    assert isinstance(actions[-1], ev.Terminate)


OLD, NEW = (ip_address("10.78.0.2"),), (ip_address("10.78.0.3"),)
A, B = Lane("a", 173001, "t-a", True, addresses=OLD), Lane("b", 173002, "t-b", True, addresses=NEW)
NET, OTHER = ip_network("10.77.0.0/24"), ip_network("10.66.0.0/24")
BOTH = NetworkPlan(lanes=(A, B), carries=(Carry(NET, A.number, NET), Carry(OTHER, A.number, OTHER)))
KNOWN = {A.number: OLD, B.number: NEW}
DOWN = replace(A, up=False, addresses=())


@pytest.mark.parametrize(
    ("after", "lanes"),
    [
        (BOTH, ()),  # nothing has changed
        (replace(BOTH, lanes=(DOWN, B)), ()),  # it will come back
        (replace(BOTH, lanes=(replace(A, addresses=NEW), B)), (A.number,)),  # with another address
        (
            replace(BOTH, lanes=(DOWN, B), carries=(Carry(NET, B.number, NET), BOTH.carries[1])),
            (A.number,),
        ),  # a part is carried elsewhere
        (
            replace(BOTH, carries=(Carry(NET, B.number, NET), BOTH.carries[1])),
            (),
        ),  # running flows go on where they are
        (replace(BOTH, lanes=(B,), carries=()), (A.number,)),  # it is gone
    ],
)
def test_flows_that_cannot_go_on_as_they_are(after: NetworkPlan, lanes: tuple[int, ...]) -> None:
    assert to_forget(BOTH, after, KNOWN, left_behind(BOTH, after)) == lanes


def test_a_lane_of_which_nothing_is_known_begins_without_flows() -> None:
    assert to_forget(NetworkPlan(), BOTH, {}, ()) == (A.number, B.number)


def test_flows_that_an_earlier_daemon_has_left_in_a_lane_that_nobody_needs_any_more() -> None:
    gone = 173009
    assert left_over({A.number, B.number, gone}, BOTH) == (gone,)
    assert left_over({A.number, gone}, replace(BOTH, lanes=(DOWN, B))) == (gone,), (
        "a lane that carries something comes back"
    )
    assert left_over({A.number}, NetworkPlan(lanes=(DOWN, B), carries=(Carry(NET, B.number, NET),))) == (
        A.number,
    )


def test_flows_that_stayed_in_a_lane_when_their_destination_went_elsewhere_do_not_wait_for_it() -> None:
    moved = replace(BOTH, carries=(Carry(NET, B.number, NET), BOTH.carries[1]))
    behind = left_behind(BOTH, moved)
    assert (behind, to_forget(BOTH, moved, KNOWN, behind)) == ({A.number}, ())
    closed = replace(moved, lanes=(DOWN, B))
    assert to_forget(moved, closed, KNOWN, ()) == (), "it carries something, so it will come back"
    assert to_forget(moved, closed, KNOWN, behind) == (A.number,)


def test_after_a_restart_it_is_known_where_such_flows_may_be() -> None:
    tunnels = [
        Tunnel(name=name, kind="pipe", destinations=(Destination(network=NET), Destination(network=own)))
        for name, own in (("a", OTHER), ("b", ip_network("10.65.0.0/24")))
    ]
    plan = replace(
        BOTH, carries=(Carry(NET, B.number, NET), BOTH.carries[1]), directory=directory(tunnels, {})
    )
    assert overshadowed(plan) == {A.number}
    assert overshadowed(replace(plan, directory=directory(tunnels[:1], {}))) == set()
    assert overshadowed(NetworkPlan()) == set()


@pytest.mark.parametrize(
    ("said", "addresses"),
    [
        (Connected("10.78.0.3", address6="fd00::3"), ["10.78.0.3", "fd00::3"]),
        (Connected("10.78.0.3"), ["10.78.0.3"]),
        (Connected(), ["10.78.0.2", "fd00::2"]),
    ],
)
def test_a_client_that_connects_again_names_all_of_its_addresses_or_none(
    said: Connected, addresses: list[str]
) -> None:
    session = connected(Session(1), Connected("10.78.0.2", address6="fd00::2"), 1.0, again=False)
    assert [str(each) for each in connected(session, said, 2.0, again=True).assigned] == addresses
