"""Closed from boot to power-off: a machine that forwards, staff that send from before its first moment, and
a capture on its uplink.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor import early_close
from supervisor.config.parse import parse
from tests.lab import Lab
from tests.lab.network import CLOUD_WEB, DATACENTRE, DATACENTRE6, DATACENTRE_WEB
from tests.lab.traffic import watched
from tests.lab.wait import eventually
from tests.packaging.container import machine
from tests.packaging.installation import FACILITATOR, REPOSITORY, SOURCE, environment
from tests.packaging.test_life import NOTHING, MachineSite, configuration
from tunnels.registry import KINDS

pytestmark = pytest.mark.nspawn

FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
UNITS = "etc/systemd/system"
MEMORY = Path("/sys/fs/cgroup/memory")  # of version 1, as on the machines that test this
COUNTERS = ("nf_conntrack_count", "netdev_rss_key", "optmem", "tcp_fastopen_key", "stable_secret")
KEY = "/etc/credstore/own-cloud-ssh-key"


class Disk:
    """The files of a machine before it boots: an installation as a package brings it, and a router's
    settings.
    """

    def __init__(self, directory: Path, lab: Lab) -> None:
        self.binds = environment(directory / "opt")
        self.files = directory / "seed"
        (self.files / "opt").mkdir(parents=True)
        subprocess.run(["cp", "-a", str(directory / "opt"), str(self.files / "opt/facilitator")], check=True)
        setup = [str(REPOSITORY / "systemd/setup.sh"), "install"]
        subprocess.run(setup, check=True, env={**os.environ, "DESTDIR": str(self.files)})
        self.write("etc/sysctl.d/99-router.conf", "".join(f"{name} = 1\n" for name in FORWARDING))
        # In a container nobody may write to /proc/sys, and nothing is set.
        sysctl = "/bin/sh -c 'mount -o remount,bind,rw /proc/sys && exec /lib/systemd/systemd-sysctl'"
        self.write(
            f"{UNITS}/systemd-sysctl.service.d/container.conf",
            f"[Unit]\nConditionPathIsReadWrite=\n[Service]\nExecStart=\nExecStart={sysctl}\n",
        )
        for name in ("acme.ovpn", "known_hosts"):
            self.write(f"etc/facilitator/{name}", (lab.directory / name).read_text())
        self.write(KEY[1:], lab.sshd.client_key.read_text())
        self.write(
            f"{UNITS}/facilitator.service.d/secrets.conf",
            f"[Service]\nLoadCredential=own-cloud-ssh-key:{KEY}\n",
        )

    def write(self, name: str, text: str) -> None:
        """A file that everybody may read."""
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)

    def configure(self, config: dict[str, Any]) -> None:
        """Its configuration."""
        self.write("etc/facilitator/config.yaml", yaml.safe_dump(config, sort_keys=False))

    def enable_the_daemon(self) -> None:
        """As `systemctl enable facilitator`."""
        wants = self.files / UNITS / "multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "facilitator.service").symlink_to("../facilitator.service")


@pytest.fixture
def lab(machines: None) -> Iterator[Lab]:
    """Its facilitator does not forward yet: the machine's own boot will switch that on."""
    with Lab() as made:
        made.network["facilitator"].run("sysctl", "-qw", *(f"{name}=0" for name in FORWARDING))
        yield made


@contextlib.contextmanager
def booted(lab: Lab, disk: Disk, scratch: Path) -> Iterator[MachineSite]:
    """The machine, from its first moment."""
    with machine(scratch, disk.binds, lab.network["facilitator"], disk.files) as vm:
        yield MachineSite(vm, lab)
        print(vm.journal())


class Phases:
    """What leaked in each phase, while staff send all the time."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self.leaked = lab, dict[str, int]()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch the uplink for the block."""
        with watched(self._lab.capture()) as found:
            yield
        self.leaked[name] = len(found)

    @contextlib.contextmanager
    def of_a_while(self, name: str) -> Iterator[None]:
        """The same, and for three hundred packets more."""
        with self.phase(name):
            yield
            with self._lab.flood(DATACENTRE_WEB, rate=300) as flood:
                eventually(lambda: True, 0, "it sends")
                subprocess.run(["sleep", "1"], check=True)
            assert flood.sent > 100


