"""The unit and the daemon under a real systemd: started to READY, reloaded, killed, stopped, and refused
with a wrong configuration.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.wait import eventually
from tests.openvpn_profile import sound_profile
from tests.packaging.container import Machine, machine
from tests.packaging.installation import (
    EXAMPLES,
    FACILITATOR,
    SOURCE,
    WHEELS,
    environment,
    foreign_interpreter,
    install,
    put,
    sources,
)

pytestmark = pytest.mark.nspawn

# Nobody listens at these addresses: the daemon is ready without its tunnels.
CONFIG: dict[str, Any] = {
    "facilitator": {"name": "vm"},
    "on_exit": "remove",
    "staff": {"networks": ["10.8.0.0/16"]},
    "http": {"listen": "127.0.0.1:9464"},
    "tunnels": {
        "acme-dc": {
            "kind": "openvpn",
            "destinations": ["10.77.0.0/24"],
            "config": "/etc/facilitator/acme.ovpn",
        }
    },
}
NOTHING = {"routes": "", "rules": "", "tables": "", "processes": ""}
OVPN = sound_profile("127.0.0.1 1194")


@pytest.fixture
def vm(scratch: Path) -> Iterator[Machine]:
    """A machine with this checkout installed and configured, not started."""
    with machine(scratch, environment(scratch / "opt")) as booted:
        install(booted)
        put(booted, "config.yaml", yaml.safe_dump(CONFIG))
        put(booted, "acme.ovpn", OVPN)
        yield booted
        # pytest shows it when the test failed
        print(
            booted.run("journalctl", "--unit=facilitator", "--no-pager", "--output=cat", check=False).stdout
        )


@pytest.mark.parametrize(("profile", "exposure"), [(None, 2.6), ("profile-root.conf", 4.4)])
def test_systemd_has_no_complaint_about_the_unit(vm: Machine, profile: str | None, exposure: float) -> None:
    """`exposure`: how far `systemd-analyze security` may find it open, of 10."""
    if profile is not None:
        vm.run(
            "install",
            "-D",
            "-m",
            "0644",
            f"{EXAMPLES}/{profile}",
            f"/etc/systemd/system/facilitator.service.d/{profile}",
        )
        vm.run("systemctl", "daemon-reload")
    verified = vm.run("systemd-analyze", "verify", "facilitator.service", "facilitator-closed.service")
    assert verified.stdout + verified.stderr == ""
    vm.run("systemd-analyze", "security", f"--threshold={exposure * 10:.0f}", "facilitator.service")
    vm.run("systemctl", "start", "facilitator")
    assert get(vm, "/readyz") == 200


def test_an_installation_can_be_repeated_and_removed(vm: Machine) -> None:
    mine = vm.path("/etc/facilitator/config.yaml").read_text()
    vm.run("systemctl", "start", "facilitator")
    vm.run(f"{SOURCE}/systemd/setup.sh", "install")
    assert vm.path("/etc/facilitator/config.yaml").read_text() == mine
    vm.run("systemctl", "enable", "facilitator")

    vm.run(f"{SOURCE}/systemd/setup.sh", "uninstall")
    assert vm.show("facilitator", "LoadState", "ActiveState") == {
        "LoadState": "not-found",
        "ActiveState": "inactive",
    }
    assert leftovers(vm) == NOTHING
    assert found(vm) == {"/etc/facilitator", "/var/lib/facilitator"}
    vm.run(f"{SOURCE}/systemd/setup.sh", "uninstall", "--purge")
    assert found(vm) == set()
    assert vm.run("id", "facilitator", check=False).returncode != 0


def test_the_way_of_the_documentation(scratch: Path) -> None:
    """`make install`, a configuration, `systemctl enable --now`; an upgrade; `make uninstall`. Wheels
    stand in for the package index.
    """
    index = ("PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}")
    make = (
        "env",
        *index,
        "make",
        "-C",
        "/root/checkout",
        *(f"PYTHON={Path(sys.executable).resolve()}" for _ in foreign_interpreter()),
    )
    with machine(scratch, sources(scratch / "sources")) as vm:
        vm.run("cp", "--archive", f"{SOURCE}/checkout", "/root")
        assert "Next: /etc/facilitator/config.yaml" in vm.run(*make, "install", timeout=300).stdout
        assert vm.show("facilitator", "LoadState", "ActiveState") == {
            "LoadState": "loaded",
            "ActiveState": "inactive",
        }
        put(vm, "config.yaml", yaml.safe_dump(CONFIG))
        put(vm, "acme.ovpn", OVPN)
        vm.run(FACILITATOR, "check")
        vm.run("systemctl", "enable", "--now", "facilitator")
        assert get(vm, "/readyz") == 200
        before = vm.show("facilitator", "MainPID")

        version = vm.path("/root/checkout/supervisor/__init__.py")
        version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0"', version.read_text()))
        vm.run(*make, "install", timeout=300)
        assert yaml.safe_load(vm.path("/etc/facilitator/config.yaml").read_text()) == CONFIG, (
            "a configuration is never replaced"
        )
        assert "-> 99.0, process" in vm.run(FACILITATOR, "upgrade").stdout
        assert vm.show("facilitator", "MainPID") == before

        vm.run(*make, "uninstall", "PURGE=1", timeout=300)
        assert vm.show("facilitator", "LoadState", "ActiveState") == {
            "LoadState": "not-found",
            "ActiveState": "inactive",
        }
        assert leftovers(vm) == NOTHING
        assert found(vm) == set()
        assert vm.run("id", "facilitator", check=False).returncode != 0


def found(vm: Machine) -> set[str]:
    """Files and directories of ours in the machine; not its /run, which the next boot empties."""
    places, ours, within = (
        ("/etc", "/opt", "/usr/local", "/var/lib"),
        ("-name", "*facilitator*"),
        ("-path", "*/facilitator/*"),
    )
    return set(vm.run("find", *places, *ours, "-not", *within).stdout.split())


def test_the_doctor_knows_the_unit(vm: Machine) -> None:
    said = vm.run(FACILITATOR, "doctor", check=False).stdout
    assert "leaves its clients to it (KillMode=process)" in said
    vm.write(
        "/etc/systemd/system/facilitator.service.d/mine.conf",
        "[Service]\nKillMode=mixed\nLoadCredential=key:/etc/credstore/no\n",
    )
    vm.run("systemctl", "daemon-reload")
    said = " ".join(vm.run(FACILITATOR, "doctor", check=False).stdout.split())
    assert "KillMode=mixed: a crash of the daemon" in said
    assert "the credential key from /etc/credstore/no, which does not exist" in said


def test_the_doctor_of_root_judges_as_the_service(vm: Machine) -> None:
    """Root reads everything and may write anywhere; the service does not, and pings with its own group."""
    tunnel = {
        **CONFIG["tunnels"]["acme-dc"],
        "login": {"username": "svc", "password": {"file": "acme-password"}},
        "probe": {"targets": ["icmp://10.77.0.1"]},
    }
    wrong = {**CONFIG, "audit": {"file": "/srv/audit/audit.json"}, "tunnels": {"acme-dc": tunnel}}
    put(vm, "config.yaml", yaml.safe_dump(wrong))
    vm.write("/etc/facilitator/acme-password", "secret", 0o600)
    vm.run("mkdir", "--mode=0777", "/srv/audit")
    # (the machine's own /proc/sys is read-only)
    vm.network.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 0", "net.ipv4.ip_forward=1")
    done = vm.run(FACILITATOR, "doctor", "--json", check=False)
    found = {each["text"]: each for each in json.loads(done.stdout)["findings"]}
    problems = {text: each["remedy"] for text, each in found.items() if each["severity"] == "problem"}
    password = "/etc/facilitator/acme-password"
    group = vm.run("id", "--group", "facilitator").stdout.strip()
    ping = next(text for text in problems if text.startswith("net.ipv4.ping_group_range"))
    assert f"is 0 0, must cover group {group}" in ping
    del problems[ping]
    assert problems == {
        f"acme-dc: password: cannot read {password}: Permission denied": (
            f"chgrp facilitator {password} && chmod 0640 {password}   # and 0755 for its directories"
        ),
        "/srv/audit cannot be written (the unit makes it read-only (ProtectSystem=)); see audit.file": (
            "systemctl edit facilitator, [Service]: ReadWritePaths=/srv/audit; or /var/log/facilitator"
        ),
    }
    assert any("the service as its unit starts it" in text and "CAP_NET_ADMIN" in text for text in found)

    vm.network.run("sysctl", "-qw", f"net.ipv4.ping_group_range=0 {group}")
    right = {**wrong, "audit": {"file": "/var/log/facilitator/audit.json"}}
    put(vm, "config.yaml", yaml.safe_dump(right))
    put(vm, "acme-password", "secret")
    done = vm.run(FACILITATOR, "doctor", "--json", check=False)
    assert json.loads(done.stdout)["fit"], done.stdout
    vm.run("systemctl", "start", "facilitator")
    assert eventually(vm.path("/var/log/facilitator/audit.json").exists, 10, "the audit is written")
    assert json.loads(vm.run(FACILITATOR, "doctor", "--json", check=False).stdout)["fit"]


def test_a_life(vm: Machine) -> None:
    vm.run("systemctl", "start", "facilitator")  # returns when the daemon has said READY=1
    started = vm.show("facilitator", "ActiveState", "MainPID", "StatusText", "NRestarts")
    assert started["ActiveState"] == "active"
    assert started["StatusText"]
    assert get(vm, "/readyz") == 200
    assert status(vm)["tunnels"][0]["name"] == "acme-dc"
    assert leftovers(vm)["routes"], "the fail-closed routes are in place"

    more = {
        **CONFIG["tunnels"],
        "another": {**CONFIG["tunnels"]["acme-dc"], "destinations": ["10.78.0.0/24"]},
    }
    put(vm, "config.yaml", "tunels: {}\n")
    refused = vm.run("systemctl", "reload", "facilitator", check=False)
    assert refused.returncode != 0, "a bad file is not a reload that worked"
    assert vm.show("facilitator", "ActiveState", "MainPID") == {
        key: started[key] for key in ("ActiveState", "MainPID")
    }
    shown = vm.run(FACILITATOR, "status", check=False).stdout
    assert "configuration-refused" in shown
    assert "tunels" in shown
    put(vm, "config.yaml", yaml.safe_dump({**CONFIG, "tunnels": more}))
    vm.run("systemctl", "reload", "facilitator")
    eventually(lambda: len(status(vm)["tunnels"]) == 2, 10, "the reload brought another tunnel")
    eventually(
        lambda: vm.show("facilitator", "ActiveState")["ActiveState"] == "active", 10, "the reload is complete"
    )
    assert vm.show("facilitator", "MainPID")["MainPID"] == started["MainPID"]

    vm.run("systemctl", "stop", "facilitator")
    assert vm.show("facilitator", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert leftovers(vm) == NOTHING


def test_a_killed_daemon_comes_back(vm: Machine) -> None:
    vm.run("systemctl", "start", "facilitator")
    before = vm.show("facilitator", "MainPID")["MainPID"]
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "facilitator")
    eventually(
        lambda: (
            vm.show("facilitator", "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}
        ),
        20,
        "restarted",
    )
    assert vm.show("facilitator", "MainPID")["MainPID"] != before
    assert get(vm, "/readyz") == 200


def test_a_wrong_configuration_is_said_once_and_not_retried(vm: Machine) -> None:
    put(vm, "config.yaml", yaml.safe_dump({**CONFIG, "tunels": {}}))
    assert vm.run("systemctl", "start", "facilitator", check=False).returncode != 0
    assert vm.show("facilitator", "ActiveState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed",
        "ExecMainStatus": "78",
        "NRestarts": "0",
    }
    assert "/etc/facilitator/config.yaml:" in vm.journal()


def test_who_may_use_the_control_socket(vm: Machine) -> None:
    vm.run("useradd", "--groups", "facilitator", "alice")
    vm.run("useradd", "mallory")
    vm.run("systemctl", "start", "facilitator")
    assert as_user(vm, "alice", "stop", "acme-dc") == 0
    assert as_user(vm, "mallory", "start", "acme-dc") != 0
    assert status(vm)["tunnels"][0]["want"] == "down"


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
