"""A path that silently drops large packets: its limit inside the tunnel is found, and new connections keep
to it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.lab import CUSTOMER, DATACENTRE_WEB, Lab
from tests.lab.config import Config, only
from tests.lab.daemon import LabDaemon
from tests.lab.wait import eventually

pytestmark = pytest.mark.root

OUTER = 1300  # bytes that the path between the sites takes
INNER = OUTER - 20 - 8 - 24  # less IP, UDP and OpenVPN's own header
AMOUNT = 50_000_000
PORT = 5001
SERVE = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}))
print("serving", flush=True)
while True:
    with listener.accept()[0] as connection:
        connection.sendall(bytes({AMOUNT}))
"""
FETCH = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT}), timeout=5) as connection:
    got = 0
    while data := connection.recv(1 << 20):
        got += len(data)
print(got)
"""


@contextlib.contextmanager
def narrow(lab: Lab) -> Iterator[None]:
    """The transport drops packets of more than OUTER bytes from and to the customer, and tells nobody."""
    with filtering(
        lab,
        "transport",
        "forward",
        f"ip saddr {CUSTOMER} meta length > {OUTER}",
        f"ip daddr {CUSTOMER} meta length > {OUTER}",
    ):
        yield


@contextlib.contextmanager
def filtering(lab: Lab, where: str, hook: str, *dropped: str) -> Iterator[None]:
    """The namespace silently drops these packets."""
    namespace = lab.network[where]
    rules = "".join(f"{each} drop; " for each in dropped)
    namespace.run("nft", f"table inet narrow {{ chain c {{ type filter hook {hook} priority 0; {rules}}}; }}")
    try:
        yield
    finally:
        namespace.run("nft", "delete table inet narrow")


@contextlib.contextmanager
def big_server(lab: Lab) -> Iterator[None]:
    """The datacentre sends AMOUNT bytes to whoever connects."""
    process = lab.network["datacentre"].popen(sys.executable, "-c", SERVE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        yield
    finally:
        process.kill()
        process.communicate()


def fetched(lab: Lab) -> int:
    """Bytes that the laptop gets within the patience of a connection; 0 when it gives up."""
    done = lab.network["laptop"].run(
        sys.executable, "-c", FETCH, str(DATACENTRE_WEB), check=False, timeout=120
    )
    return int(done.stdout or 0)


def measured(daemon: LabDaemon, mtu: int) -> None:
    eventually(
        lambda: daemon.tunnel("acme-dc")["session"]["path_mtu"] == mtu, 20, f"the path takes {mtu} bytes"
    )
    assert daemon.metric("facilitator_tunnel_path_mtu_bytes", tunnel="acme-dc") == mtu


@pytest.fixture
def acme(config: Config) -> Config:
    """The tunnel with one target for health. Its host answers echo requests too."""
    return only(config, "acme-dc")


def clamp(lab: Lab) -> str:
    """What the kernel's rules make of the TCP maximum segment size."""
    return lab.network["facilitator"].run("nft", "list", "map", "inet", "facilitator", "mss4").stdout


def test_a_path_that_drops_silently_carries_a_big_transfer(lab: Lab, acme: Config) -> None:
    with narrow(lab), lab.daemon(acme) as daemon, big_server(lab):
        daemon.wait_for("acme-dc", phase="up", health="healthy")
        measured(daemon, INNER)
        eventually(lambda: f": {INNER - 40}" in clamp(lab), 5, "the clamp follows")
        assert fetched(lab) == AMOUNT
        assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel="acme-dc") == 0


def test_without_an_answer_to_echo_requests_nothing_is_claimed(lab: Lab, acme: Config) -> None:
    """Also the counter-proof: on this path a transfer stands still without the clamp."""
    with (
        narrow(lab),
        filtering(lab, "datacentre", "input", "icmp type echo-request"),
        lab.daemon(acme) as daemon,
        big_server(lab),
    ):
        daemon.wait_for("acme-dc", phase="up", health="healthy")
        assert fetched(lab) == 0
        assert daemon.tunnel("acme-dc")["session"]["path_mtu"] is None
        assert "facilitator_tunnel_path_mtu_bytes{" not in daemon.metrics()
        assert ": 1460" in clamp(lab)


def test_each_session_is_measured(lab: Lab, acme: Config) -> None:
    with lab.daemon(acme) as daemon:
        daemon.wait_for("acme-dc", phase="up", health="healthy")
        measured(daemon, 1500)
        with narrow(lab):
            assert daemon.cli("restart", "acme-dc").returncode == 0
            measured(daemon, INNER)
        assert daemon.cli("restart", "acme-dc").returncode == 0
        measured(daemon, 1500)
