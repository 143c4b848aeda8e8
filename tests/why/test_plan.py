"""What `facilitator plan` prints, word for word: before the daemon runs, while it runs, and after somebody
took something away.

`python -m tests.why.test_plan` (as root) writes plan.txt anew.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.plan import plan_text
from tests.lab.daemon import FACILITATOR, REPOSITORY, LabDaemon
from tests.netns import Namespace, sweep

pytestmark = pytest.mark.root

GOLDEN = Path(__file__).parent / "plan.txt"
SAME = "the kernel holds exactly this: nothing to change\n"
CONFIG = {
    "facilitator": {"name": "golden"},
    "staff": {"networks": ["10.8.0.0/16", "fd00:8::/32"]},
    "http": {"listen": "127.0.0.1:9464"},
    "defaults": {"reconnect": {"first": "1h", "max": "1h"}},  # what cannot start is not tried twice
    "tunnels": {
        "acme-dc": {
            "kind": "openvpn",
            "config": "/nonexistent/acme.ovpn",
            "destinations": [
                "10.77.0.0/24",
                "fd00:77::/64",
                {"network": "10.0.0.0/16", "presented_as": "100.64.0.0/16"},
            ],
        },
        "own-cloud": {
            "kind": "sshuttle",
            "remote": "facilitator@203.0.113.6:22",
            "identity": {"file": "/nonexistent/key"},
            "known_hosts": "/nonexistent/known_hosts",
            "destinations": ["10.90.0.0/16", "fd00:90::/64"],
        },
    },
}


@contextlib.contextmanager
def not_started(directory: Path) -> Iterator[LabDaemon]:
    """A daemon in a namespace of its own; its tunnels can never come up, so the plan stays as it is."""
    sweep()
    namespace = Namespace("plan")
    try:
        daemon = LabDaemon(namespace, directory, CONFIG)
        yield daemon
        daemon.end()
        assert daemon.leftovers() == {}
    finally:
        namespace.remove()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LabDaemon]:
    with not_started(tmp_path) as daemon:
        yield daemon


def parts(text: str) -> tuple[str, str]:
    """What is wanted, and what the last paragraph says about the difference."""
    wanted, _, difference = text.rpartition("\n\n")
    return wanted + "\n", difference


def plan(daemon: LabDaemon) -> tuple[str, str]:
    done = daemon.cli("plan")
    assert (done.returncode, done.stderr) == (0, "")
    return parts(done.stdout)


def test_before_while_and_after(daemon: LabDaemon) -> None:
    wanted, missing = parts(GOLDEN.read_text())
    assert plan(daemon) == (wanted, missing)

    daemon.start()
    assert plan(daemon) == (wanted, SAME)

    daemon.kill9()  # now nobody repairs
    run = daemon.namespace.run
    run("ip", "route", "del", "unreachable", "10.77.0.0/24")
    run("ip", "-6", "rule", "del", "fwmark", "173002")
    run("ip", "route", "add", "prohibit", "10.66.0.0/24", "proto", "173")
    run("nft", "delete element inet facilitator carry4 { 10.90.0.0/16 }")
    assert plan(daemon) == (
        wanted,
        (
            "to change: 3 to add, 1 to remove\n"
            "  + route 10.77.0.0/24 unreachable metric 20000\n"
            "  + rule -6 fwmark 173002 lookup 173002\n"
            "  + element carry4 10.90.0.0/16 : 173002\n"
            "  - route 10.66.0.0/24 prohibit metric 0\n"
        ),
    )


def test_a_file_that_is_not_in_force_is_planned_itself(daemon: LabDaemon) -> None:
    daemon.start()
    wanted, _ = plan(daemon)
    text = daemon.config_file.read_text()
    assert "10.77.0.0/24" in text
    new = daemon.config_file.with_name("new.yaml")
    new.write_text(text.replace("10.77.0.0/24", "10.99.0.0/24"))
    argv = daemon.namespace.argv(*FACILITATOR, "plan", "-c", str(new))
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    planned, difference = parts(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10.99.0.0/24" in planned
    assert "10.77.0.0/24" not in planned
    assert "  - route 10.77.0.0/24 unreachable metric 20000" in difference
    assert plan(daemon) == (wanted, SAME), "the file in force: as the daemon runs"


def test_health_of_a_real_daemon_and_its_settings_in_the_log(daemon: LabDaemon) -> None:
    assert daemon.cli("health").returncode == 4
    daemon.start()
    done = daemon.cli("health")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "works, 0 of" in done.stdout
    down = daemon.cli("health", "--json", "acme-dc")
    assert (down.returncode, json.loads(down.stdout)["healthy"]) == (1, False)

    first = next(line for line in logged(daemon) if line["event"] == "settings")
    assert first["that_are_not_default"]["staff.networks"]
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text + "drain: {idle: 9m}\n")
    assert daemon.cli("reload").stdout == "drain changed\n"
    reloaded = next(line for line in logged(daemon) if line["event"] == "reloaded")
    assert reloaded["settings"] == ["drain.idle: 15m -> 9m"]


def logged(daemon: LabDaemon) -> list[dict[str, Any]]:
    return [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]


def test_an_empty_plan_is_one_line() -> None:
    assert "".join(plan_text({"wanted": [], "changes": []})) + "\n" == SAME


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory, not_started(Path(directory)) as fresh:
        GOLDEN.write_text(fresh.cli("plan").stdout)
