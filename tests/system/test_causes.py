"""What somebody has to cure pages once, at once; and heals by itself within two minutes of its cure."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyotp
import pytest

from tests.lab import CUSTOMER, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config, only
from tests.lab.daemon import LabPagerDuty
from tests.lab.pki import KeyPair
from tests.lab.servers import PASSWORD, OpenVpnServer, ServerLogin
from tests.lab.wait import eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

HEALED_SECONDS = 120.0
YEAR = timedelta(days=365)


@pytest.fixture
def paged(lab: Lab, config: Config, pagerduty: LabPagerDuty) -> Config:
    """A configuration whose incidents go to the double; only what needs a person opens one in these tests."""
    config["defaults"]["alert"] = {"after": "1h", "clear_after": "2s"}
    return config | {"alerts": lab.configuration(pagerduty)["alerts"]}


def healed(daemon: LabDaemon, name: str, pagerduty: LabPagerDuty, cured: float) -> None:
    """The tunnel is well in time, and its one incident is over."""
    daemon.wait_for(name, HEALED_SECONDS - (time.monotonic() - cured), phase="up", health="healthy")
    print(f"{name}: healthy {time.monotonic() - cured:.1f} s after the cure")
    eventually(lambda: not pagerduty.open(), 20, "the incident is resolved")
    actions = [event["event_action"] for event in pagerduty.state()["events"]]
    assert actions == ["trigger", "resolve"]


def broken(daemon: LabDaemon, name: str, pagerduty: LabPagerDuty, reason: str) -> dict[str, Any]:
    """The tunnel waits for a cure, which pages at once."""
    seen = daemon.wait_for(name, 60, phase="backoff", reason=reason)
    assert seen["next_attempt"] is not None
    eventually(pagerduty.open, 10, "an incident is open")
    assert "needs attention" in pagerduty.state()["events"][0]["payload"]["summary"]
    return seen


@contextlib.contextmanager
def certificate(
    lab: Lab, server: OpenVpnServer, begins: timedelta, ends: timedelta
) -> Iterator[Callable[[], None]]:
    """The server has a certificate with these times, until it is renewed."""
    authority = server.authority
    issued = KeyPair(authority.directory / f"{server.name}.crt", authority.directory / f"{server.name}.key")
    right = issued.certificate.read_bytes()

    def put(content: bytes) -> None:
        server.stop()
        issued.certificate.write_bytes(content)
        server.start()

    put(authority.redate(issued, begins, ends))
    try:
        yield lambda: put(right)
    finally:
        put(right)


def test_an_expired_certificate_that_is_renewed(lab: Lab, paged: Config, pagerduty: LabPagerDuty) -> None:
    with lab.daemon(only(paged, "acme-dc")) as daemon:
        daemon.wait_well()
        with certificate(lab, lab.openvpn, -YEAR, -timedelta(days=1)) as renew:
            seen = broken(daemon, "acme-dc", pagerduty, "certificate")
            assert "expired" in seen["last_error"]
            renew()
            healed(daemon, "acme-dc", pagerduty, time.monotonic())
    assert daemon.leftovers() == {}


def test_a_clock_that_is_behind_at_boot(lab: Lab, paged: Config, pagerduty: LabPagerDuty) -> None:
    """For a clock that is behind, a certificate is not valid yet. Here the certificate is what begins later,
    for a test cannot set its host's clock. What follows when somebody sets it is tested with other clocks
    (tests/app/test_clock.py, tests/app/test_host_watch.py, tests/simulation/test_logins.py).
    """
    ahead = 50.0
    with certificate(lab, lab.openvpn, timedelta(seconds=ahead), YEAR):
        right = time.monotonic() + ahead
        with lab.daemon(only(paged, "acme-dc")) as daemon:
            broken(daemon, "acme-dc", pagerduty, "certificate")
            healed(daemon, "acme-dc", pagerduty, right)
    assert daemon.leftovers() == {}


def test_a_bastion_that_refuses_the_key_at_first(lab: Lab, paged: Config, pagerduty: LabPagerDuty) -> None:
    """As one does whose directory of accounts still starts."""
    keys = lab.directory / "authorized_keys"
    right = keys.read_text()
    keys.write_text("")
    try:
        with lab.daemon(only(paged, "own-cloud")) as daemon:
            broken(daemon, "own-cloud", pagerduty, "key")
            keys.write_text(right)
            healed(daemon, "own-cloud", pagerduty, time.monotonic())
        assert daemon.leftovers() == {}
    finally:
        keys.write_text(right)


RENEGOTIATES_SECONDS = 20


def test_renegotiations_with_one_time_codes_of_one_seed_end_no_session(lab: Lab, config: Config) -> None:
    """Two servers ask for a new login every twenty seconds; both logins use one account and one seed, and
    a code is taken once.
    """
    seed, period, servers = pyotp.random_base32(), 5, []
    lab.set_secret("renegotiated-seed", f"otpauth://totp/acme:svc?secret={seed}&period={period}\n")
    lab.set_secret("renegotiated-password", f"{PASSWORD}\n")
    tunnels: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for place, number in enumerate((20, 21)):
            server = OpenVpnServer(
                lab.network["customer"],
                lab.directory,
                lab.openvpn.authority,
                ServerLogin.STATIC,
                number,
                (f"reneg-sec {RENEGOTIATES_SECONDS}",),
            )
            server.change_seed(seed, period)
            server.start()
            stack.callback(server.stop)
            servers.append(server)
            file = f"renegotiated-{place}.ovpn"
            lab.set_secret(file, server.client_config(str(CUSTOMER)))
            tunnels[f"renegotiated-{place}"] = {
                "kind": "openvpn",
                "destinations": [{"network": "10.77.0.0/24", "presented_as": f"100.64.{place}.0/24"}],
                "config": str(lab.directory / file),
                "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
                "login": {
                    "username": "svc-facilitator",
                    "password": {"file": str(lab.directory / "renegotiated-password")},
                    "totp": {"file": str(lab.directory / "renegotiated-seed")},
                },
            }
        with lab.daemon({**config, "tunnels": tunnels}) as daemon:
            for name in tunnels:
                daemon.wait_for(name, 40, phase="up", health="healthy")
            before = daemon.sessions()
            eventually(
                lambda: all(server.attempts.count("accepted") >= 4 for server in servers),
                120,
                "they renegotiate",
            )
            assert daemon.sessions() == before
            for name in tunnels:
                daemon.wait_for(name, 20, phase="up", health="healthy")
        assert daemon.leftovers() == {}
    for server in servers:
        assert set(server.attempts) == {"accepted"}
    codes = [code for server in servers for code in server.codes]
    assert len(set(codes)) == len(codes)
