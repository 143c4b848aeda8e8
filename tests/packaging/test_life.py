"""The whole life under a real systemd, while staff use the tunnels: reload, restart, crash, a stuck loop,
and a stop.

The lab's facilitator is a booted machine here, and the daemon a service of it; the OpenVPN and ssh servers
are real.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import Lab
from tests.lab.network import CLOUD_WEB, DATACENTRE_WEB
from tests.lab.traffic import Streams
from tests.lab.wait import NOISE, eventually
from tests.packaging.container import Machine, machine
from tests.packaging.installation import FACILITATOR, environment, install, put

pytestmark = pytest.mark.nspawn

WATCHDOG = 5.0  # seconds, instead of the unit's 60
PATIENCE = 2.0  # seconds that systemd waits for the daemon's end, or for its next sign of life: instead of 60
NOTHING = {"routes": "", "rules": "", "tables": "", "processes": ""}


@dataclass(frozen=True)
class MachineSite:
    """The machine, and the lab around it."""

    vm: Machine
    lab: Lab

    def status(self) -> Any:
        """The status document; None while nobody answers."""
        try:
            with (
                self.vm.network.entered(),
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9464, timeout=1)) as connection,
            ):
                connection.request("GET", "/api/v1/status")
                return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return None

    def well(self) -> bool:
        """Every tunnel carries traffic."""
        found = self.status()
        return found is not None and all(
            (t["phase"], t["health"]) == ("up", "healthy") for t in found["tunnels"]
        )

    def draining(self) -> bool:
        """It takes nothing new."""
        return bool(eventually(self.status, 20, "it answers")["draining"])

    def clients(self) -> dict[str, str]:
        """The processes of the daemon's user that are not the daemon: pid and command."""
        lines = self.vm.run("ps", "-o", "pid=,args=", "-u", "facilitator", check=False).stdout.splitlines()
        found = (line.split(None, 1) for line in lines)
        return {pid: command for pid, command in found if " run -c " not in command}

    def daemon(self) -> int:
        """The daemon's pid in the machine."""
        return int(self.vm.show("facilitator", "MainPID")["MainPID"])

    def ready_since(self) -> float:
        """The monotonic moment at which the daemon that runs now was ready, in seconds."""
        return (
            int(self.vm.show("facilitator", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])
            / 1e6
        )

    def fed(self) -> int:
        """When the watchdog was last fed."""
        return int(self.vm.show("facilitator", "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"])

    def configure(self, **changes: Any) -> None:
        """The machine's configuration, with these changes to acme-dc. A stop leaves nothing behind."""
        config = configuration(self.lab, **changes) | {"on_exit": "remove"}
        put(self.vm, "config.yaml", yaml.safe_dump(config, sort_keys=False))

    def drop_in(self, name: str, line: str) -> None:
        """One setting of the unit, from now on."""
        self.vm.write(f"/etc/systemd/system/facilitator.service.d/{name}.conf", f"[Service]\n{line}\n")
        self.vm.run("systemctl", "daemon-reload")

    def leftovers(self) -> dict[str, str]:
        """What is ours in the machine's kernel, and processes of our user."""
        rules = self.vm.run("ip", "rule", "show").stdout.splitlines()
        return {
            "routes": self.vm.run("ip", "route", "show", "table", "all", "proto", "173").stdout,
            "rules": "\n".join(rule for rule in rules if not re.match(r"(0|32766|32767):", rule)),
            "tables": self.vm.run("nft", "list", "tables").stdout,
            "processes": self.vm.run("ps", "-o", "args=", "-u", "facilitator", check=False).stdout,
        }


def configuration(lab: Lab, **changes: Any) -> dict[str, Any]:
    """The lab's configuration, its files where a machine has them; with these changes to acme-dc."""
    config = lab.configuration()
    acme = {**config["tunnels"]["acme-dc"], "config": "/etc/facilitator/acme.ovpn", **changes}
    cloud = {
        **config["tunnels"]["own-cloud"],
        "identity": {"file": "own-cloud-ssh-key"},
        "known_hosts": "/etc/facilitator/known_hosts",
    }
    return {
        **config,
        "facilitator": {"name": "vm"},
        "drain": {"idle": "3s"},
        "tunnels": {"acme-dc": acme, "own-cloud": cloud},
    }


