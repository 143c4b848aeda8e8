"""A silence of the whole path costs what the network costs: the sessions of all kinds go on by themselves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from supervisor.app.watchers.endpoints import CHECK_SECONDS
from tests.lab import BASTION, CUSTOMER, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.customers import Customers, customers
from tests.lab.traffic import OutageMeter, Poller
from tests.lab.wait import NOISE

pytestmark = pytest.mark.root

BACK_SECONDS = 0.5  # after the return of the path, at most: TCP tries again every 0.2 s and a round trip
SITES = (CUSTOMER, BASTION)


@pytest.fixture
def kinds(lab: Lab) -> Iterator[Customers]:
    with customers(lab) as made:
        made.openvpn()
        made.openconnect()
        made.wireguard()
        made.ipsec(patient=True)
        made.sshuttle()
        yield made
    for site in SITES:
        lab.unblock(site)


def drop(lab: Lab, daemon: LabDaemon, everyone: Customers, seconds: float) -> dict[str, OutageMeter]:
    """The whole path drops everything for so long: what the laptop sees of it after its return."""
    with contextlib.ExitStack() as stack:
        pollers = {
            each.name: stack.enter_context(Poller(lab.network["laptop"], each.web, lab.directory, 0.5, 0.05))
            for each in everyone.all
        }
        for site in SITES:
            lab.blackhole(site)
        time.sleep(seconds)  # the length of the silence is what is tried
        back = time.monotonic()
        for site in SITES:
            lab.unblock(site)
        for poller in pollers.values():
            poller.wait_settled(60, back)
        return {name: poller.outage(back) for name, poller in pollers.items()}


@pytest.mark.timed
@pytest.mark.parametrize("seconds", [5.0, 20.0])
def test_a_short_silence_costs_no_login(lab: Lab, config: Config, kinds: Customers, seconds: float) -> None:
    """Nor does it cost a session of any kind, over TCP or not."""
    with lab.daemon({**kinds.config(config), "defaults": {}}) as daemon:  # default probes
        daemon.wait_well(40)
        time.sleep(2 * CHECK_SECONDS)  # by then each gateway was asked once, and has answered
        before, attempts = daemon.sessions(), len(lab.openvpn.attempts)
        seen = drop(lab, daemon, kinds, seconds)
        print(f"back after {seconds:g} s of silence:", {name: str(each) for name, each in seen.items()})
        assert daemon.sessions() == before
        assert len(lab.openvpn.attempts) == attempts
        assert max(each.seconds for each in seen.values()) <= BACK_SECONDS * NOISE
        daemon.wait_well(40)
