"""A WireGuard tunnel in the whole daemon: its client is killed, its server restarts, its path goes dark,
its keys are wrong.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.lab import CUSTOMER, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.network import DATACENTRE
from tests.lab.wait import NOISE, eventually
from tests.lab.wireguard import CLIENT_ADDRESS, WireGuardServer

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[WireGuardServer]:
    server = WireGuardServer(lab.network["customer"], lab.directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def config(lab: Lab, config: Config, server: WireGuardServer) -> Config:
    lab.set_secret("acme.conf", server.client_config(str(CUSTOMER)))
    tunnel = {
        "kind": "wireguard",
        "config": str(lab.directory / "acme.conf"),
        "destinations": [str(DATACENTRE)],
        # sockets of wireguard-go lie in one directory, whatever the network namespace
        "device": f"t-{os.getpid()}",
        "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
    }
    return {**config, "tunnels": {"acme-wg": tunnel}}


def clients(daemon: LabDaemon, name: str = "wireguard-go") -> list[int]:
    """Processes below the daemon whose command line names this program."""
    return [
        child.pid
        for child in psutil.Process(daemon.pid).children(recursive=True)
        if any(name in word for word in child.cmdline())
    ]


@pytest.mark.timed
def test_its_life(lab: Lab, daemon: LabDaemon, server: WireGuardServer) -> None:
    reply = lab.request(f"http://{DATACENTRE_WEB}/")
    assert (reply.status, CLIENT_ADDRESS in reply.body) == (200, True)
    session = daemon.tunnel("acme-wg")["session"]
    assert session["address"] == CLIENT_ADDRESS
    outages = [
        _killed(lab, daemon, name)
        for name in ("wireguard-go", "tunnels.kinds.wireguard.driver", "wireguard-go")
    ]
    print("killed, outages in seconds:", *(f"{seconds:.2f}" for seconds in outages))
    assert sorted(outages)[1] <= 1.0 * NOISE

    def restart() -> None:
        server.kill()
        server.start()

    ended = lab.outage(DATACENTRE_WEB, restart)  # the peer does not say that it was away: only probes tell
    print("server restarted:", ended)
    daemon.wait_for("acme-wg", phase="up", health="healthy")
    _dark(lab, daemon)


def _killed(lab: Lab, daemon: LabDaemon, name: str) -> float:
    daemon.wait_for("acme-wg", phase="up", health="healthy")
    victim = clients(daemon, name)[-1]
    outage = lab.outage(
        DATACENTRE_WEB, lambda: os.kill(victim, signal.SIGKILL), until=daemon.replaced("acme-wg")
    )
    return outage.seconds


def _dark(lab: Lab, daemon: LabDaemon) -> None:
    """The path silently drops everything."""
    lab.blackhole(CUSTOMER)
    try:
        eventually(_not_well(daemon), 15, "the silence is noticed")
    finally:
        lab.unblock(CUSTOMER)
    daemon.wait_for("acme-wg", 40, phase="up", health="healthy")
    assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200


def _not_well(daemon: LabDaemon) -> Callable[[], bool]:
    return lambda: (
        (daemon.tunnel("acme-wg")["phase"], daemon.tunnel("acme-wg")["health"]) != ("up", "healthy")
    )


def test_a_wrong_key_is_said_and_a_right_one_taken(lab: Lab, config: Config, server: WireGuardServer) -> None:
    lab.set_secret("acme.conf", server.client_config(str(CUSTOMER), preshared=bytes(32)))
    before = server.attempts
    with lab.daemon(config) as daemon:
        error = eventually(lambda: daemon.tunnel("acme-wg")["last_error"], 20, "the handshake is refused")
        assert "the preshared key is most likely another one" in error
        eventually(
            lambda: daemon.metric(
                "facilitator_tunnel_reconnects_total", tunnel="acme-wg", reason="handshake"
            ),
            10,
            "it is counted",
        )
        assert server.attempts - before <= 3
        lab.set_secret("acme.conf", server.client_config(str(CUSTOMER)))
        daemon.wait_for("acme-wg", 20, phase="up", health="healthy")
    assert daemon.leftovers() == {}
