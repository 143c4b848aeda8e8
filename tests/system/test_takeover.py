"""The daemon dies, or changes its program, and nothing that it runs notices: real clients, datagrams and
long TCP streams all the while.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.daemon import FACILITATOR, HTTP_PORT, REPOSITORY, LabPagerDuty
from tests.lab.traffic import Streams
from tests.lab.wait import NOISE, PATIENCE, eventually

pytestmark = pytest.mark.root

WITHIN = (
    1.0 * NOISE
)  # seconds from the start of a new daemon, or of a new program, to the last client that it has adopted


class Installed(LabDaemon):
    """A daemon that runs its own copy of the code, which can be exchanged."""

    def install(self) -> None:
        """Copy the code as it is here."""
        self.code = self.directory / "code"
        for package in ("supervisor", "tunnels"):
            shutil.copytree(
                REPOSITORY / package, self.code / package, ignore=shutil.ignore_patterns("__pycache__")
            )

    def change(self, file: str, pattern: str, text: str) -> None:
        """Exchange a line of the code."""
        path = self.code / file
        changed, count = re.subn(pattern, text, path.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1, pattern
        self.write(file, changed)

    def write(self, file: str, text: str) -> None:
        """Write a file of the code. Compiled code goes: Python knows a change by its second and size only."""
        path = self.code / file
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def start(self, within: float = 15.0) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("a") as log:
            self._process = self.namespace.popen(
                *FACILITATOR,
                "run",
                "-c",
                str(self.config_file),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.code,
                start_new_session=True,
            )
        eventually(self._ready, within, "GET /readyz is answered with 200")


@pytest.fixture
def installed(lab: Lab, config: Config) -> Iterator[Installed]:
    daemon = Installed(lab.network["facilitator"], lab.directory, config)
    daemon.install()
    with daemon:
        daemon.wait_well()
        yield daemon
    assert daemon.leftovers() == {}


@contextlib.contextmanager
def undisturbed(lab: Lab, daemon: LabDaemon, name: str) -> Iterator[None]:
    """While the context lasts, staff's traffic passes without a loss, and the clients stay the same
    processes.
    """
    laptop, before, pids = lab.network["laptop"], daemon.sessions(), sorted(daemon.client_pids())
    with (
        lab.flood(DATACENTRE_WEB, rate=100) as flood,
        Streams(laptop, DATACENTRE_WEB) as through_openvpn,
        Streams(laptop, CLOUD_WEB) as through_sshuttle,
    ):
        yield
    streams = (through_openvpn, through_sshuttle)
    said = "; ".join(
        f"{each.sent} lines, {each.broken} streams broken, longest pause {each.gap * 1000:.0f} ms"
        for each in streams
    )
    print(f"{name}: {flood.sent} datagrams, {flood.sent - flood.echoed} lost; {said}")
    assert flood.sent == flood.echoed > 0
    assert [(each.broken, each.echoed == each.sent > 0) for each in streams] == [(0, True)] * 2
    assert daemon.sessions() == before
    assert sorted(daemon.client_pids()) == pids


def taken_up_within(daemon: LabDaemon, since: float | None = None) -> float:
    """Seconds from a moment, or else from the last line of the program before, to the last client that the
    latest program adopted.
    """
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    begun = max(number for number, line in enumerate(lines) if line["event"] == "starting")
    adopted = [line for line in lines[begun:] if line["event"] == "adopted"]
    assert {line["tunnel"] for line in adopted} == {"acme-dc", "own-cloud"}
    return _moment(adopted[-1]) - (_moment(lines[begun - 1]) if since is None else since)


def _moment(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def test_a_crash_of_the_daemon_costs_nothing(
    lab: Lab, config: Config, pagerduty: LabPagerDuty, pytestconfig: pytest.Config
) -> None:
    config["alerts"] = lab.configuration(pagerduty)["alerts"]
    config["defaults"]["alert"] = {"after": "1s", "clear_after": "1s"}
    times = pytestconfig.getoption("--takeovers")
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()
        with undisturbed(lab, daemon, f"{times} times SIGKILL"):
            for _ in range(times):
                daemon.kill9()
                daemon.start()
        for name, program in (("acme-dc", "openvpn"), ("own-cloud", "sshuttle")):
            replaced, before = daemon.replaced(name), daemon.client_pids(program)
            os.kill(daemon.tunnel(name)["session"]["pid"], signal.SIGKILL)
            eventually(replaced, 20, "the end of an adopted client is noticed")
            daemon.wait_for(name, phase="up", health="healthy")
            assert len(daemon.client_pids(program)) == len(before)
        assert pagerduty.state()["posts"] == [], "nobody is paged"
        assert daemon.metric("facilitator_tunnel_reconnects_total") == 2.0
    assert daemon.leftovers() == {}


def test_an_upgrade_costs_nothing_and_refuses_no_connection(
    lab: Lab, installed: Installed, pytestconfig: pytest.Config
) -> None:
    times, pid = pytestconfig.getoption("--takeovers"), installed.pid
    before = installed.status()["version"]
    with undisturbed(lab, installed, f"{times} upgrades"), knocking(installed) as answers:
        for number in range(1, times + 1):
            installed.change("supervisor/__init__.py", r"^__version__ = .*", f'__version__ = "99.{number}"')
            started = time.monotonic()
            done = installed.cli("upgrade")
            print(f"upgrade {number}: {time.monotonic() - started:.2f} s")
            assert (done.returncode, done.stderr) == (0, "")
            now, before = f"99.{number}", before if number == 1 else f"99.{number - 1}"
            assert done.stdout.splitlines() == [
                f"version {before} -> {now}, process {pid} as before",
                "kept 2 of 2 sessions",
            ]
            assert (
                installed.status()["version"],
                installed.status()["pid"],
                installed.status()["upgrades"],
            ) == (now, pid, number)
            print(f"adopted after {taken_up_within(installed) * 1000:.0f} ms")
    assert "refused" not in answers
    replaced = installed.replaced("acme-dc")
    os.kill(installed.tunnel("acme-dc")["session"]["pid"], signal.SIGKILL)
    eventually(replaced, 20, "the end of a client is noticed")
    assert "killed: client ended by signal 9" in installed.cli("history", "acme-dc").stdout, (
        "it is still our child"
    )


@pytest.mark.timed
def test_clients_are_adopted_within_a_second(installed: Installed) -> None:
    """From the start of the process, and from the end of the program before: medians, because others are
    busy beside it.
    """
    started, upgraded = [], []
    for _ in range(5):
        installed.kill9()
        since = time.time()
        installed.start()
        started.append(taken_up_within(installed, since))
        assert installed.cli("upgrade").returncode == 0
        upgraded.append(taken_up_within(installed))
    for text, seconds in (("SIGKILL", started), ("upgrade", upgraded)):
        print(f"{text}: adopted after {', '.join(f'{each * 1000:.0f}' for each in seconds)} ms")
        assert statistics.median(seconds) < WITHIN


def test_code_that_cannot_go_on_leaves_the_old_one_at_work(lab: Lab, installed: Installed) -> None:
    for file, pattern, text, said in (
        ("supervisor/engine.py", r"^class Engine:", "class Engine", "SyntaxError"),
        ("supervisor/control/api.py", r"^class HTTPApi:", "class HTTPApi", "SyntaxError"),
        (
            "supervisor/reports/paging/http.py",
            r"^import requests$",
            "import requests_of_another_version",
            "ModuleNotFoundError",
        ),
        ("supervisor/app/stores/upgrade_document.py", r"^FORMAT = \d+", "FORMAT = 0", "does not understand"),
    ):
        whole = (installed.code / file).read_text()
        installed.change(file, pattern, text)
        _refused(installed, said)
        installed.write(file, whole)
    configured = installed.config_file.read_text()
    installed.config_file.write_text(configured + "nonsense: 1\n")
    _refused(installed, "nonsense")
    installed.config_file.write_text(configured)
    assert installed.cli("upgrade").returncode == 0


def _refused(daemon: LabDaemon, said: str) -> None:
    before, pid = daemon.sessions(), daemon.status()["pid"]
    done = daemon.cli("upgrade")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert said in done.stderr
    assert "keeps running" in done.stderr
    assert (daemon.sessions(), daemon.status()["pid"], daemon.status()["upgrades"]) == (before, pid, 0)
    assert said in daemon.log.read_text()


@contextlib.contextmanager
def knocking(daemon: LabDaemon) -> Iterator[list[str]]:
    """Somebody connects to the HTTP port again and again; the list says what came of it."""
    ended, answers = threading.Event(), []

    def knock() -> None:
        with daemon.namespace.entered():
            while not ended.wait(0.01):
                answers.append(_knock())

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def _knock() -> str:
    try:
        with socket.create_connection(("127.0.0.1", HTTP_PORT), PATIENCE) as visitor:
            visitor.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return "answered" if visitor.recv(4096) else "cut off"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "cut off"
