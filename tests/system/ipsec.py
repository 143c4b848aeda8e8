"""What the system tests of vpnc and strongSwan share: the customer's gateway in the lab, and what happens
to a tunnel to it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import statistics
from collections.abc import Iterator

import psutil

from tests.lab import CUSTOMER, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.network import DATACENTRE
from tests.lab.pki import Authority
from tests.lab.strongswan import StrongSwanServer
from tests.lab.wait import NOISE, PATIENCE, eventually


@contextlib.contextmanager
def gateway(lab: Lab) -> Iterator[StrongSwanServer]:
    """The customer's IPsec gateway, running."""
    directory = lab.directory / "ipsec"
    directory.mkdir(exist_ok=True)
    server = StrongSwanServer(lab.network["customer"], directory, Authority(directory), CUSTOMER)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def tunnel(kind: str, **options: object) -> dict[str, object]:
    """A tunnel to the data centre."""
    probe = {"targets": [f"tcp://{DATACENTRE_WEB}:80"]}
    return {"kind": kind, "destinations": [str(DATACENTRE)], "probe": probe, **options}


def below(daemon: LabDaemon, word: str) -> list[int]:
    """Processes below the daemon that have this word in their command line."""
    found = []
    for child in psutil.Process(daemon.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word == part or word == os.path.basename(part) for part in child.cmdline()):
                found.append(child.pid)
    return found


def carries(lab: Lab, daemon: LabDaemon, name: str) -> None:
    """A request from the laptop arrives, from the tunnel's address."""
    address = daemon.wait_for(name, phase="up", health="healthy")["session"]["address"]
    arrives = f"sees {address}"  # of two tunnels the better one carries once it has proven itself
    eventually(
        lambda: arrives in lab.request(f"http://{DATACENTRE_WEB}/").body,
        PATIENCE,
        f"the web server {arrives}",
    )


def killed(lab: Lab, daemon: LabDaemon, name: str, *words: str) -> None:
    """The processes named by these words are killed, one after the other; traffic is back soon."""
    outages = []
    for word in words:
        daemon.wait_for(name, phase="up", health="healthy")
        (victim,) = below(daemon, word)
        outage = lab.outage(
            DATACENTRE_WEB, functools.partial(os.kill, victim, signal.SIGKILL), until=daemon.replaced(name)
        )
        outages.append(outage.seconds)
    print(f"{name}: killed, outages in seconds:", *(f"{seconds:.2f}" for seconds in outages))
    assert statistics.median(outages) <= 1.0 * NOISE


def thrown_out(lab: Lab, daemon: LabDaemon, name: str, server: StrongSwanServer) -> None:
    """The gateway's administrator ends all sessions; traffic is back soon."""
    daemon.wait_for(name, phase="up", health="healthy")
    outage = lab.outage(DATACENTRE_WEB, server.end_sessions, until=daemon.replaced(name))
    print(f"{name}: session ended by the gateway:", outage)
    assert outage.seconds <= 2.0 * NOISE
    assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel=name, reason="peer-closed") == 1, (
        daemon.cli("logs", name).stdout[-6000:]
    )


def in_the_dark(lab: Lab, daemon: LabDaemon, name: str) -> None:
    """The path drops everything for a while, and the probes notice."""
    lab.blackhole(CUSTOMER)
    try:
        daemon.wait_silent(name, PATIENCE)
    finally:
        lab.unblock(CUSTOMER)


def refused(lab: Lab, daemon: LabDaemon, name: str, server: StrongSwanServer, text: str) -> None:
    """A login that the gateway refuses is not repeated at once, and its reason is said."""
    before = len(server.attempts)
    error = eventually(lambda: daemon.tunnel(name)["last_error"], PATIENCE, "the login is refused")
    assert text in error
    eventually(
        lambda: daemon.metric("facilitator_tunnel_login_failures_total", tunnel=name),
        PATIENCE,
        "it is counted",
    )
    assert server.attempts[before:].count("refused") <= 3
