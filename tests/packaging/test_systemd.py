"""The unit and the daemon under a real systemd: started to READY, reloaded, killed, stopped, and refused with a wrong configuration."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.pki import Authority
from tests.lab.servers import BastionServer, OpenVpnServer
from tests.lab.wait import eventually
from tests.packaging.container import Machine, machine
from tests.packaging.installation import FACILITATOR, environment, install, put

pytestmark = pytest.mark.nspawn

# Nobody listens at these addresses: the daemon is ready without its tunnels.
CONFIG: dict[str, Any] = {
    "facilitator": {"name": "vm"},
    "staff": {"networks": ["10.8.0.0/16"]},
    "http": {"listen": "127.0.0.1:9464"},
    "tunnels": {"acme-dc": {"kind": "openvpn", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"}},
}
NOTHING = {"routes": "", "rules": "", "tables": "", "processes": ""}
OVPN = "client\ndev tun\nremote 127.0.0.1 1194\n"


@pytest.fixture
def vm(scratch: Path) -> Iterator[Machine]:
    """A machine with this checkout installed and configured, not started."""
    with machine(scratch, environment(scratch / "opt")) as booted:
        install(booted)
        put(booted, "config.yaml", yaml.safe_dump(CONFIG))
        put(booted, "acme.ovpn", OVPN)
        yield booted
        # pytest shows it when the test failed
        print(booted.run("journalctl", "--unit=facilitator", "--no-pager", "--output=cat", check=False).stdout)


def test_systemd_has_no_complaint_about_the_unit(vm: Machine) -> None:
    verified = vm.run("systemd-analyze", "verify", "facilitator.service")
    assert verified.stdout + verified.stderr == ""


def test_a_life(vm: Machine) -> None:
    vm.run("systemctl", "start", "facilitator")     # returns when the daemon has said READY=1
    started = vm.show("facilitator", "ActiveState", "MainPID", "StatusText", "NRestarts")
    assert started["ActiveState"] == "active"
    assert started["StatusText"]
    assert get(vm, "/readyz") == 200
    assert status(vm)["tunnels"][0]["name"] == "acme-dc"
    assert leftovers(vm)["routes"], "the fail-closed routes are in place"

    more = {**CONFIG["tunnels"], "another": {**CONFIG["tunnels"]["acme-dc"], "destinations": ["10.78.0.0/24"]}}
    put(vm, "config.yaml", yaml.safe_dump({**CONFIG, "tunnels": more}))
    vm.run("systemctl", "reload", "facilitator")
    eventually(lambda: len(status(vm)["tunnels"]) == 2, 10, "the reload brought another tunnel")
    eventually(lambda: vm.show("facilitator", "ActiveState")["ActiveState"] == "active", 10, "the reload is complete")
    assert vm.show("facilitator", "MainPID")["MainPID"] == started["MainPID"]

    vm.run("systemctl", "stop", "facilitator")
    assert vm.show("facilitator", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert leftovers(vm) == NOTHING


def test_a_killed_daemon_comes_back(vm: Machine) -> None:
    vm.run("systemctl", "start", "facilitator")
    before = vm.show("facilitator", "MainPID")["MainPID"]
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "facilitator")
    eventually(lambda: vm.show("facilitator", "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}, 20, "restarted")
    assert vm.show("facilitator", "MainPID")["MainPID"] != before
    assert get(vm, "/readyz") == 200


def test_a_wrong_configuration_is_said_once_and_not_retried(vm: Machine) -> None:
    put(vm, "config.yaml", yaml.safe_dump({**CONFIG, "tunels": {}}))
    assert vm.run("systemctl", "start", "facilitator", check=False).returncode != 0
    assert vm.show("facilitator", "ActiveState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0",
    }
    assert "/etc/facilitator/config.yaml:" in vm.journal()


def test_who_may_use_the_control_socket(vm: Machine) -> None:
    vm.run("useradd", "--groups", "facilitator", "alice")
    vm.run("useradd", "mallory")
    vm.run("systemctl", "start", "facilitator")
    assert as_user(vm, "alice", "stop", "acme-dc") == 0
    assert as_user(vm, "mallory", "start", "acme-dc") != 0
    assert status(vm)["tunnels"][0]["want"] == "down"


@pytest.fixture
def far_side() -> Iterator[Path]:
    """A directory for servers; their accounts can look into it, which they cannot with pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_tunnels_come_up_with_the_rights_of_the_unit(vm: Machine, far_side: Path) -> None:
    """Real servers in the machine's network: an openvpn and an sshuttle client of the unit's unprivileged user reach them."""
    openvpn = OpenVpnServer(vm.network, far_side, Authority(far_side))
    sshd = BastionServer(vm.network, far_side)
    cloud = {
        "kind": "sshuttle", "destinations": ["10.90.0.0/16"], "remote": "facilitator@127.0.0.1:22",
        "identity": {"file": "own-cloud-ssh-key"}, "known_hosts": "/etc/facilitator/known_hosts",
    }
    put(vm, "config.yaml", yaml.safe_dump({**CONFIG, "tunnels": {**CONFIG["tunnels"], "own-cloud": cloud}}))
    put(vm, "acme.ovpn", openvpn.client_config("127.0.0.1"))
    put(vm, "known_hosts", sshd.known_hosts("127.0.0.1"))
    # this secret comes as a systemd credential, which only the service can read
    vm.write("/etc/credstore/own-cloud-ssh-key", sshd.client_key.read_text(), 0o600)
    vm.write(
        "/etc/systemd/system/facilitator.service.d/secrets.conf",
        "[Service]\nLoadCredential=own-cloud-ssh-key:/etc/credstore/own-cloud-ssh-key\n",
    )
    vm.run("systemctl", "daemon-reload")
    try:
        openvpn.start()
        sshd.start()
        vm.run("systemctl", "start", "facilitator")
        eventually(lambda: {tunnel["phase"] for tunnel in status(vm)["tunnels"]} == {"up"}, 20, "both tunnels are up")
        owners = {name: vm.run("ps", "-o", "user:20=", "-C", name).stdout.split() for name in ("openvpn", "ssh")}
        assert owners == {"openvpn": ["facilitator"], "ssh": ["facilitator"]}
        vm.run("systemctl", "stop", "facilitator")
    finally:
        openvpn.stop()
        sshd.stop()
    assert leftovers(vm) == NOTHING


def get(vm: Machine, path: str) -> int:
    """The HTTP status that the daemon answers, asked from the machine's network."""
    with vm.network.entered():
        connection = http.client.HTTPConnection("127.0.0.1", 9464, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        connection.close()
    return answer.status


def status(vm: Machine) -> Any:
    """The status document, by the command, as root."""
    return json.loads(vm.run(FACILITATOR, "status", "--json", check=False).stdout)


def as_user(vm: Machine, user: str, *command: str) -> int:
    """The exit code of a command of ours that `user` runs."""
    return vm.run("runuser", "-u", user, "--", FACILITATOR, *command, check=False).returncode


def leftovers(vm: Machine) -> dict[str, str]:
    """What is ours in the machine's kernel."""
    rules = vm.run("ip", "rule", "show").stdout.splitlines()
    return {
        "routes": vm.run("ip", "route", "show", "table", "all", "proto", "173").stdout,
        "rules": "\n".join(rule for rule in rules if not rule.startswith(("0:", "32766:", "32767:"))),
        "tables": vm.run("nft", "list", "tables").stdout,
        "processes": vm.run("ps", "-o", "args=", "-u", "facilitator", check=False).stdout,
    }
