"""Logins that cannot work, of every kind at once: how often the servers see them, what is said, and how
soon a corrected file is used.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import pyotp
import pytest

from tests.lab import CUSTOMER, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.customers import Customers, customers
from tests.lab.ocserv import TOTP, OcservServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD, Server, ServerLogin
from tests.lab.strongswan import PRESHARED_KEY

pytestmark = [pytest.mark.root, pytest.mark.timed]

WAKES = 5.0  # seconds


@pytest.fixture
def everyone(lab: Lab) -> Iterator[Customers]:
    with customers(lab) as made:
        yield made


def seen(server: Server, pattern: str) -> Callable[[], int]:
    """How many lines of the server's log match from now on."""

    def count() -> int:
        return len(re.findall(pattern, server.log.read_text(errors="replace")))

    before = count()
    return lambda: count() - before


def refused(attempts: Callable[[], list[str]]) -> Callable[[], int]:
    """How many logins the server refuses from now on."""
    before = attempts().count("refused")
    return lambda: attempts().count("refused") - before


def stranger(lab: Lab) -> Authority:
    """One that the server does not know."""
    directory = lab.directory / "stranger"
    directory.mkdir(exist_ok=True)
    return Authority(directory)


@contextlib.contextmanager
def spoiled(lab: Lab, right: Mapping[str, tuple[str, str]], wrong: Mapping[str, str]) -> Iterator[None]:
    """The files have wrong contents at first, and the right ones in the end; by the tunnels' names."""
    for name, (file, _) in right.items():
        lab.set_secret(file, f"{wrong.get(name, 'wrong horse')}\n")
    try:
        yield
    finally:
        for file, value in right.values():
            lab.set_secret(file, f"{value}\n")


def wakes(daemon: LabDaemon, name: str, lab: Lab, secret: str, value: str) -> None:
    """The corrected file brings the tunnel up."""
    began = time.monotonic()
    lab.set_secret(secret, f"{value}\n")
    daemon.wait_for(name, phase="up")
    took = time.monotonic() - began
    print(f"{name}: up {took:.2f} s after its file was corrected")
    assert took <= WAKES


def test_wrong_secrets_are_tried_three_times_at_most(lab: Lab, config: Config, everyone: Customers) -> None:
    everyone.openvpn(ServerLogin.PASSWORD)
    everyone.openvpn(ServerLogin.STATIC)
    everyone.openconnect("code")
    everyone.ipsec()
    everyone.sshuttle()
    everyone.openvpn()
    everyone.openconnect("certificate")
    password, static, codes, vpnc, swan, shuttle, certificate, shown = everyone.all
    codes.settings["login"]["max_attempts"] = (
        1  # a code for each attempt, and ocserv has a new one every thirty seconds
    )
    seed, period = pyotp.random_base32(), 2
    lab.login_server(ServerLogin.STATIC).change_seed(seed, period)
    right = {
        password.name: ("customers/openvpn-password-password", PASSWORD),
        static.name: (
            "customers/openvpn-static-seed",
            f"otpauth://totp/acme:svc?secret={seed}&period={period}",
        ),
        codes.name: ("customers/openconnect-seed", TOTP),
        vpnc.name: ("customers/vpnc-password", PASSWORD),
        swan.name: ("customers/pre-shared-key", PRESHARED_KEY),
        shuttle.name: ("own-cloud-ssh-key", lab.sshd.client_key.read_text().rstrip()),
        certificate.name: ("acme.ovpn", (lab.directory / "acme.ovpn").read_text().rstrip()),
        shown.name: ("customers/openconnect-certificate", everyone.certificate(everyone.authority)),
    }
    wrong = {
        static.name: f"otpauth://totp/acme:svc?secret={pyotp.random_base32()}&period={period}",
        codes.name: pyotp.random_base32(),
        shuttle.name: lab.sshd.host_key.read_text().rstrip(),
        certificate.name: lab.openvpn.client_config(str(CUSTOMER), stranger(lab)).rstrip(),
        shown.name: everyone.certificate(stranger(lab)),
    }
    counts = {
        password.name: refused(lambda: lab.login_server(ServerLogin.PASSWORD).attempts),
        static.name: refused(lambda: lab.login_server(ServerLogin.STATIC).attempts),
        codes.name: seen(codes.server, "using 'plain' authentication to authenticate user"),
        vpnc.name: seen(vpnc.server, "XAuth authentication of '[^']*' failed"),
        swan.name: seen(swan.server, "but MAC mismatched"),
        shuttle.name: seen(shuttle.server, "Connection closed by authenticating user"),
        certificate.name: seen(certificate.server, "VERIFY ERROR"),
        shown.name: seen(shown.server, "client certificate verification failed"),
    }
    others = {
        shuttle.name: ("backoff", "key"),
        certificate.name: ("backoff", "handshake"),
        shown.name: ("backoff", "handshake"),
    }
    with spoiled(lab, right, wrong), lab.daemon(everyone.config(config)) as daemon:
        for customer in everyone.all:
            phase, reason = others.get(customer.name, ("failed", "auth"))
            error = daemon.wait_for(customer.name, phase=phase, reason=reason)["last_error"]
            print(f"{customer.name}: {counts[customer.name]()} attempts, {error}")
        assert {name: 1 <= count() <= 3 for name, count in counts.items()} == dict.fromkeys(counts, True)
        for name, (file, value) in right.items():
            wakes(daemon, name, lab, file, value)
    assert daemon.leftovers() == {}


def test_a_ban_is_told_from_a_wrong_password_and_waited_for(
    lab: Lab, config: Config, everyone: Customers
) -> None:
    everyone.openconnect("password", **{"max-ban-score": 20, "min-reauth-time": 300})
    (customer,) = everyone.all
    lab.set_secret("customers/openconnect-password-password", "wrong horse\n")
    assert isinstance(customer.server, OcservServer)
    with lab.daemon(everyone.config(config)) as daemon:
        status = daemon.wait_for(customer.name, phase="backoff", reason="banned")
        print(f"{customer.server.logins} attempts, {status['last_error']}")
        assert customer.server.logins <= 3
        again = datetime.fromisoformat(status["next_attempt"]) - datetime.now(UTC)
        assert again.total_seconds() > 500
    assert daemon.leftovers() == {}
