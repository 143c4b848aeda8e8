"""What `allow` means for each single address."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.network.access import AccessPolicy, AccessRule, Refusal, Segment, gate, refusals
from tests.settings import configured
from tunnels.settings import Ports, Tunnel

STAFF = (ip_network("10.8.0.0/24"),)


def refused(
    *entries: AccessRule, segments: tuple[Segment, ...], staff: tuple[IPv4Network, ...] = STAFF
) -> list[Refusal]:
    return [refusal for _, refusal in refusals(staff, segments, [AccessPolicy("a", 173001, entries)])]


def numbers(text: str) -> tuple[int, int]:
    network = ip_network(text)
    return int(network.network_address), int(network.broadcast_address)


def test_a_tunnel_without_allow_has_no_gate() -> None:
    assert gate(configured(Tunnel, name="a", kind="test", destinations=("10.77.0.0/24",)), 173001) is None


def test_what_the_configuration_says_is_what_the_gate_holds() -> None:
    tunnel = configured(
        Tunnel,
        name="a",
        kind="test",
        destinations=("10.77.0.0/24",),
        allow=("engineers", {"segment": "support", "ports": ["tcp/443", "udp/80-90"]}),
    )
    assert gate(tunnel, 173001) == AccessPolicy(
        "a",
        173001,
        (
            AccessRule("engineers", None),
            AccessRule("support", (Ports("tcp", 443, 443), Ports("udp", 80, 90))),
        ),
    )


def test_an_empty_allow_lets_nobody_in() -> None:
    assert refused(segments=()) == [Refusal(4, *numbers("10.8.0.0/24"), "")]


def test_a_packet_counts_for_the_smallest_network_around_it() -> None:
    segments = (
        Segment("all", STAFF),
        Segment("support", (ip_network("10.8.0.0/25"),)),
        Segment("boss", (ip_network("10.8.0.0/32"),)),
    )
    assert [
        (refusal.segment, refusal.first & 255, refusal.last & 255) for refusal in refused(segments=segments)
    ] == [("boss", 0, 0), ("support", 1, 127), ("all", 128, 255)]


SMALL = st.builds(
    lambda n, p: IPv4Network((10 << 24 | 8 << 16 | n >> p << p, 32 - p)),
    st.integers(0, 31),
    st.integers(0, 5),
)
PORTS = st.builds(
    lambda protocol, first, more: Ports(protocol, first, first + more),
    st.sampled_from(["tcp", "udp"]),
    st.integers(1, 12),
    st.integers(0, 5),
)
NAMES = st.sampled_from(["a", "b", "c"])
SEGMENTS = st.dictionaries(NAMES, st.lists(SMALL, max_size=3).map(tuple)).map(
    lambda found: tuple(Segment(name, networks) for name, networks in found.items())
)
ENTRIES = st.lists(
    st.builds(AccessRule, NAMES, st.none() | st.lists(PORTS, max_size=3).map(tuple)), max_size=4
)


@settings(deadline=None)
@given(st.lists(SMALL, max_size=2).map(tuple), SEGMENTS, ENTRIES)
def test_each_address_may_do_what_any_entry_allows(
    staff: tuple[IPv4Network, ...], segments: tuple[Segment, ...], entries: list[AccessRule]
) -> None:
    found = refused(*entries, segments=segments, staff=staff)
    assert all(left.last < right.first for left, right in zip(found, found[1:], strict=False))
    for address in IPv4Network("10.8.0.0/27"):
        inside = {
            segment.name for segment in segments if any(address in network for network in segment.networks)
        }
        right = [entry for entry in entries if entry.segment in inside]
        is_staff = any(address in network for network in staff)
        here = [refusal for refusal in found if refusal.first <= int(address) <= refusal.last]
        assert len(here) == (is_staff and all(entry.ports is not None for entry in right))
        for refusal in here:
            assert refusal.segment in inside or (refusal.segment == "" and not inside)
            for protocol in ("tcp", "udp"):
                for port in range(1, 20):
                    may = any(
                        p.protocol == protocol and p.first <= port <= p.last
                        for entry in right
                        for p in entry.ports or ()
                    )
                    assert (
                        sum(p.protocol == protocol and p.first <= port <= p.last for p in refusal.ports)
                        == may
                    )
