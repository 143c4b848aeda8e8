"""What people do to it: wrong passwords, stop and start, restarts, and an end without warning."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.control.client import ControlClient, Unreachable
from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config, only, with_password
from tests.lab.daemon import LabPagerDuty
from tests.lab.servers import PASSWORD
from tests.lab.traffic import watched
from tests.lab.wait import PATIENCE, eventually

pytestmark = pytest.mark.root


def test_a_wrong_password_stops_after_three_logins_and_a_right_one_heals(
    lab: Lab, config: Config, pagerduty: LabPagerDuty
) -> None:
    server = lab.password_server
    before = len(server.attempts)
    config |= {"alerts": lab.configuration(pagerduty)["alerts"]}
    config["defaults"]["alert"] = {"after": "10m", "clear_after": "1s"}
    lab.set_secret("acme-password", "wrong\n")
    with lab.daemon(only(with_password(config, lab.directory), "acme-dc")) as daemon:
        failed = daemon.wait_for("acme-dc", 40, phase="failed")
        assert failed["reason"] == "auth"
        opened = eventually(pagerduty.open, 3, "an incident is open, though alert.after is ten minutes")
        assert opened == ["facilitator/lab/acme-dc"]
        assert daemon.metric("facilitator_tunnel_login_failures_total", tunnel="acme-dc") == 3
        assert server.attempts[before:] == ["refused"] * 3
        assert daemon.cli("status").returncode == 3

        lab.set_secret("acme-password", f"{PASSWORD}\n")
        daemon.wait_for("acme-dc", 10, phase="up", health="healthy")
        assert server.attempts[before:] == ["refused"] * 3 + ["accepted"]
        assert lab.request(f"http://{DATACENTRE_WEB}/").body == "datacentre sees 10.79.0.2"
        eventually(lambda: not pagerduty.open(), 10, "the incident is resolved")


def test_stop_holds_until_start_also_over_a_restart(lab: Lab, daemon: LabDaemon) -> None:
    assert daemon.cli("stop", "acme-dc").returncode == 0
    daemon.wait_for("acme-dc", 10, phase="stopped", want="down")
    with watched(lab.capture()) as clear:
        assert lab.request(f"http://{DATACENTRE_WEB}/", timeout=2).status == 0
    assert clear == []
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_for("own-cloud", phase="up", health="healthy")
    assert daemon.tunnel("acme-dc")["phase"] == "stopped"
    assert daemon.client_pids("openvpn") == []
    assert daemon.cli("start", "acme-dc").returncode == 0
    daemon.wait_for("acme-dc", phase="up", health="healthy")
    assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200


def test_a_killed_daemon_comes_back_without_double_clients(lab: Lab, daemon: LabDaemon) -> None:
    with watched(lab.capture()) as clear, lab.flood(DATACENTRE_WEB, CLOUD_WEB, rate=1000) as flood:
        daemon.kill9()
        daemon.start()
        daemon.wait_well()
    assert clear == []
    assert flood.sent > 0
    for address in (DATACENTRE_WEB, CLOUD_WEB):
        assert lab.request(f"http://{address}/").status == 200
    assert [len(daemon.client_pids(name)) for name in ("openvpn", "sshuttle", "ssh")] == [1, 1, 1]


def test_who_asks_while_it_starts_hears_of_all_tunnels(daemon: LabDaemon) -> None:
    client, heard, up = (
        ControlClient(daemon.runtime_dir / "control.sock", timeout=PATIENCE),
        [],
        threading.Event(),
    )

    def ask() -> None:
        while not up.is_set():
            with contextlib.suppress(Unreachable):
                heard.append(len(client.get("/api/v1/status")["tunnels"]))

    for _ in range(3):
        daemon.kill9()
        up.clear()
        with ThreadPoolExecutor() as people:
            people.submit(ask)
            try:
                daemon.start()
            finally:
                up.set()
    assert set(heard) == {2}


def test_one_capability_is_enough(lab: Lab, config: Config) -> None:
    with lab.daemon(config, user=64002) as daemon:
        daemon.wait_well()
        for pid in (daemon.pid, *daemon.client_pids()):
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nUid:\t64002\t64002" in status
            assert "\nCapBnd:\t0000000000001000" in status  # CAP_NET_ADMIN
        for address in (DATACENTRE_WEB, CLOUD_WEB):
            assert lab.request(f"http://{address}/").status == 200
