"""Which of the addresses of a remote gateway's name is tried."""

from __future__ import annotations

import socket

import pytest

from tunnels.drivers.addresses import in_turn, resolved, resolved_or_named


@pytest.mark.parametrize(
    ("addresses", "tried"),
    [
        (["192.0.2.1"], ["192.0.2.1", "192.0.2.1", "192.0.2.1"]),
        (["192.0.2.1", "192.0.2.2"], ["192.0.2.1", "192.0.2.2", "192.0.2.1"]),
        (["2001:db8::1", "192.0.2.1", "192.0.2.2"], ["2001:db8::1", "192.0.2.1", "192.0.2.2"]),
    ],
)
def test_each_address_has_its_turn(addresses: list[str], tried: list[str]) -> None:
    assert [in_turn(addresses, attempt) for attempt in range(3)] == tried


@pytest.mark.parametrize(
    ("name", "family", "found"),
    [
        ("192.0.2.1", socket.AF_UNSPEC, ["192.0.2.1"]),
        ("192.0.2.1", socket.AF_INET, ["192.0.2.1"]),
        ("2001:db8::1", socket.AF_UNSPEC, ["2001:db8::1"]),
    ],
)
async def test_an_address_is_its_own_only_address(name: str, family: int, found: list[str]) -> None:
    assert await resolved(name, family) == found


@pytest.mark.parametrize(("name", "family"), [("2001:db8::1", socket.AF_INET), ("no name", socket.AF_UNSPEC)])
async def test_what_has_no_address_is_an_error(name: str, family: int) -> None:
    with pytest.raises(OSError, match="."):
        await resolved(name, family)
    assert await resolved_or_named(name, family) == [name]