@contextlib.contextmanager
def installation() -> Iterator[MachineSite]:
    """A machine in the place of the lab's facilitator, with the daemon installed and configured."""
    with contextlib.ExitStack() as stack:
        scratch, lab = Path(stack.enter_context(tempfile.TemporaryDirectory())), stack.enter_context(Lab())
        vm = stack.enter_context(machine(scratch, environment(scratch / "opt"), lab.network["facilitator"]))
        install(vm)
        site = MachineSite(vm, lab)
        site.configure()
        for name in ("acme.ovpn", "known_hosts"):
            put(vm, name, (lab.directory / name).read_text())
        vm.write("/etc/credstore/own-cloud-ssh-key", lab.sshd.client_key.read_text(), 0o600)
        site.drop_in("secrets", "LoadCredential=own-cloud-ssh-key:/etc/credstore/own-cloud-ssh-key")
        yield site


@pytest.fixture(scope="module")
def installed(machines: None) -> Iterator[MachineSite]:
    """One for all tests here."""
    with installation() as site:
        yield site


@pytest.fixture
def site(installed: MachineSite) -> Iterator[MachineSite]:
    """With the daemon running and both tunnels well; stopped at the end, and nothing may be left."""
    vm = installed.vm
    vm.run("systemctl", "reset-failed", "facilitator", check=False)
    vm.run("systemctl", "start", "facilitator")
    try:
        eventually(installed.well, 20, "both tunnels are well")
        yield installed
        vm.run("systemctl", "stop", "facilitator")
        assert vm.show("facilitator", "ActiveState", "Result") == {
            "ActiveState": "inactive",
            "Result": "success",
        }
        assert installed.leftovers() == NOTHING
    finally:
        # pytest shows it when the test failed
        print(
            vm.run(
                "journalctl", "--unit=facilitator", "--no-pager", "--output=cat", "--lines=200", check=False
            ).stdout
        )
        vm.run("systemctl", "kill", "--signal=KILL", "facilitator", check=False)
        vm.run("systemctl", "stop", "facilitator", check=False)
        vm.run(FACILITATOR, "cleanup", check=False)


@contextlib.contextmanager
def nothing_is_dropped(site: MachineSite) -> Iterator[None]:
    """While the block runs no datagram is lost, no connection breaks, and no client is another one
    afterwards.
    """
    before, laptop = site.clients(), site.lab.network["laptop"]
    with (
        site.lab.flood(DATACENTRE_WEB, rate=100) as flood,
        Streams(laptop, DATACENTRE_WEB) as far,
        Streams(laptop, CLOUD_WEB) as near,
    ):
        yield
        eventually(site.well, 20, "both tunnels are well")
    assert (flood.sent - flood.echoed, far.broken, near.broken) == (0, 0, 0)
    assert min(flood.sent, far.echoed, near.echoed) > 0
    assert site.clients() == before


def crashed(site: MachineSite) -> None:
    """SIGKILL to the daemon alone."""
    site.vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "facilitator")


# The installed program with a signal that makes its loop hang for ever in one system call.
STUCK = """
import signal, sys, time
from supervisor.cli import main
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(1000))
main(sys.argv[1:])
"""
START = "/opt/facilitator/bin/python3 -I /opt/stuck.py run -c /etc/facilitator/config.yaml"


@contextlib.contextmanager
def can_get_stuck(site: MachineSite) -> Iterator[None]:
    """The unit runs that program meanwhile."""
    site.vm.write("/opt/stuck.py", STUCK)
    site.drop_in("stuck", f"ExecStart=\nExecStart={START}")
    restarted(site)
    eventually(site.well, 20, "both tunnels are well")
    yield
    site.drop_in("stuck", "")
    restarted(site)
    eventually(site.well, 20, "both tunnels are well")


def stuck(site: MachineSite) -> None:
    """The loop hangs."""
    site.vm.run("systemctl", "kill", "--kill-whom=main", "--signal=USR2", "facilitator")
    eventually(lambda: site.status() is None, 10, "the loop hangs")


def restarted(site: MachineSite) -> None:
    """An upgrade by `systemctl restart`."""
    site.vm.run("systemctl", "restart", "facilitator")


@pytest.mark.parametrize("fault", [crashed, restarted])
def test_the_next_daemon_goes_on_and_nothing_is_dropped(
    site: MachineSite, fault: Callable[[MachineSite], None]
) -> None:
    print(f"{fault.__name__}: another one was ready after {succession(site, fault):.2f} s")


