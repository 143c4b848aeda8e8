"""The address from which a client talks to its gateway leaves this host: noticed and healed at once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.network import FACILITATOR_UPLINK, UPLINK
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root

TUNNEL = "own-cloud"  # ssh: a TCP connection, which keeps its source for life
OTHER, ROUTER = "198.51.100.6", "198.51.100.5"
SAID = f"this host has lost the address {FACILITATOR_UPLINK}, from which the client talked to its gateway"


@pytest.fixture
def second_address(lab: Lab) -> Iterator[None]:
    """The uplink has another address besides, with a router of its own."""
    host, transport = lab.network["facilitator"], lab.network["transport"]
    transport.run("ip", "address", "add", f"{ROUTER}/30", "dev", "fac")
    host.run("ip", "address", "add", f"{OTHER}/30", "dev", UPLINK)
    yield
    host.run("ip", "address", "replace", f"{FACILITATOR_UPLINK}/30", "dev", UPLINK)
    host.run("ip", "route", "replace", "default", "via", "198.51.100.1")
    host.run("ip", "address", "del", f"{OTHER}/30", "dev", UPLINK)
    transport.run("ip", "address", "del", f"{ROUTER}/30", "dev", "fac")


@pytest.mark.timed
def test_a_source_address_that_goes_with_its_uplink(
    lab: Lab, daemon: LabDaemon, second_address: None
) -> None:
    host = lab.network["facilitator"]
    daemon.wait_for(TUNNEL, phase="up", health="healthy")
    before = daemon.tunnel(TUNNEL)["session"]["id"]
    host.run("ip", "address", "add", "192.0.2.77/32", "dev", "lo")
    host.run("ip", "address", "del", "192.0.2.77/32", "dev", "lo")  # nobody talks from this one

    host.run("ip", "route", "replace", "default", "via", ROUTER)
    host.run("ip", "address", "del", f"{FACILITATOR_UPLINK}/30", "dev", UPLINK)
    since = time.monotonic()
    eventually(
        lambda: (daemon.tunnel(TUNNEL)["session"] or {}).get("id") not in (before, None),
        10,
        "a new session begins",
    )
    begun = time.monotonic() - since
    daemon.wait_for(TUNNEL, phase="up", health="healthy")
    print(f"a new session after {begun:.1f} s, healthy after {time.monotonic() - since:.1f} s")
    assert begun < 4.0 * NOISE
    assert SAID in daemon.tunnel(TUNNEL)["last_error"]
    assert SAID in daemon.cli("history", TUNNEL, "--json").stdout
    assert SAID in daemon.log.read_text()
