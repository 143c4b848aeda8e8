"""A reload touches what changed, in the least disturbing way, and nothing else."""

from __future__ import annotations

import os
import re
import signal
from ipaddress import IPv4Address

import pytest

from supervisor.core.exits import Exit
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.network import DATACENTRE, DATACENTRE_WEB, PRESENTED
from tests.lab.wait import eventually

pytestmark = pytest.mark.root

MANY = 50
# datagrams a second through each of the many: what the echo in the lab takes from all of them without a loss
RATE = 20


def reload(daemon: LabDaemon, config: Config) -> list[str]:
    """Have the daemon take this over; what it says was done."""
    daemon.configure(config)
    done = daemon.cli("reload")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def rules(daemon: LabDaemon) -> str:
    """Our table with the kernel's numbers of chains, rules and sets, without elements and counters:
    another one had it built anew.
    """
    table = daemon.namespace.run("nft", "-a", "list", "table", "inet", "facilitator").stdout
    return re.sub(r"\s*elements = \{[^}]*\}|packets \d+ bytes \d+", "", table)


def test_probes_alerts_and_destinations_change_without_a_restart(
    lab: Lab, config: Config, daemon: LabDaemon
) -> None:
    acme, clients, table = config["tunnels"]["acme-dc"], daemon.client_pids(), rules(daemon)
    with lab.flood(DATACENTRE_WEB, rate=100) as flood:
        acme["probe"] = {"targets": acme["probe"]["targets"], "interval": "400ms"}
        acme["alert"] = {"after": "10m"}
        assert reload(daemon, config) == ["acme-dc: probe, alert changed"]
        acme["destinations"] = [str(DATACENTRE), "10.79.0.0/24"]
        assert reload(daemon, config) == ["acme-dc: destinations changed"]
        daemon.wait_for("acme-dc", carries=[str(DATACENTRE), "10.79.0.0/24"])
        assert reload(daemon, config) == ["nothing changed"]
    assert flood.sent == flood.echoed
    assert daemon.client_pids() == clients
    assert rules(daemon) == table


def test_a_wrong_file_changes_nothing_and_every_error_is_said(config: Config, daemon: LabDaemon) -> None:
    before, clients = daemon.status(), daemon.client_pids()
    assert daemon.metric("facilitator_config_last_reload_successful") == 1
    wrong = {
        **config,
        "tunels": {},
        "tunnels": {**config["tunnels"], "own-cloud": {"kind": "sshuttle", "priority": "high"}},
    }
    daemon.configure(wrong)
    done = daemon.cli("reload")
    assert done.returncode == Exit.CONFIG
    for error in ("tunels: unknown", "own-cloud.priority: ", "remote is missing", "destinations is missing"):
        assert error in done.stderr
    assert daemon.metric("facilitator_config_last_reload_successful") == 0
    assert [t["session"] for t in daemon.status()["tunnels"]] == [t["session"] for t in before["tunnels"]]

    daemon.configure(config)
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(
        lambda: daemon.metric("facilitator_config_last_reload_successful") == 1, 5, "the signal reloads too"
    )
    assert daemon.client_pids() == clients


def test_one_of_fifty_changes_and_the_others_lose_nothing(lab: Lab, config: Config) -> None:
    lab.shared_server()
    addresses = {f"acme-{n}": IPv4Address(int(PRESENTED[n])) for n in range(1, MANY + 1)}
    common = {"kind": "openvpn", "config": str(lab.directory / "acme-shared.ovpn")}
    config["tunnels"] = {
        name: {
            **common,
            "destinations": [{"network": f"{DATACENTRE_WEB}/32", "presented_as": f"{address}/32"}],
        }
        for name, address in addresses.items()
    }
    config["defaults"]["login"] = {"pause": "10ms"}
    changed, *others = addresses
    with lab.daemon(config) as daemon:
        for name in addresses:
            daemon.wait_for(name, phase="up")
        before = pids(daemon)
        with lab.flood(*(addresses[name] for name in others), rate=RATE) as flood:
            replaced = daemon.replaced(changed)
            config["tunnels"][changed]["mtu"] = 1400
            assert reload(daemon, config) == [f"{changed}: mtu changed, restarts"]
            eventually(replaced, 20, "the changed one has another session")
            daemon.wait_for(changed, phase="up")
        after = pids(daemon)
    assert flood.sent == flood.echoed > 0
    assert {name for name in addresses if after[name] != before[name]} == {changed}
    assert daemon.leftovers() == {}


def pids(daemon: LabDaemon) -> dict[str, int]:
    """The client of each tunnel."""
    return {tunnel["name"]: tunnel["session"]["pid"] for tunnel in daemon.status()["tunnels"]}


def test_a_profile_that_cannot_be_run_is_said_and_stops_its_own_tunnel_only(
    lab: Lab, config: Config, daemon: LabDaemon
) -> None:
    clients, profile = daemon.client_pids(), lab.directory / "globex.ovpn"
    profile.write_text(
        f"remote {DATACENTRE_WEB} 1194\nhttp-proxy {DATACENTRE_WEB} 3128 own-cloud-ssh-key basic\n"
    )
    config["tunnels"]["globex"] = {
        "kind": "openvpn",
        "destinations": ["10.203.0.0/24"],
        "config": str(profile),
    }
    daemon.configure(config)
    done = daemon.cli("reload")
    assert (done.returncode, f"{profile}:2: http-proxy names a file" in done.stdout + done.stderr) == (
        1,
        True,
    )
    failed = daemon.wait_for("globex", phase="backoff", reason="client-config")
    assert failed["last_error"].startswith(f"client-config: {profile}:2: http-proxy names a file")
    profile.write_text(f"remote {DATACENTRE_WEB} 1194\nca ca-of-globex.crt\n")
    missing = daemon.wait_for("globex", phase="backoff", reason="missing-input")
    assert (
        missing["last_error"]
        == f"missing-input: {profile}:2: ca: cannot read ca-of-globex.crt: No such file or directory"
    )
    (lab.directory / "ca-of-globex.crt").write_text("at last")
    daemon.wait_for("globex", reason="client-config")  # OpenVPN's own verdict about this profile
    for name in ("acme-dc", "own-cloud"):
        daemon.wait_for(name, phase="up", health="healthy")
    assert [pid for pid in clients if pid not in daemon.client_pids()] == []
