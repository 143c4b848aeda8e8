"""`facilitator-hub` as a process: the service, the operators' commands, the log, and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.core import routes
from tests.hub.messages import heartbeat, login
from tests.hub.running import HubSetup, post

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "hub"]


class ServiceProcess:
    """The service, its log, and commands of operators."""

    def __init__(self, setup: HubSetup) -> None:
        self._setup = setup
        self.log: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Until it serves."""
        self._process = subprocess.Popen(
            [*COMMAND, "sessions", "-c", self._setup.config], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == "serving":
                break
        self._reader = threading.Thread(target=self._read, args=(self._process,))
        self._reader.start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self._process is not None and self._reader is not None  # noqa: PT018
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._reader.join()
        return code

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of operators."""
        return subprocess.run(
            [*COMMAND, *arguments, "-c", self._setup.config], capture_output=True, text=True, timeout=60
        )

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.log.extend(json.loads(line) for line in process.stdout)


@pytest.fixture
def setup(tmp_path: Path) -> HubSetup:
    return HubSetup(tmp_path)


@pytest.fixture
def service(setup: HubSetup) -> Iterator[ServiceProcess]:
    made = ServiceProcess(setup)
    made.start()
    yield made
    assert made.stop() == 0


async def test_who_end_block_history_and_events(setup: HubSetup, service: ServiceProcess) -> None:
    async with setup.client("hub-a") as client:
        _, alice = await post(client, routes.LOGIN.path, login("alice"))
        _, bob = await post(client, routes.LOGIN.path, login("bob", client_id=1, password="hunter2hunter2"))
        beat = heartbeat([alice["session"], bob["session"]])
        await post(client, routes.HEARTBEAT.path, beat)
        shown = json.loads(service.command("who", "--json").stdout)
        assert {(each["person"], each["state"]) for each in shown["sessions"]} == {
            ("alice", "up"),
            ("bob", "up"),
        }
        line = service.command("who", alice["address"]).stdout.splitlines()[1]
        assert line.split()[:4] == ["alice", alice["address"], "up", "hub-a"]
        assert service.command("end", "bob").stdout == "the end of 1 sessions is ordered\n"
        assert service.command("end", "nobody").returncode == 1
        assert service.command("block", "alice", "--for", "8h").stdout == "the end of 1 sessions is ordered\n"
        _, orders = await post(client, routes.HEARTBEAT.path, beat)
        assert {order["person"]: order["reason"] for order in orders["end"]} == {
            "alice": "offboarded",
            "bob": "ended-by-admin",
        }
        await post(client, routes.HEARTBEAT.path, heartbeat([]))
        assert (await post(client, routes.LOGIN.path, login("alice")))[1]["reason"] == "blocked"
        assert service.command("block", "alice", "--remove").returncode == 0
        assert (await post(client, routes.LOGIN.path, login("alice")))[1]["decision"] == "allow"
    past = json.loads(service.command("history", alice["address"], "--at", "1s", "--json").stdout)
    assert [each["person"] for each in past["sessions"]] in (["alice"], [])
    trail = [json.loads(line) for line in service.command("events", "--json").stdout.splitlines()]
    assert [each["what"] for each in trail if each["person"] == "bob"] == [
        "allowed",
        "up",
        "end asked",
        "ended",
    ]
    blocked = next(each for each in trail if each["what"] == "blocked")
    assert blocked["detail"]["by"] == "CN=ops"
    assert "hunter2" not in json.dumps(service.log)
    nodes = json.loads(service.command("nodes", "--json").stdout)
    assert [(each["node"], each["silent"]) for each in nodes["nodes"]] == [("hub-a", False)]


async def test_an_answered_login_survives_any_kill(setup: HubSetup) -> None:
    service = ServiceProcess(setup)
    known: list[str] = []
    for number in range(5):
        service.start()
        async with setup.client("hub-a") as client:
            for each in range(5):
                _, answer = await post(
                    client,
                    routes.LOGIN.path,
                    login(person=("alice", "bob")[each % 2], client_id=number * 5 + each),
                )
                known += [answer["session"]] if answer["decision"] == "allow" else []
            _, beaten = await post(client, routes.HEARTBEAT.path, heartbeat(known))
            assert beaten["closed"] == 0
            assert beaten["unknown"] == []
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    assert len(known) > 10


def test_a_second_service_and_wrong_files_end_with_a_sentence(
    setup: HubSetup, service: ServiceProcess
) -> None:
    second = service.command("sessions")
    assert second.returncode == 75
    assert "another session service uses" in second.stderr
    setup.people.write_text(
        "people:\n  alice: {grups: [a]}\n  bob: {until: tomorrow}\n  fay: {address: 10.9.0.1}\n"
    )
    checked = service.command("sessions", "--check")
    assert checked.returncode == 78
    assert [line.partition("people.yaml:")[2] for line in checked.stderr.splitlines()] == [
        "2:11: people.alice.grups: unknown key (did you mean groups?)",
        "3:3: people.bob.until: 'tomorrow' is not a day; write it as 2027-01-31",
        "4:3: people.fay.address: 10.9.0.1 is no client's address in sessions.addresses.networks",
    ]


def test_commands_without_a_service_or_a_right(setup: HubSetup, service: ServiceProcess) -> None:
    text = setup.config.read_text()
    setup.config.write_text(text.replace("/ops.", "/alice."))
    refused = service.command("who")
    assert (refused.returncode, refused.stderr) == (77, "CN=alice has not the role admin\n")
    setup.config.write_text(text.replace(f"https://127.0.0.1:{setup.port}", "https://127.0.0.1:1"))
    silent = service.command("who")
    assert silent.returncode == 4
    assert "no session service answers at https://127.0.0.1:1" in silent.stderr
