"""Pritunl as a source: signing, who is connected, and what its profiles route."""

from __future__ import annotations

import ssl
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.identity.pritunl import holdings, read_items, staff_routes
from supervisor.core.identity.staff_routes import StaffRoute, compared
from supervisor.identity.pritunl import PritunlSource
from supervisor.identity.source import IdentityAway
from tests.identity.pritunl_double import SECRET, TOKEN, pritunl, user


def source(url: str, token: str = TOKEN, secret: str = SECRET) -> PritunlSource:
    return PritunlSource(url, ssl.create_default_context, lambda: (token, secret), 1.0, lambda _: True)


async def test_who_is_connected_and_what_is_routed_is_read_and_nothing_is_written() -> None:
    with pritunl() as (double, url):
        asked = source(url)
        for _ in range(2):  # each request has a nonce of its own
            (alice,) = (await asked.read(0, 0.0)).holdings
        await asked.close()
    assert (str(ip_address(alice.address)), alice.person, alice.groups) == (
        "10.8.0.6",
        "alice",
        ("engineers",),
    )
    assert (alice.since, alice.node, alice.client) == (1_700_000_000.0, "us-east", "laptop linux")
    assert double.refused == 0
    assert double.asked.count("/server/60cd0be17723cf3c9114689d/route") == 1
    carried = {
        ip_network("10.77.0.0/24"): "acme-dc",
        ip_network("10.90.0.0/16"): "own",
        ip_network("10.50.0.0/24"): "b",
    }
    said = list(compared(asked.routes, carried, [ip_network("10.8.0.0/16")]))
    assert [sentence.partition(":")[0] for sentence in said] == [
        "10.50.0.0/24 (b) is routed by no profile",
        "profile us-east routes 10.99.0.0/16, which no tunnel carries",
        "route 10.90.0.0/16 of profile us-east has nat",
        "route 10.90.0.0/16 of profile us-east has advertise",
    ]


@pytest.mark.parametrize(("token", "secret"), [("other", SECRET), (TOKEN, "other")])
async def test_a_wrong_signature_is_told(token: str, secret: str) -> None:
    with pritunl() as (double, url), pytest.raises(IdentityAway, match="401; check token, secret, clock"):
        await source(url, token, secret).read(0, 0.0)
    assert double.refused == 1


def test_one_name_in_two_organizations_is_two_people() -> None:
    users = {
        "1": [user("alice", "10.8.0.1", [])],
        "2": [user("alice", "10.8.0.2", []), user("bob", "10.8.0.3", [])],
    }
    found = holdings(users, {"1": "acme", "2": "globex"}, lambda _: True)
    assert [each.person for each in found] == ["alice@acme", "alice@globex", "bob"]
    assert (
        holdings({"1": [user("carol", "10.8.0.4", [], disabled=True)]}, {"1": "acme"}, lambda _: True) == ()
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("name", "groups", "servers", "connected_since", "virt_address", "network")),
            inner,
        )
    ),
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(("id", "name", "groups", "servers", "network", "nat")), JSON),
        max_size=4,
    )
)
def test_whatever_it_answers_raises_nothing(items: list[dict[str, object]]) -> None:
    holdings({"1": items}, {"1": "acme"}, lambda _: True)
    list(staff_routes("us-east", items))


def test_what_is_no_list_is_refused() -> None:
    for body in (b"{}", b"[" * 100_000, b"x", b"null"):
        with pytest.raises(ValueError):
            read_items(body)


def test_a_profile_that_routes_everything_reaches_everything() -> None:
    routes = [StaffRoute("all", ip_network("0.0.0.0/0"))]
    assert list(compared(routes, {ip_network("10.77.0.0/24"): "acme"}, [])) == []
    assert list(compared([], {ip_network("10.77.0.0/24"): "acme"}, [])) == []
