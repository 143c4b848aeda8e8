"""A filter at the remote site swallows the probes and the answers of the tunnel's first hop, with the real
servers of every kind: the session is kept, the destination is blamed, and other hosts behind the tunnel lose
nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.lab import DATACENTRE_WEB, Lab
from tests.lab.config import Config
from tests.lab.customers import Customers, customers
from tests.lab.traffic import Poller

pytestmark = pytest.mark.root

OTHER_WEB = IPv4Address("10.77.0.20")  # the same host, in another destination of the tunnels
FILTER_SECONDS = 40.0
KINDS = ("openvpn-certificate", "wireguard", "strongswan", "openconnect-password")


@pytest.fixture
def kinds(lab: Lab) -> Iterator[Customers]:
    lab.network["datacentre"].run("ip", "address", "add", f"{OTHER_WEB}/32", "dev", "lan")
    with customers(lab) as made:
        made.openvpn()
        made.openconnect()
        made.wireguard()
        made.ipsec()
        yield made
    lab.network["datacentre"].run("ip", "address", "del", f"{OTHER_WEB}/32", "dev", "lan")


def configured(everyone: Customers, config: Config, traffic: bool) -> Config:
    """Each tunnel with two destinations; the probe's target lies in the first."""
    config = everyone.config(config)
    for place, customer in enumerate(everyone.all):
        config["tunnels"][customer.name] |= {
            "destinations": [
                {"network": "10.77.0.0/28", "presented_as": f"100.64.{place}.0/28"},
                {"network": "10.77.0.16/28", "presented_as": f"100.64.{place}.16/28"},
            ],
            "probe": {"targets": [f"icmp://{DATACENTRE_WEB}"], "interval": "2s", "timeout": "1s"},
        }
    config["tunnels"] = {name: config["tunnels"][name] for name in KINDS}
    return config


@contextlib.contextmanager
def filtered(lab: Lab) -> Iterator[None]:
    """The site's router drops what goes to the target, and its own ICMP errors."""
    lab.network["customer"].run(
        "nft",
        "add table inet filtered; add chain inet filtered f { type filter hook forward priority 0; }; "
        "add chain inet filtered o { type filter hook output priority 0; }; "
        f"add rule inet filtered f ip daddr {DATACENTRE_WEB} drop; "
        "add rule inet filtered o icmp type { time-exceeded, destination-unreachable } drop",
    )
    try:
        yield
    finally:
        lab.network["customer"].run("nft", "delete table inet filtered")


def other(everyone: Customers, name: str) -> IPv4Address:
    """Where staff find the other host through this tunnel."""
    return everyone.named(name).web + 10


@pytest.mark.parametrize("traffic", [True, False], ids=["with traffic", "idle"])
def test_a_filter_at_the_remote_site_costs_no_session(
    lab: Lab, config: Config, kinds: Customers, traffic: bool
) -> None:
    with lab.daemon(configured(kinds, config, traffic)) as daemon:
        daemon.wait_well(40)
        time.sleep(12.0)  # by then each gateway was asked once, and has answered
        before, attempts = daemon.sessions(), len(lab.openvpn.attempts)
        with contextlib.ExitStack() as stack:
            pollers = {
                name: stack.enter_context(Poller(lab.network["laptop"], other(kinds, name), lab.directory, 2))
                for name in (KINDS if traffic else ())
            }
            for poller in pollers.values():
                poller.wait_settled(20)
            stack.enter_context(filtered(lab))
            begun = time.monotonic()
            for name in KINDS:
                told = daemon.wait_for(name, 40, phase="up", health="unhealthy", leg="destination")
                print(f"{time.monotonic() - begun:.1f} s", name, told["last_error"])
            time.sleep(max(0.0, begun + FILTER_SECONDS - time.monotonic()))  # as long as the filter lasts
            for name in KINDS:
                assert daemon.tunnel(name)["leg"] == "destination", name
            for name, poller in pollers.items():
                assert poller.outage(begun).failed == 0, name
        assert daemon.sessions() == before
        assert len(lab.openvpn.attempts) == attempts
        for name in KINDS:
            assert lab.request(f"http://{other(kinds, name)}/").status == 200
        daemon.wait_well(40)
    assert daemon.leftovers() == {}
