"""The end of a daemon, and of one tunnel: what is under way goes on to its end, nothing new begins, and
then nothing is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.config import Config, only, with_password
from tests.lab.daemon import LabDaemon, LabPagerDuty
from tests.lab.network import CLOUD_WEB, DATACENTRE_WEB
from tests.lab.wait import NOISE, PATIENCE, eventually

pytestmark = pytest.mark.root
TUNNELS = {"acme-dc": DATACENTRE_WEB, "own-cloud": CLOUD_WEB}


class SlowRequest:
    """A request of the laptop that takes as long as the test wants."""

    def __init__(self, lab: Lab, address: IPv4Address) -> None:
        with lab.network["laptop"].entered():
            self._sock = socket.create_connection((str(address), 80), timeout=PATIENCE)
        self._sock.sendall(b"GET / HTTP/1.1\r\n")

    def __enter__(self) -> SlowRequest:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def goes_on(self) -> None:
        """Some more of the request; its far end has got all of it when the kernel says so."""
        self._sock.sendall(b"X-More: 1\r\n")
        eventually(
            lambda: self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28] == bytes(4),
            5,
            "it is acknowledged",
        )

    def finish(self) -> str:
        """The end of the request, and all of the answer."""
        self._sock.sendall(b"\r\n")
        with self._sock.makefile("rb") as answer:
            text = answer.read().decode()
        self._sock.close()
        return text.splitlines()[-1]


def connects(lab: Lab, address: IPv4Address) -> bool:
    """Whether a new connection of the laptop is taken, at once."""
    with lab.network["laptop"].entered(), socket.socket() as sock:
        sock.settimeout(PATIENCE)
        return sock.connect_ex((str(address), 80)) == 0


def refused(lab: Lab, address: IPv4Address) -> float:
    """Seconds until a new connection of the laptop is refused; it must be."""
    with lab.network["laptop"].entered(), socket.socket() as sock:
        sock.settimeout(PATIENCE)
        start = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            sock.connect((str(address), 80))
        return time.monotonic() - start


def drain_of(daemon: LabDaemon, tunnel: str) -> dict[str, object] | None:
    """What the status says about it."""
    found: dict[str, object] | None = daemon.tunnel(tunnel)["drain"]
    return found


def remembered(daemon: LabDaemon) -> list[str]:
    """Flows with a mark of ours that the kernel still knows."""
    return [
        line for line in daemon.namespace.run("conntrack", "-L").stdout.splitlines() if " mark=173" in line
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_waits_for_what_is_under_way(
    lab: Lab, config: Config, daemon: LabDaemon, how: signal.Signals
) -> None:
    with contextlib.ExitStack() as streams:
        open_ones = {
            name: streams.enter_context(SlowRequest(lab, address)) for name, address in TUNNELS.items()
        }
        clients = set(daemon.client_pids())
        daemon.signal(how)
        for name, address in TUNNELS.items():
            eventually(
                lambda name=name: (drain_of(daemon, name) or {}).get("flows_left") == 1,
                5,
                f"{name} has one flow left",
            )
            refused(lab, address)
        assert daemon.get("/readyz") == (503, "draining\n")
        assert daemon.status()["draining"] is True
        assert daemon.metric("facilitator_tunnel_flows_left") == 2
        assert daemon.metric("facilitator_draining") == 1
        assert set(daemon.client_pids()) == clients, "the signal was not passed on"
        assert "draining" in daemon.cli("status").stdout
        assert "is draining, and only active flows continue" in daemon.cli("why", str(DATACENTRE_WEB)).stdout
        daemon.signal(signal.SIGHUP)
        eventually(
            lambda: "reload refused, nothing changed: draining" in daemon.log.read_text(),
            5,
            "a reload is refused",
        )
        for stream in open_ones.values():
            stream.goes_on()
        assert "cloud sees" in open_ones["own-cloud"].finish()
        daemon.wait_for("own-cloud", phase="stopped", reason="shutdown")
        assert drain_of(daemon, "acme-dc")
        open_ones["acme-dc"].goes_on()
        assert "datacentre sees" in open_ones["acme-dc"].finish()
    assert daemon.ended() == 0
    assert daemon.leftovers() == {}
    assert remembered(daemon) == []
    assert "to_end_now" in daemon.log.read_text()


@pytest.mark.timed
def test_it_begins_and_ends_at_once(lab: Lab, daemon: LabDaemon) -> None:
    with SlowRequest(lab, DATACENTRE_WEB) as acme, SlowRequest(lab, CLOUD_WEB) as cloud:
        start = time.monotonic()
        daemon.signal(signal.SIGTERM)
        eventually(lambda: daemon.get("/readyz")[0] == 503, 0.1, "not ready", every=0.001)
        ready = time.monotonic() - start
        for address in TUNNELS.values():
            eventually(
                lambda address=address: not connects(lab, address), 0.1, "new flows are refused", every=0.001
            )
        closed = time.monotonic() - start
        refusals = [refused(lab, address) for address in TUNNELS.values()]
        cloud.finish()
        acme.finish()
        finished = time.monotonic()
        assert daemon.ended() == 0
        print(
            f"not ready after {ready * 1000:.0f} ms; new flows are refused after {closed * 1000:.0f} ms, "
            f"each in {max(refusals) * 1000:.0f} ms; gone {time.monotonic() - finished:.2f} s after the "
            f"last flow"
        )
    assert ready <= 0.1 * NOISE
    assert closed <= 0.1 * NOISE
    assert daemon.leftovers() == {}


@pytest.mark.parametrize("stuck", [False, True], ids=["logging off", "a client is stuck"])
def test_it_ends_now_when_told_so(lab: Lab, daemon: LabDaemon, stuck: bool) -> None:
    with SlowRequest(lab, DATACENTRE_WEB), SlowRequest(lab, CLOUD_WEB):
        for pid in daemon.client_pids("openvpn") if stuck else ():
            os.kill(pid, signal.SIGSTOP)
        told = daemon.cli("drain")
        assert told.returncode == 0
        assert told.stdout.startswith("draining: acme-dc 1 flow left, silent for at most ")
        assert daemon.cli("restart", "acme-dc").returncode == 1, "nothing new begins"
        start = time.monotonic()
        assert daemon.cli("drain", "--now").stdout == "stopping now\n"
        assert daemon.ended() == 0
        took = time.monotonic() - start
        print(f"out in {took:.2f} s with the command")
        assert took <= 5.0 * NOISE
    assert daemon.leftovers() == {}


def test_what_drains_is_kept_up(lab: Lab, daemon: LabDaemon) -> None:
    with SlowRequest(lab, DATACENTRE_WEB):
        daemon.signal(signal.SIGTERM)
        eventually(lambda: (drain_of(daemon, "acme-dc") or {}).get("flows_left") == 1, 5, "it drains")
        again = daemon.replaced("acme-dc")
        for pid in daemon.client_pids("openvpn"):
            os.kill(pid, signal.SIGKILL)
        eventually(again, 20, "the tunnel has another session")
        daemon.wait_for("acme-dc", phase="up", health="healthy")
        assert drain_of(daemon, "acme-dc"), "and still drains"


def test_the_daemon_after_a_crash_goes_on_with_it_to_the_end(lab: Lab, daemon: LabDaemon) -> None:
    with SlowRequest(lab, DATACENTRE_WEB) as stream, SlowRequest(lab, CLOUD_WEB) as other:
        daemon.signal(signal.SIGTERM)
        before = eventually(lambda: drain_of(daemon, "acme-dc"), 5, "it drains")
        other.finish()
        daemon.wait_for("own-cloud", phase="stopped")
        session = daemon.tunnel("acme-dc")["session"]["id"]
        for _ in range(2):
            daemon.kill9()
            refused(lab, DATACENTRE_WEB)
            daemon.start(ready=503)
            assert not connects(lab, DATACENTRE_WEB)
            assert not connects(lab, CLOUD_WEB)
            after = drain_of(daemon, "acme-dc") or {}
            assert (after["until"], after["reason"]) == (before["until"], "shutdown")
            assert daemon.status()["draining"]
            assert daemon.tunnel("acme-dc")["session"]["id"] == session
            assert daemon.tunnel("own-cloud")["phase"] == "stopped", "what has ended does not begin anew"
            stream.goes_on()
        daemon.wait_for("acme-dc", phase="up", health="healthy")
        assert daemon.cli("restart", "own-cloud").returncode == 1, "nothing new begins"
        assert daemon.cli("upgrade").returncode == 1
        assert "datacentre sees" in stream.finish()
    assert daemon.ended() == 0
    assert daemon.leftovers() == {}
    daemon.start()
    daemon.wait_well()
    assert connects(lab, DATACENTRE_WEB), "whoever starts it afterwards wants it to serve"


def test_a_drain_whose_time_ends_while_no_daemon_runs_is_over(lab: Lab, daemon: LabDaemon) -> None:
    with SlowRequest(lab, DATACENTRE_WEB):
        assert daemon.cli("drain").returncode == 0
        daemon.kill9()
        order = daemon.runtime_dir / "orders" / "end.json"
        document = json.loads(order.read_text())
        assert document["until"] > time.monotonic() + 7 * 3600.0
        order.write_text(json.dumps({**document, "until": time.monotonic()}))
        daemon.start(ready=None)
        assert daemon.ended() == 0
    assert daemon.leftovers() == {}


def test_one_tunnel_goes_on_draining_after_a_crash(lab: Lab, daemon: LabDaemon) -> None:
    with SlowRequest(lab, DATACENTRE_WEB) as stream:
        assert daemon.cli("stop", "acme-dc", "--drain").returncode == 0
        before = drain_of(daemon, "acme-dc") or {}
        daemon.kill9()
        daemon.start()
        refused(lab, DATACENTRE_WEB)
        assert connects(lab, CLOUD_WEB)
        assert (drain_of(daemon, "acme-dc") or {})["until"] == before["until"]
        stream.goes_on()
        assert "datacentre sees" in stream.finish()
    daemon.wait_for("acme-dc", phase="stopped", reason="stopped", want="down")


def test_a_silent_flow_holds_up_nothing(lab: Lab, config: Config) -> None:
    with lab.daemon({**config, "drain": {"idle": "1s"}}) as daemon:
        daemon.wait_well()
        with SlowRequest(lab, DATACENTRE_WEB), SlowRequest(lab, CLOUD_WEB):
            daemon.signal(signal.SIGTERM)
            assert daemon.ended() == 0
            assert daemon.leftovers() == {}
            assert remembered(daemon) == []


def test_the_time_is_limited_and_what_closes_stays(lab: Lab, config: Config, pagerduty: LabPagerDuty) -> None:
    limited = {
        **config,
        **lab.configuration(pagerduty),
        "drain": {"timeout": "2s"},
        "on_exit": "keep",
        "defaults": config["defaults"],
    }
    with lab.daemon(limited) as daemon:
        daemon.wait_well()
        with SlowRequest(lab, DATACENTRE_WEB):
            daemon.signal(signal.SIGTERM)
            assert daemon.ended() == 0
        assert daemon.client_pids() == []
        assert set(daemon.leftovers()) == {"routes", "rules", "tables"}
        assert lab.request(f"http://{DATACENTRE_WEB}/", timeout=5).status == 0
        assert pagerduty.open() == []
    assert daemon.leftovers() == {}


def test_the_service_manager_hears_how_far_it_is(
    lab: Lab, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(PATIENCE)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with manager, LabDaemon(lab.network["facilitator"], lab.directory, config) as daemon:
        monkeypatch.delenv("NOTIFY_SOCKET")
        daemon.wait_well()
        with SlowRequest(lab, DATACENTRE_WEB):
            daemon.signal(signal.SIGTERM)
            heard: list[str] = []
            while not heard or "draining: acme-dc 1 flow" not in heard[-1]:
                heard.append(manager.recv(4096).decode())
            drained = heard[heard.index("STOPPING=1") :]
            assert "EXTEND_TIMEOUT_USEC=60000000" in drained
            assert not any("READY=1" in each for each in drained)
    assert daemon.leftovers() == {}


@pytest.fixture
def pair(lab: Lab, config: Config) -> Iterator[LabDaemon]:
    """`acme-dc`, and `acme-spare` to the same place through another server."""
    assert lab.password_server.pid
    spare = with_password(config, lab.directory)["tunnels"]["acme-dc"]
    both = only(config, "acme-dc")
    both["tunnels"]["acme-spare"] = {**spare, "priority": 200}
    with lab.daemon(both) as daemon:
        daemon.wait_well()
        eventually(lambda: daemon.tunnel("acme-dc")["carries"], 5, "the first one carries")
        yield daemon
    assert daemon.leftovers() == {}


def test_one_tunnel_drains_while_another_takes_over(lab: Lab, pair: LabDaemon) -> None:
    url = f"http://{DATACENTRE_WEB}/"
    with SlowRequest(lab, DATACENTRE_WEB) as stream:
        first = lab.request(url).body
        told = pair.cli("stop", "acme-dc", "--drain")
        assert told.returncode == 0
        assert told.stdout.startswith("acme-dc: draining, 1 flow left, silent for at most ")
        assert pair.tunnel("acme-spare")["carries"]
        second = lab.request(url).body
        assert second != first, "it came through the other tunnel"
        assert pair.get("/readyz")[0] == 200
        stream.goes_on()
        assert stream.finish() == first, "it went on in the first one"
    pair.wait_for("acme-dc", phase="stopped", reason="stopped", want="down")
    assert lab.request(url).body == second
    assert pair.cli("start", "acme-dc").returncode == 0


def test_a_start_takes_a_tunnel_back(lab: Lab, daemon: LabDaemon) -> None:
    with SlowRequest(lab, DATACENTRE_WEB) as stream:
        session = daemon.tunnel("acme-dc")["session"]["id"]
        assert daemon.cli("stop", "acme-dc", "--drain").returncode == 0
        refused(lab, DATACENTRE_WEB)
        assert daemon.cli("start", "acme-dc").returncode == 0
        assert drain_of(daemon, "acme-dc") is None
        assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
        assert daemon.tunnel("acme-dc")["session"]["id"] == session
        stream.finish()
    assert daemon.tunnel("acme-dc")["phase"] == "up"


def test_without_anything_under_way_it_ends_at_once(lab: Lab, daemon: LabDaemon) -> None:
    for address in TUNNELS.values():
        assert lab.request(f"http://{address}/").status == 200
    daemon.signal(signal.SIGTERM)
    assert daemon.ended() == 0
    assert daemon.leftovers() == {}