@pytest.mark.slow
@pytest.mark.parametrize("on_exit", ["keep", "remove"])
def test_a_life_from_boot_to_power_off(lab: Lab, tmp_path: Path, on_exit: str) -> None:
    disk, phases = Disk(tmp_path, lab), Phases(lab)
    disk.configure(configuration(lab) | {"on_exit": on_exit, "drain": {"timeout": "1s"}})
    disk.enable_the_daemon()
    scratch = tmp_path / "vm"
    scratch.mkdir()
    with lab.flood(DATACENTRE_WEB, CLOUD_WEB, rate=200), contextlib.ExitStack() as held:
        with phases.phase("boot"):
            site = held.enter_context(booted(lab, disk, scratch))
            vm = site.vm
            eventually(site.well, 60, "both tunnels are well")
        assert forwards(site)
        assert "had closed the host before its network" in said(site)
        since = site.status()["closed_since"]
        with phases.of_a_while("stop"):
            vm.run("systemctl", "stop", "facilitator")
        config = vm.path("/etc/facilitator/config.yaml")
        good = config.read_text()
        config.write_text(good + "tunels: {}\n")
        with phases.of_a_while("failed start"):
            assert vm.run("systemctl", "start", "facilitator", check=False).returncode != 0
        assert vm.show("facilitator", "ExecMainStatus") == {"ExecMainStatus": "78"}
        config.write_text(good)
        with phases.of_a_while("start"):
            vm.run("systemctl", "start", "facilitator")
        if on_exit == "keep":
            assert site.status()["closed_since"] == since, "without a gap"
        for name, order in {
            "restart": ("systemctl", "restart", "facilitator"),
            "upgrade": (FACILITATOR, "upgrade"),
            "kill": ("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "facilitator"),
            "everything killed": ("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "facilitator"),
        }.items():
            with phases.of_a_while(name):
                vm.run(*order)
                eventually(site.well, 60, f"both tunnels are well after: {name}")
        with phases.of_a_while("out of memory"), exhausted(site):
            eventually(site.well, 60, "both tunnels are well")
        with phases.of_a_while("second signal"):
            vm.run("systemctl", "kill", "--kill-whom=main", "facilitator")
            vm.run("systemctl", "kill", "--kill-whom=main", "facilitator", check=False)
            eventually(lambda: vm.show("facilitator", "SubState")["SubState"] == "dead", 30, "it has ended")
        vm.run("systemctl", "start", "facilitator")
        with phases.of_a_while("power-off"):
            vm.power_off()
    print(phases.leaked)
    closed = {name: count for name, count in phases.leaked.items() if count == 0}
    if on_exit == "keep":
        assert closed == phases.leaked
    else:
        opened = {"stop", "second signal"}
        assert phases.leaked.keys() - closed.keys() >= opened, "the capture sees what leaks"
        assert closed.keys() >= phases.leaked.keys() - opened - {"power-off", "failed start", "start"}


@contextlib.contextmanager
def exhausted(site: MachineSite) -> Iterator[None]:
    """The kernel ends the daemon because its control group has no memory left."""
    before, group = site.daemon(), MEMORY / f"{site.vm.name}-memory"
    inside = site.vm.network.name
    found = subprocess.run(["ip", "netns", "pids", inside], capture_output=True, text=True, check=True)
    of_machine = [(pid, Path(f"/proc/{pid}/status").read_text()) for pid in found.stdout.split()]
    # NSpid, proc(5): the pid here and the one in the machine
    (pid,) = (pid for pid, status in of_machine if f"\nNSpid:\t{pid}\t{before}\n" in status)
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("64K")
        (group / "cgroup.procs").write_text(pid)
        eventually(lambda: site.daemon() not in (0, before), 30, "it was ended, and another one runs")
        assert "oom_kill 1" in (group / "memory.oom_control").read_text()
        yield
    finally:
        group.rmdir()


def forwards(site: MachineSite) -> bool:
    """Its boot has switched that on."""
    return site.vm.run("sysctl", "-n", *FORWARDING).stdout.split() == ["1", "1"]


def said(site: MachineSite, *arguments: str) -> str:
    """By the doctor."""
    return " ".join(site.vm.run(FACILITATOR, "doctor", *arguments, check=False).stdout.split())


@pytest.mark.parametrize("closed", [True, False])
def test_a_host_of_nomad_boots_closed_without_daemon_and_configuration(
    lab: Lab, tmp_path: Path, closed: bool
) -> None:
    """The last one in force is in `state_dir`. Without the unit the capture sees what leaks."""
    disk, phases = Disk(tmp_path, lab), Phases(lab)
    (disk.files / "etc/facilitator/config.yaml").unlink()
    state = disk.files / "var/lib/facilitator"
    state.mkdir(parents=True)
    text = json.dumps(configuration(lab))
    early_close.remember(state, text, parse(text, "/etc/facilitator/config.yaml", KINDS))
    if not closed:
        (disk.files / UNITS / "sysinit.target.wants/facilitator-closed.service").unlink()
    scratch = tmp_path / "vm"
    scratch.mkdir()
    with lab.flood(DATACENTRE_WEB, CLOUD_WEB, rate=200), contextlib.ExitStack() as held:
        with phases.of_a_while("boot"):
            site = held.enter_context(booted(lab, disk, scratch))
            assert forwards(site)
        journal = site.vm.run("journalctl", "--unit=facilitator-closed", "--no-pager", "--output=cat").stdout
        assert ("destinations that were last in force" in journal) is closed
        expected = "had closed the host before its network" if closed else "is not enabled"
        site.vm.write("/root/config.yaml", text)  # as the job's task has it
        assert expected in said(site, "-c", "/root/config.yaml")
        with phases.of_a_while("power-off"):
            site.vm.power_off()
    print(phases.leaked)
    assert [count == 0 for count in phases.leaked.values()] == [closed, closed]


def cleaned_up(site: MachineSite) -> None:
    """By the command."""
    site.vm.run("systemctl", "stop", "facilitator")
    assert site.leftovers()["tables"], "a stop keeps it closed"
    site.vm.run(FACILITATOR, "cleanup")


def uninstalled(site: MachineSite) -> None:
    """As `make uninstall` does it."""
    site.vm.run(f"{SOURCE}/systemd/setup.sh", "uninstall")


def removed(site: MachineSite) -> None:
    """By an ordinary end with `on_exit: remove`."""
    config = site.vm.path("/etc/facilitator/config.yaml")
    config.write_text(config.read_text() + "on_exit: remove\n")
    site.vm.run("systemctl", "reload", "facilitator")
    site.vm.run("systemctl", "stop", "facilitator")


@pytest.mark.parametrize("opened", [cleaned_up, uninstalled, removed])
def test_who_opens_the_host_puts_back_its_settings(
    lab: Lab, tmp_path: Path, opened: Callable[[MachineSite], None]
) -> None:
    """It did not forward before, nor after; the reverse-path filter is a strict one."""
    disk = Disk(tmp_path, lab)
    settings = [f"{name} = 0" for name in FORWARDING] + ["net.ipv4.conf.all.rp_filter = 1"]
    disk.write("etc/sysctl.d/99-router.conf", "\n".join(settings) + "\n")
    both = [str(DATACENTRE), str(DATACENTRE6)]
    disk.configure({**configuration(lab, destinations=both), "drain": {"timeout": "1s"}})
    scratch = tmp_path / "vm"
    scratch.mkdir()
    with booted(lab, disk, scratch) as site:
        before = network_settings(site)
        site.vm.run("systemctl", "start", "facilitator")
        eventually(site.well, 60, "both tunnels are well")
        assert forwards(site)
        assert network_settings(site) != before
        opened(site)
        assert site.leftovers() == NOTHING
        assert network_settings(site) == before


def network_settings(site: MachineSite) -> list[str]:
    """Everything below /proc/sys/net that is a setting."""
    lines = site.vm.run("sysctl", "-a", "-r", r"^net\.", check=False).stdout.splitlines()
    return [line for line in lines if not any(name in line for name in COUNTERS)]


def test_a_host_that_has_never_seen_a_good_configuration_boots(lab: Lab, tmp_path: Path) -> None:
    disk = Disk(tmp_path, lab)
    disk.write("etc/facilitator/config.yaml", "tunels: {}\n")
    scratch = tmp_path / "vm"
    scratch.mkdir()
    with booted(lab, disk, scratch) as site:
        assert site.vm.show("facilitator-closed", "ActiveState", "Result", "ExecMainStatus") == {
            "ActiveState": "active",
            "Result": "success",
            "ExecMainStatus": "78",
        }
        assert "nothing is closed: this host has never seen a good configuration" in site.vm.journal()


def test_a_host_of_nomad_gets_the_closing_unit_and_the_user_alone(tmp_path: Path) -> None:
    setup = [str(REPOSITORY / "systemd/setup.sh"), "install", "--nomad"]
    subprocess.run(setup, check=True, env={**os.environ, "DESTDIR": str(tmp_path)})
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert files == {
        "etc/sysusers.d/facilitator.conf",
        f"{UNITS}/facilitator-closed.service",
        f"{UNITS}/sysinit.target.wants/facilitator-closed.service",
    }
    assert (tmp_path / UNITS / "sysinit.target.wants/facilitator-closed.service").resolve().is_file()
