"""Which destinations collide: by what staff address."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.configuration.problems import Position
from supervisor.config.overlaps import DestinationClaim, collisions
from tests.config.kinds import problems

STAFF = "staff: {networks: [10.8.0.0/16]}\n"


def found(*destinations: str) -> list[str]:
    """The problems of tunnels a, b, ... with these destinations (and further settings)."""
    lines = [
        f"  {name}: {{kind: wire, config: c, destinations: [{text}}}\n"
        for name, text in zip("abcd", destinations, strict=False)
    ]
    return [problem.split(": ", 1)[1] for problem in problems(f"{STAFF}tunnels:\n{''.join(lines)}")]


TABLE = {
    ("10.1.0.0/16]", "10.2.0.0/16]"): [],
    ("10.1.0.0/16]", "10.1.0.0/16]"): [
        "tunnels.b.destinations.0: 10.1.0.0/16 is also tunnels.a.destinations.0 in line 3, with the same "
        "priority 100; "
        "give the two tunnels different priorities if one stands in for the other"
    ],
    ("10.1.0.0/16]", "10.1.0.0/16], priority: 200"): [],
    ("10.1.0.0/16]", "10.1.0.0/17], priority: 200"): [
        "tunnels.b.destinations.0: 10.1.0.0/17 lies inside 10.1.0.0/16, which is tunnels.a.destinations.0 "
        "in line 3"
    ],
    ("10.1.0.0/17]", "10.1.0.0/16]"): [
        "tunnels.b.destinations.0: 10.1.0.0/16 contains 10.1.0.0/17, which is tunnels.a.destinations.0 in "
        "line 3"
    ],
    ("10.1.0.0/16, 10.1.2.0/24]",): [
        "tunnels.a.destinations.1: 10.1.2.0/24 lies inside 10.1.0.0/16, which is tunnels.a.destinations.0 "
        "in line 3"
    ],
    ("10.1.0.0/16, 10.1.0.0/16]",): [
        "tunnels.a.destinations.1: 10.1.0.0/16 is there already: tunnels.a.destinations.0 in line 3"
    ],
    ("10.1.0.0/16]", "10.1.0.0/16], priority: 1", "10.1.0.0/16], priority: 1"): [
        "tunnels.c.destinations.0: 10.1.0.0/16 is also tunnels.b.destinations.0 in line 4, with the same "
        "priority 1; "
        "give the two tunnels different priorities if one stands in for the other"
    ],
    # what staff address counts
    ("10.1.0.0/16]", "{network: 10.1.0.0/16, presented_as: 100.64.0.0/16}]"): [],
    ("100.64.3.0/24]", "{network: 10.1.0.0/16, presented_as: 100.64.0.0/16}]"): [
        "tunnels.b.destinations.0: 100.64.0.0/16 contains 100.64.3.0/24, which is "
        "tunnels.a.destinations.0 in line 3"
    ],
    ("{network: 10.8.0.0/16, presented_as: 100.64.0.0/16}]",): [],
    ("{network: 10.1.0.0/16, presented_as: 100.64.0.0/17}]",): [
        "tunnels.a.destinations.0: presented_as 100.64.0.0/17 must have the size of 10.1.0.0/16 (/16)"
    ],
    ("10.8.9.0/24]",): [
        "tunnels.a.destinations.0: 10.8.9.0/24 overlaps 10.8.0.0/16 of staff.networks: staff could not be "
        "reached any more"
    ],
    ("10.0.0.0/8]",): [
        "tunnels.a.destinations.0: 10.0.0.0/8 overlaps 10.8.0.0/16 of staff.networks: staff could not be "
        "reached any more"
    ],
    # what no tunnel carries
    ("0.0.0.0/0]",): [
        "tunnels.a.destinations.0: 0.0.0.0/0 is the whole internet; name the networks behind the tunnel"
    ],
    ("'::/0']",): [
        "tunnels.a.destinations.0: ::/0 is the whole internet; name the networks behind the tunnel"
    ],
    ("0.0.0.0/1]",): ["tunnels.a.destinations.0: 0.0.0.0/1 covers 'this network', which is no place"],
    ("127.0.0.1]",): [
        "tunnels.a.destinations.0: 127.0.0.1/32 covers loopback addresses, which never leave this host"
    ],
    ("169.254.169.254]",): [
        "tunnels.a.destinations.0: 169.254.169.254/32 covers link-local addresses, which are never routed"
    ],
    ("224.0.0.0/24]",): [
        "tunnels.a.destinations.0: 224.0.0.0/24 covers multicast addresses, which a tunnel does not carry"
    ],
    ("'fe80::/64']",): [
        "tunnels.a.destinations.0: fe80::/64 covers link-local addresses, which are never routed"
    ],
    ("'2001:db8::/48', '2001:db8::/64']",): [
        "tunnels.a.destinations.1: 2001:db8::/64 lies inside 2001:db8::/48, which is "
        "tunnels.a.destinations.0 in line 3"
    ],
    # the rest of a tunnel may be wrong
    ("10.1.0.0/16], mtu: 1", "10.1.0.0/24, no]"): [
        "tunnels.a.mtu: must be at least 576",
        "tunnels.b.destinations.0: 10.1.0.0/24 lies inside 10.1.0.0/16, which is tunnels.a.destinations.0 "
        "in line 3",
        "tunnels.b.destinations.1: no is read as the boolean false by YAML; write it as 10.77.0.0/24",
    ],
}


@pytest.mark.parametrize(("destinations", "expected"), TABLE.items(), ids=[" + ".join(key) for key in TABLE])
def test_destinations(destinations: tuple[str, ...], expected: list[str]) -> None:
    assert found(*destinations) == expected


def test_staff_that_is_everybody() -> None:
    assert problems("staff: {networks: [0.0.0.0/0]}\ntunnels: {}\n") == [
        "c.yaml:1:20: staff.networks.0: 0.0.0.0/0 lets everybody in; name the networks of staff"
    ]


networks = st.builds(
    lambda host, size: IPv4Network((0x0A000000 | (host >> (32 - size) << (32 - size) & 0xFFFFFF), size)),
    st.integers(0, 0xFFFFFF),
    st.integers(20, 28),
).map(
    lambda network: IPv4Network((int(network.network_address) & 0xFF000FFF, network.prefixlen), strict=False)
)
claims = st.lists(st.tuples(networks, st.sampled_from("abc"), st.integers(1, 2)), max_size=8).map(
    lambda rows: [
        DestinationClaim(network, tunnel, priority, (tunnel, n), Position(n + 1, 1), f"line {n + 1}")
        for n, (network, tunnel, priority) in enumerate(rows)
    ]
)


def collide(one: DestinationClaim, other: DestinationClaim) -> bool:
    """The rule, said once more in the plainest way."""
    failover = one.network == other.network and one.tunnel != other.tunnel and one.priority != other.priority
    return one.network.overlaps(other.network) and not failover


@given(claims)
def test_something_is_reported_exactly_when_two_claims_collide(rows: list[DestinationClaim]) -> None:
    assert bool(list(collisions(rows))) == any(collide(one, other) for one, other in combinations(rows, 2))


@given(claims)
def test_without_the_reported_claims_nothing_collides(rows: list[DestinationClaim]) -> None:
    while reported := {claim for claim, _ in collisions(rows)}:
        rows = [claim for claim in rows if claim not in reported]
    assert not any(collide(one, other) for one, other in combinations(rows, 2))
