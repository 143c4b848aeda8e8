"""Every kind of tunnel with the rights of the unit: an unprivileged user in a sandbox of systemd. The
servers are the lab's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab import Lab
from tests.lab.customers import Customers, customers
from tests.lab.wait import eventually
from tests.packaging.container import Machine, machine
from tests.packaging.installation import FACILITATOR, environment, install, put
from tests.packaging.test_systemd import NOTHING, leftovers, status

pytestmark = pytest.mark.nspawn

FILES = "/etc/facilitator/lab"  # what the lab gives us, in the machine


@pytest.fixture
def everyone(machines: None) -> Iterator[Customers]:
    with Lab() as lab, customers(lab) as made:
        for add in (made.openvpn, made.openconnect, made.wireguard, made.ipsec, made.sshuttle, made.command):
            add()
        yield made


def test_every_kind_works_with_the_rights_of_the_unit(everyone: Customers, tmp_path: Path) -> None:
    lab = everyone.lab
    with machine(tmp_path, environment(tmp_path / "opt"), lab.network["facilitator"]) as vm:
        install(vm)
        hand_over(vm, everyone)
        vm.run("systemctl", "start", "facilitator")
        with shown(vm):
            eventually(
                lambda: {(t["phase"], t["health"]) for t in status(vm)["tunnels"]} == {("up", "healthy")},
                30,
                "all are well",
            )
        for customer in everyone.all:
            assert lab.request(f"http://{customer.web}/").status == 200, customer.name
            assert set(vm.run("ps", "-o", "user:20=", "-C", customer.client).stdout.split()) == {
                "facilitator"
            }
        # an end that is not systemd's wish is one all the same: nobody starts it again
        vm.run(FACILITATOR, "drain", "--now")
        eventually(
            lambda: vm.show("facilitator", "ActiveState")["ActiveState"] == "inactive", 20, "it has ended"
        )
        assert vm.show("facilitator", "Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}
        assert leftovers(vm) == NOTHING


def hand_over(vm: Machine, everyone: Customers) -> None:
    """The configuration and its files, readable for the daemon's user."""
    lab = everyone.lab
    for path in (*lab.directory.iterdir(), *everyone.directory.iterdir()):
        if path.is_file():
            put(vm, f"lab/{path.relative_to(lab.directory)}", path.read_text(errors="replace"))
    vm.run("chmod", "-R", "g+rX", FILES)
    vm.run("chgrp", "-R", "facilitator", FILES)
    defaults = {"login": {"pause": "100ms"}, "reconnect": {"first": "100ms", "max": "1s"}}
    mine = {"facilitator": {"name": "vm"}, "defaults": defaults, "on_exit": "remove"}
    config = everyone.config({**lab.configuration(), **mine})
    put(vm, "config.yaml", yaml.safe_dump(config).replace(str(lab.directory), FILES))


@contextlib.contextmanager
def shown(vm: Machine) -> Iterator[None]:
    """With the daemon's log in the report of a failure."""
    try:
        yield
    except AssertionError:
        print(
            vm.run(
                "journalctl", "--unit=facilitator", "--no-pager", "--output=cat", "--lines=300", check=False
            ).stdout
        )
        raise