@pytest.mark.timed
def test_a_loop_that_is_stuck_is_ended_in_time_and_nothing_is_dropped(site: MachineSite) -> None:
    site.drop_in("watchdog", f"WatchdogSec={WATCHDOG:g}s")
    with can_get_stuck(site):
        took = succession(site, stuck)
        print(f"stuck: another one was ready after {took:.2f} s")
        assert "Watchdog timeout" in site.vm.journal()
        assert took < (WATCHDOG + 2) * NOISE
        assert "event-loop-stuck" in conditions(site)
        site.drop_in("watchdog", "")
    assert not conditions(site), "an orderly end leaves no stacks"


@pytest.mark.timed
def test_with_the_unit_as_it_is_the_daemons_own_watchdog_is_first(site: MachineSite) -> None:
    with can_get_stuck(site):
        took = succession(site, stuck, within=60)
        print(f"stuck: another one was ready after {took:.2f} s")
        assert "status=14/ALRM" in site.vm.journal()
        assert "Watchdog timeout" not in site.vm.journal()
        assert 30 < took < 36 + 2 * NOISE
        assert "event-loop-stuck" in conditions(site)


def conditions(site: MachineSite) -> list[str]:
    """What the status shows to be wrong."""
    return [each["name"] for each in eventually(site.status, 20, "it answers")["conditions"]]


def succession(site: MachineSite, fault: Callable[[MachineSite], None], within: float = 20) -> float:
    """Let the daemon end in some way, under traffic of which nothing is lost; seconds until the next one
    is ready.
    """
    before = site.daemon()
    with nothing_is_dropped(site):
        began = time.monotonic()
        fault(site)
        eventually(
            lambda: site.daemon() not in (0, before) and site.well(),
            within,
            "another daemon runs, and all is well",
        )
    return site.ready_since() - began


def test_a_reload_keeps_daemon_and_clients(site: MachineSite) -> None:
    before = site.daemon()
    with nothing_is_dropped(site):
        site.configure(description="another name", destinations=["10.77.0.0/24", "10.79.0.0/24"])
        site.vm.run("systemctl", "reload", "facilitator")
        eventually(
            lambda: "10.79.0.0/24" in site.status()["tunnels"][0]["carries"],
            10,
            "the new destination is carried",
        )
    assert site.daemon() == before
    site.configure()


def test_an_upgrade_is_the_same_process_with_new_code(site: MachineSite) -> None:
    before, code = (
        site.daemon(),
        site.vm.path("/opt/facilitator").glob("lib/*/site-packages/supervisor/__init__.py"),
    )
    (version,) = code
    old = version.read_text()
    with nothing_is_dropped(site):
        version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0"', old))
        site.vm.run(FACILITATOR, "upgrade")
        eventually(lambda: (site.status() or {}).get("version") == "99.0", 10, "the new code answers")
        fed = site.fed()
        eventually(lambda: site.fed() > fed, 15, "the new code feeds the watchdog")
    assert site.daemon() == before
    assert site.vm.show("facilitator", "ActiveState", "NRestarts") == {
        "ActiveState": "active",
        "NRestarts": "0",
    }
    version.write_text(old)


def test_a_stop_drains(site: MachineSite) -> None:
    """Longer than systemd waits of its own accord. Nothing new comes in, what is under way goes on to its
    end.
    """
    site.drop_in("patience", f"TimeoutStopSec={PATIENCE:g}s")
    with Streams(site.lab.network["laptop"], DATACENTRE_WEB, count=1) as stream:
        site.vm.run("systemctl", "stop", "--no-block", "facilitator")
        eventually(
            lambda: site.vm.show("facilitator", "SubState")["SubState"] == "stop-sigterm",
            10,
            "it is being stopped",
        )
        began = time.monotonic()
        eventually(
            lambda: site.lab.request(f"http://{DATACENTRE_WEB}/", timeout=2.0).status == 0,
            10,
            "new connections are refused",
        )
        eventually(lambda: time.monotonic() - began > 2 * PATIENCE, 10, "the stream goes on")
        shown = site.vm.show("facilitator", "SubState", "StatusText")
        assert shown["SubState"] == "stop-sigterm"
        assert "drain" in shown["StatusText"]
    assert (stream.broken, stream.echoed) == (0, stream.sent)
    eventually(
        lambda: site.vm.show("facilitator", "ActiveState")["ActiveState"] == "inactive",
        20,
        "it ends when the stream does",
    )
    assert site.vm.show("facilitator", "Result") == {"Result": "success"}
    assert site.leftovers() == NOTHING
    site.drop_in("patience", "")


