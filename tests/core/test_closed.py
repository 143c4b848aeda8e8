"""What closes the host is added to what the kernel holds, and nothing is taken away."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network.changes import Op, diff
from supervisor.core.network.closed import closed, still_open
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Element, Layout, Route
from supervisor.core.network.wanted import wanted
from tests.kernel.test_bulk import networks
from tests.kernel.test_layout import HOST, LIMITED

RUNNING = wanted(LIMITED, HOST)  # a daemon's, with lanes that carry
some = st.lists(networks, max_size=6)


@given(some)
def test_it_is_closed_at_once_and_for_good(destinations: list) -> None:
    once = closed(Layout(), destinations, (4, 6))
    assert still_open(once, destinations, (4, 6)) == ()
    assert closed(once, destinations, (4, 6)) == once
    assert once.table


@given(some)
def test_what_carries_goes_on(destinations: list) -> None:
    more = closed(RUNNING, destinations, (4, 6))
    assert more.routes >= RUNNING.routes
    assert more.rules == RUNNING.rules
    lost = RUNNING.elements - more.elements
    assert {element.set for element in lost} <= {"destinations4", "destinations6"}, (
        "they became larger intervals"
    )


@given(some, some)
def test_it_grows_as_the_daemon_would_write_it(before: list, after: list) -> None:
    grown = closed(closed(Layout(), before, (4, 6)), after, (4, 6))
    assert grown == closed(Layout(), [*before, *after], (4, 6))


def test_the_daemons_own_destinations_are_closed_by_what_it_wants() -> None:
    assert closed(RUNNING, [carry.network for carry in LIMITED.carries], HOST.versions) == RUNNING


def test_one_layer_alone_is_not_enough() -> None:
    network = ip_network("10.77.0.0/24")
    route = Layout(routes=frozenset({Route(network, 254, 20_000)}))
    element = Layout(table=True, elements=frozenset({Element("destinations4", (Interval.of(network),))}))
    assert still_open(route, [network], (4,)) == (network,)
    assert still_open(element, [network], (4,)) == (network,)


def test_without_ipv6_there_are_no_routes_of_it() -> None:
    assert closed(Layout(), [ip_network("fd00:77::/64")], (4,)).routes == frozenset()


def test_a_larger_network_replaces_its_parts_in_one_transaction() -> None:
    parts = closed(Layout(), [ip_network("10.77.0.0/24")], (4,))
    changes = diff(parts, closed(parts, [ip_network("10.77.0.0/16")], (4,)))
    assert [change.op for change in changes if change.concerns_nftables] == [Op.REMOVE, Op.ADD]
