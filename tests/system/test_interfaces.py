"""What other programs do to a running tunnel's interface is undone at once and said; the session goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.strongswan import PRESHARED_KEY, StrongSwanServer
from tests.lab.wait import NOISE, eventually
from tests.system.ipsec import carries, gateway, tunnel

pytestmark = pytest.mark.root

STRONGSWAN, OPENVPN = (
    "acme-key",
    "acme-dc",
)  # one that needs its address on the interface, and one that has none
HARM = {
    "was set down": ("link", "set", "{device}", "down"),
    "had an MTU of 600": ("link", "set", "{device}", "mtu", "600"),
    "had lost its address": ("address", "flush", "dev", "{device}"),
}


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[StrongSwanServer]:
    with gateway(lab) as server:
        yield server


@pytest.fixture
def config(lab: Lab, config: Config, server: StrongSwanServer) -> Config:
    lab.set_secret("acme-psk.conf", server.swanctl_config("psk"))
    lab.set_secret("acme-psk", f"{PRESHARED_KEY}\n")
    secret = {"file": str(lab.directory / "acme-psk")}
    swan = tunnel("strongswan", config=str(lab.directory / "acme-psk.conf"), psk=secret, priority=50)
    return {**config, "tunnels": {**config["tunnels"], STRONGSWAN: swan}}


def interface(lab: Lab, name: str) -> tuple[int, bool, frozenset[str]]:
    """Its MTU, whether it is up, and its addresses."""
    shown = lab.network["facilitator"].run("ip", "-j", "address", "show", "dev", f"t-{name}").stdout
    (found,) = json.loads(shown)
    addresses = (each["local"] for each in found["addr_info"] if each["scope"] == "global")
    return found["mtu"], "UP" in found["flags"], frozenset(addresses)


@pytest.mark.timed
def test_what_was_done_to_an_interface_is_undone_at_once(lab: Lab, daemon: LabDaemon) -> None:
    for name in (STRONGSWAN, OPENVPN):
        daemon.wait_for(name, phase="up", health="healthy")
    carries(lab, daemon, STRONGSWAN)
    for name in (STRONGSWAN, OPENVPN):
        before, sessions = interface(lab, name), daemon.sessions()
        for said, words in HARM.items():
            if name == OPENVPN and "address" in words:
                continue
            done = time.monotonic()
            harm(lab, name, words)
            eventually(lambda: interface(lab, name) == before, 10, f"{name} is as before")  # noqa: B023
            seconds = time.monotonic() - done
            print(f"{name}: {said}, undone within {seconds:.2f} s")
            assert seconds <= 1.0 * NOISE
            eventually(lambda: said in logged(daemon, name), 5, "it is said")  # noqa: B023
            eventually(lambda: said in (daemon.tunnel(name)["last_error"] or ""), 5, "status")  # noqa: B023
            told = daemon.cli("history", name, "--json").stdout
            assert said in told
        assert daemon.sessions() == sessions
    carries(lab, daemon, STRONGSWAN)
    assert daemon.metric("facilitator_kernel_repairs_total", what="interface") >= 5


def harm(lab: Lab, name: str, words: tuple[str, ...]) -> None:
    lab.network["facilitator"].run("ip", *(word.format(device=f"t-{name}") for word in words))


def logged(daemon: LabDaemon, name: str) -> str:
    """What the daemon has logged about this tunnel's interface."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")
    ]
    return "\n".join(str(line) for line in lines if f"t-{name}" in str(line))
