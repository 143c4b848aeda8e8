"""Two tunnels to one destination: the spare takes over, and nothing is followed that flaps."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.config import Config, only, with_password
from tests.lab.daemon import LabDaemon
from tests.lab.network import DATACENTRE_WEB
from tests.lab.wait import eventually

pytestmark = pytest.mark.root
FAST = {"interval": "500ms", "timeout": "400ms"}


def pair(lab: Lab, config: Config, probe: dict[str, str]) -> Config:
    """`acme-dc` as it is, and `acme-spare` through another server of the same customer."""
    assert lab.password_server.pid
    spare = with_password(config, lab.directory)["tunnels"]["acme-dc"]
    both = only(config, "acme-dc")
    both["tunnels"]["acme-spare"] = {**spare, "priority": 200}
    for tunnel in both["tunnels"].values():
        tunnel["probe"] = {**tunnel["probe"], **probe}
    return both


def carrier(daemon: LabDaemon) -> list[str]:
    return [tunnel["name"] for tunnel in daemon.status()["tunnels"] if tunnel["carries"]]


@contextlib.contextmanager
def connection(lab: Lab) -> Iterator[socket.socket]:
    """A TCP connection from the laptop that is open and idle."""
    with lab.network["laptop"].entered():
        sock = socket.create_connection((str(DATACENTRE_WEB), 80), timeout=10)
    with sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")
        yield sock


@pytest.fixture
def silenced(lab: Lab) -> Iterator[None]:
    """The first server speaks again at the end."""
    yield
    os.kill(lab.openvpn.pid, signal.SIGCONT)


def without_answers(lab: Lab, daemon: LabDaemon) -> float:
    """Seconds that the laptop is without answers when the first server falls silent; it speaks again
    afterwards.

    The stopwatch starts after a round of probes, so that the fault comes early between two rounds: that is
    what takes long.
    """
    daemon.wait_well()
    eventually(lambda: carrier(daemon) == ["acme-dc"], 5, "the first one carries")
    before = daemon.metric("facilitator_tunnel_probe_rtt_seconds", tunnel="acme-dc")
    eventually(
        lambda: daemon.metric("facilitator_tunnel_probe_rtt_seconds", tunnel="acme-dc") != before,
        5,
        "a round is answered",
    )
    outage = lab.outage(DATACENTRE_WEB, lambda: os.kill(lab.openvpn.pid, signal.SIGSTOP))
    print("silent drop of the carrier:", outage)
    assert carrier(daemon) == ["acme-spare"]
    os.kill(lab.openvpn.pid, signal.SIGCONT)
    return outage.seconds


@pytest.mark.timed
@pytest.mark.parametrize(
    ("probe", "limit", "times"),
    [(FAST, 2.0, 3), ({"interval": "5s", "timeout": "2s"}, 11.0, 1)],
    ids=["fast", "default"],
)
def test_a_silent_tunnel_is_left_at_the_verdict(
    lab: Lab, config: Config, silenced: None, probe: dict[str, str], limit: float, times: int
) -> None:
    with lab.daemon(pair(lab, config, probe)) as daemon:
        assert statistics.median(without_answers(lab, daemon) for _ in range(times)) <= limit


def test_a_planned_switch_loses_nothing(lab: Lab, config: Config) -> None:
    """Neither a datagram of a running flow nor a new connection; a TCP connection through the tunnel that
    is stopped is reset at once.
    """
    with lab.daemon(pair(lab, config, FAST)) as daemon:
        daemon.wait_well()
        eventually(lambda: carrier(daemon) == ["acme-dc"], 5, "the first one carries")
        with lab.flood(DATACENTRE_WEB, rate=100) as flood, lab.poller(DATACENTRE_WEB) as poller:
            poller.wait_settled(10)
            since = time.monotonic()
            with connection(lab) as stream:
                assert daemon.cli("stop", "acme-dc").returncode == 0
                eventually(lambda: carrier(daemon) == ["acme-spare"], 5, "the spare carries")
                daemon.wait_for("acme-dc", 10, phase="stopped")
                stream.sendall(b"Host: a server that waits for more\r\n")
                with pytest.raises(ConnectionResetError):
                    stream.recv(1)
            poller.wait_settled(10)
        print(f"sent {flood.sent}, echoed {flood.echoed}, requests: {poller.outage(since)}")
        assert flood.echoed >= flood.sent  # the last one may have been sent and not be counted
        assert poller.outage(since).failed == 0


def test_a_datagram_flow_goes_on_when_its_tunnel_leaves_the_configuration_while_no_daemon_runs(
    lab: Lab, config: Config
) -> None:
    """It never pauses, so the kernel itself would remember it, and its source address, for ever."""
    both = pair(lab, config, FAST)
    with (
        lab.daemon(both) as daemon,
        lab.network["laptop"].entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow,
    ):
        daemon.wait_well()
        eventually(lambda: carrier(daemon) == ["acme-dc"], 5, "the first one carries")
        flow.connect((str(DATACENTRE_WEB), 7))
        flow.settimeout(0.1)
        first = daemon.tunnel("acme-dc")["session"]["address"].encode()
        assert eventually(lambda: echoed(flow), 5, "it is answered").endswith(b"sees " + first + b"\n.")
        daemon.kill9()
        daemon.configure(only(both, "acme-spare"))
        daemon.start()
        eventually(lambda: carrier(daemon) == ["acme-spare"], 10, "the spare carries")
        second = daemon.tunnel("acme-spare")["session"]["address"].encode()
        eventually(lambda: second in echoed(flow), 5, "it is answered through the spare")


def test_a_datagram_flow_that_stayed_behind_goes_on_when_its_tunnel_stops(lab: Lab, config: Config) -> None:
    """Its destination has moved to the other tunnel, the first one still carries something, and the flow
    never pauses.
    """
    both = pair(lab, config, FAST)
    with (
        lab.daemon(both) as daemon,
        lab.network["laptop"].entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow,
    ):
        daemon.wait_well()
        eventually(lambda: carrier(daemon) == ["acme-dc"], 5, "the first one carries")
        flow.connect((str(DATACENTRE_WEB), 7))
        flow.settimeout(0.1)
        first, second = (
            daemon.tunnel(name)["session"]["address"].encode() for name in ("acme-dc", "acme-spare")
        )
        eventually(lambda: first in echoed(flow), 5, "it is answered")
        both["tunnels"]["acme-dc"] |= {
            "destinations": ["10.66.0.0/24"],
            "probe": {**FAST, "targets": ["tcp://10.66.0.1:80"]},
        }
        daemon.configure(both)
        assert daemon.cli("reload").returncode == 0
        eventually(lambda: carrier(daemon) == ["acme-dc", "acme-spare"], 5, "each carries something")
        eventually(lambda: first in echoed(flow), 5, "the flow goes on where it is")
        assert daemon.cli("stop", "acme-dc").returncode == 0
        eventually(lambda: second in echoed(flow), 10, "it is answered through the spare")


def echoed(flow: socket.socket) -> bytes:
    """The answer to a datagram; none: empty."""
    with contextlib.suppress(OSError):
        flow.send(b".")
        return flow.recv(100)
    return b""


def test_the_first_one_takes_over_again_once_it_has_proven_itself(lab: Lab, config: Config) -> None:
    with lab.daemon(pair(lab, config, FAST)) as daemon:
        daemon.wait_well()
        daemon.cli("stop", "acme-dc")
        eventually(lambda: carrier(daemon) == ["acme-spare"], 5, "the spare carries")
        daemon.cli("start", "acme-dc")
        eventually(lambda: carrier(daemon) == ["acme-dc"], 5, "the first carries again")