def test_a_stop_that_the_daemon_does_not_live_to_complete_is_completed(site: MachineSite) -> None:
    with Streams(site.lab.network["laptop"], DATACENTRE_WEB):
        site.vm.run("systemctl", "stop", "--no-block", "facilitator")
        eventually(
            lambda: site.vm.show("facilitator", "SubState")["SubState"] == "stop-sigterm", 10, "it drains"
        )
        crashed(site)
        eventually(
            lambda: site.vm.show("facilitator", "ActiveState")["ActiveState"] == "failed", 20, "it is stopped"
        )
    assert site.leftovers() == NOTHING
    site.vm.run("systemctl", "reset-failed", "facilitator")


def drained(site: MachineSite) -> None:
    """A drain by its command; what is under way holds it up."""
    site.vm.run(FACILITATOR, "drain")


def stopped(site: MachineSite) -> None:
    """One by `systemctl stop`."""
    site.vm.run("systemctl", "stop", "--no-block", "facilitator")
    eventually(site.draining, 10, "it drains")


def refuses(site: MachineSite) -> bool:
    """Nobody can open a connection."""
    return all(
        site.lab.request(f"http://{address}/", timeout=2.0).status == 0
        for address in (DATACENTRE_WEB, CLOUD_WEB)
    )


def test_a_drain_goes_on_after_a_crash_to_its_end(site: MachineSite) -> None:
    laptop = site.lab.network["laptop"]
    with Streams(laptop, DATACENTRE_WEB) as far, Streams(laptop, CLOUD_WEB) as near:
        drained(site)
        before, clients = site.daemon(), site.clients()
        crashed(site)
        eventually(
            lambda: site.daemon() not in (0, before) and site.status() is not None, 20, "another daemon runs"
        )
        assert site.vm.show("facilitator", "NRestarts") == {"NRestarts": "1"}
        assert site.draining()
        assert refuses(site)
        eventually(
            lambda: site.vm.show("facilitator", "SubState")["SubState"] == "stop-sigterm",
            10,
            "systemd knows that it ends",
        )
        assert "drain" in site.vm.show("facilitator", "StatusText")["StatusText"]
        assert site.clients() == clients
    assert (far.broken, near.broken) == (0, 0)
    assert min(far.echoed, near.echoed) > 0
    eventually(
        lambda: site.vm.show("facilitator", "ActiveState")["ActiveState"] == "inactive",
        20,
        "it ends when the streams do",
    )
    assert site.vm.show("facilitator", "Result") == {"Result": "success"}
    assert site.leftovers() == NOTHING


@pytest.mark.parametrize(("drain", "verb"), [(drained, "restart"), (stopped, "start")])
def test_who_starts_it_again_while_it_drains_does_not_wait_for_flows(
    site: MachineSite, drain: Callable[[MachineSite], None], verb: str
) -> None:
    before = site.daemon()
    with nothing_is_dropped(site):
        drain(site)
        eventually(lambda: refuses(site), 10, "connections are refused")
        began = time.monotonic()
        site.vm.run("systemctl", verb, "facilitator")
        print(f"systemctl {verb}: {time.monotonic() - began:.2f} s")
        assert site.daemon() not in (0, before)
        assert not site.draining()
        eventually(lambda: not refuses(site), 20, "connections are taken again")


def test_a_host_that_shuts_down_does_not_wait_for_flows(machines: None) -> None:
    with installation() as site, contextlib.ExitStack() as held:
        site.drop_in("log", "StandardOutput=append:/srv/log")
        site.vm.run("systemctl", "start", "facilitator")
        eventually(site.well, 20, "both tunnels are well")
        for address in (DATACENTRE_WEB, CLOUD_WEB):
            held.enter_context(Streams(site.lab.network["laptop"], address, count=1))
        stopped(site)
        log = held.enter_context(
            site.vm.path("/srv/log").open()
        )  # it outlives the machine as long as it is open
        print(f"off after {site.vm.power_off():.2f} s")
        events = [json.loads(line) for line in log]
    assert "the host shuts down: flows are not waited for" in [event["event"] for event in events]
    ended = {event["tunnel"]: event["reason"] for event in events if event.get("after") == "stopped"}
    assert ended == {"acme-dc": "shutdown", "own-cloud": "shutdown"}, "both have logged off"
    assert events[-1]["event"] == "stopped"
    assert events[-1]["left"] == []
