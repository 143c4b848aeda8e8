"""OpenVPN once more, but as a command that the daemon knows nothing about: everything comes from the
configuration.
"""

from __future__ import annotations

import functools
import os
import signal

import pytest

from tests.lab import CUSTOMER, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.network import DATACENTRE
from tests.lab.wait import NOISE

pytestmark = pytest.mark.root

OWN = ["--dev", "{device}", "--dev-type", "tun", "--nobind", "--route-noexec", "--resolv-retry", "1"]


@pytest.fixture
def config(lab: Lab, config: Config) -> Config:
    tunnel = {
        "kind": "command",
        "argv": ["openvpn", "--config", str(lab.directory / "acme.ovpn"), *OWN],
        "up": {"probe": True},
        "transient": ["(?P<peer_closed>server-pushed-connection-reset)"],
        "destinations": [str(DATACENTRE)],
        "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
    }
    return {**config, "tunnels": {"acme-vpn": tunnel}}


@pytest.mark.timed
def test_its_life(lab: Lab, daemon: LabDaemon) -> None:
    """Up by the first answer through its device."""
    assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
    assert daemon.tunnel("acme-vpn")["session"]["address"].startswith("10.78.0.")
    outages = []
    for _ in range(3):
        daemon.wait_for("acme-vpn", phase="up", health="healthy")
        (victim,) = daemon.client_pids("openvpn")
        outages.append(
            lab.outage(
                DATACENTRE_WEB,
                functools.partial(os.kill, victim, signal.SIGKILL),
                until=daemon.replaced("acme-vpn"),
            ).seconds
        )
    print("killed, outages in seconds:", *(f"{seconds:.2f}" for seconds in outages))
    assert sorted(outages)[1] <= 1.0 * NOISE

    def restart() -> None:
        lab.openvpn.stop()
        lab.openvpn.start()

    print("server restarted:", lab.outage(DATACENTRE_WEB, restart, until=daemon.replaced("acme-vpn")))
    assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel="acme-vpn", reason="peer-closed") >= 1
    daemon.wait_for("acme-vpn", phase="up", health="healthy")
    lab.blackhole(CUSTOMER)
    try:
        daemon.wait_silent("acme-vpn", 15)
    finally:
        lab.unblock(CUSTOMER)
    daemon.wait_for("acme-vpn", 30, phase="up", health="healthy")


def test_a_wrong_password(lab: Lab, config: Config) -> None:
    server = lab.password_server
    before = len(server.attempts)
    lab.set_secret("account", "svc-facilitator\nwrong word\n")
    tunnel = config["tunnels"]["acme-vpn"]
    argv = [
        "openvpn",
        "--config",
        str(lab.directory / "acme-password.ovpn"),
        *OWN,
        "--auth-user-pass",
        "{password_file}",
    ]
    login = {"password": {"file": str(lab.directory / "account")}, "max_attempts": 1}
    words = {"up": {"line": "Initialization Sequence Completed"}, "permanent": ["(?P<auth>AUTH_FAILED)"]}
    changed = {**tunnel, "argv": argv, "login": login, **words}
    with lab.daemon({**config, "tunnels": {"acme-vpn": changed}}) as daemon:
        assert "AUTH_FAILED" in daemon.wait_for("acme-vpn", 20, phase="failed", reason="auth")["last_error"]
        assert server.attempts[before:] == ["refused"]
        lab.set_secret("account", "svc-facilitator\ncorrect horse\n")
        daemon.wait_for("acme-vpn", 10, phase="up")
        assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
        assert server.attempts[before:] == ["refused", "accepted"]
        assert "horse" not in daemon.cli("logs", "acme-vpn").stdout
    assert daemon.leftovers() == {}
