"""People behind addresses, with the real session service: rules by group and person, offboarding, names in
`why`, `status` and the audit, and a service that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from hub.core import api
from supervisor.identity.openvpn_status import OpenVpnServers
from tests.hub.messages import heartbeat, login
from tests.hub.running import HubSetup
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.network import CLOUD_WEB, DATACENTRE_WEB, LAPTOP
from tests.lab.wait import NOISE, PATIENCE, eventually
from tests.netns import Namespace

pytestmark = pytest.mark.root
DATACENTRE_URL, CLOUD_URL = f"http://{DATACENTRE_WEB}/", f"http://{CLOUD_WEB}/"
ALICE = {"groups": ["engineers"], "address": str(LAPTOP)}


class LabHub:
    """The session service beside the facilitator; the test is its sidecar and its operator."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.setup, self._namespace = HubSetup(directory), namespace
        self.people(alice=ALICE)
        self._process: subprocess.Popen[str] | None = None

    def people(self, **people: Any) -> None:
        """These may log in."""
        self.setup.write_people(people)

    def start(self) -> None:
        """Until it answers."""
        argv = (*self.setup.command, "sessions", "-c", str(self.setup.config))
        self._process = self._namespace.popen(
            *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
        )
        eventually(self._answers, PATIENCE, "the session service answers")

    def stop(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, name: str, method: str, path: str, document: Any = None) -> Any:
        """One question with the certificate of this name."""
        with self._namespace.entered():
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.setup.port, timeout=PATIENCE, context=self.setup.tls(name)
            )
            connection.connect()
        with contextlib.closing(connection):
            connection.request(method, path, None if document is None else document.model_dump_json())
            response = connection.getresponse()
            body = response.read()
            assert response.status < 300, body
            return json.loads(body) if body else None

    def login(self, person: str = "alice", client_id: int = 0) -> dict[str, Any]:
        """The person's client connects to the VPN."""
        answer: dict[str, Any] = self.ask(
            "hub-a", "POST", "/api/v1/login", login(person, client_id=client_id)
        )
        assert answer["decision"] == "allow"
        return answer

    def block(self, person: str = "alice") -> None:
        """The person is offboarded."""
        self.ask("ops", "POST", "/api/v1/block", api.BlockCommand(person=person))

    def _answers(self) -> bool:
        try:
            return bool(self.ask("ops", "GET", "/api/v1/nodes"))
        except OSError:
            return False


@pytest.fixture
def hub(lab: Lab, tmp_path: Path) -> Iterator[LabHub]:
    made = LabHub(lab.network["facilitator"], tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def facilitator(lab: Lab, config: Config, hub: LabHub, tmp_path: Path) -> Iterator[LabDaemon]:
    certificate, key = hub.setup.certificates["vpn1"]
    tls = {"certificate": str(certificate), "key": str(key), "ca": str(hub.setup.authority.file)}
    config["hub"] = {
        "source": "sessions", "url": f"https://127.0.0.1:{hub.setup.port}", "tls": tls, "stale_after": "10s"
    }  # fmt: skip
    config["audit"] = {"file": str(tmp_path / "audit.json"), "people": True}
    config["tunnels"]["acme-dc"]["allow"] = [{"group": "engineers"}]
    config["tunnels"]["own-cloud"]["allow"] = [{"person": "alice", "until": "2099-12-31"}]
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        eventually(
            lambda: (daemon.status()["hub"] or {}).get("age_seconds") is not None, PATIENCE, "it is followed"
        )
        yield daemon
    assert daemon.leftovers() == {}


class UserStream:
    """A connection of the laptop that lives on, and how long it takes until it is cut."""

    def __init__(self, lab: Lab, address: object) -> None:
        with lab.network["laptop"].entered():
            self._socket = socket.create_connection((str(address), 80), PATIENCE)

    def send(self) -> None:
        """A part of a request that never ends. ConnectionError: it is cut."""
        self._socket.sendall(b"GET / HTTP/1.1\r\n" if self._first else b"X: y\r\n")
        self._first = False

    _first = True

    def cut(self, within: float) -> float:
        """Seconds until it is cut, from now on."""
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while True:
                self.send()
                assert time.monotonic() - began < PATIENCE, "it goes on"
                time.sleep(0.01)
        assert (seconds := time.monotonic() - began) < within * NOISE
        return seconds

    def close(self) -> None:
        """End it."""
        self._socket.close()


def passes(lab: Lab, url: str) -> bool:
    return lab.request(url, timeout=5.0).status == 200


def test_who_is_behind_an_address_decides_and_is_named(
    lab: Lab, hub: LabHub, facilitator: LabDaemon, tmp_path: Path
) -> None:
    assert not passes(lab, DATACENTRE_URL)
    assert not passes(lab, CLOUD_URL)
    began = time.monotonic()
    session = hub.login()["session"]
    eventually(lambda: passes(lab, DATACENTRE_URL), 1.0 * NOISE, "a group is let in")
    assert time.monotonic() - began < 1.0 * NOISE
    assert passes(lab, CLOUD_URL)

    why = json.loads(facilitator.cli("why", str(LAPTOP), "--json").stdout)
    assert why["outcome"] == "person"
    assert why["verdict"].startswith(f"{LAPTOP} is alice (engineers), session {session}, since ")
    assert "2.6.14 linux" in why["verdict"]
    sent = facilitator.cli("why", str(DATACENTRE_WEB), "--from", str(LAPTOP))
    assert sent.returncode == 0
    assert "alice (engineers)" in sent.stdout
    assert facilitator.status()["hub"] | {"age_seconds": 0} == {
        "source": "sessions", "sessions": 1, "people": 1, "age_seconds": 0, "stale": False, "problem": None, "skipped": 0,
    }  # fmt: skip
    assert facilitator.metric("facilitator_hub_book_age_seconds") < 30.0

    engineers, cloud = UserStream(lab, DATACENTRE_WEB), UserStream(lab, CLOUD_WEB)
    engineers.send()
    cloud.send()
    hub.people(alice=ALICE | {"groups": ["support"]})  # read within 2 s by the service
    eventually(
        lambda: facilitator.cli("why", str(DATACENTRE_WEB), "--from", str(LAPTOP)).returncode == 1,
        PATIENCE,
        "she is no engineer any more",
    )
    engineers.cut(0.5)
    cloud.send()
    assert not passes(lab, DATACENTRE_URL)
    assert passes(lab, CLOUD_URL)

    hub.block()
    cloud.cut(0.5)
    assert not passes(lab, CLOUD_URL)
    for each in (engineers, cloud):
        each.close()
    named = [json.loads(line) for line in (tmp_path / "audit.json").read_text().splitlines()]
    opened = [entry for entry in named if entry["event"] == "open" and entry["tunnel"] == "acme-dc"]
    assert {(entry["person"], entry["staff_session"]) for entry in opened} == {("alice", session)}


def test_a_hub_that_is_away_closes_rules_by_person_and_nothing_else(
    lab: Lab, hub: LabHub, config: Config, facilitator: LabDaemon
) -> None:
    config["staff"]["segments"] = {"office": [f"{LAPTOP}/32"]}
    config["tunnels"]["own-cloud"]["allow"] = ["office"]
    facilitator.configure(config)
    assert facilitator.cli("reload").returncode == 0
    session = hub.login()["session"]
    eventually(lambda: passes(lab, DATACENTRE_URL), PATIENCE, "alice is let in")
    running = UserStream(lab, DATACENTRE_WEB)
    running.send()
    hub.stop()
    eventually(lambda: (facilitator.status()["hub"] or {})["problem"], PATIENCE, "it is said")
    assert passes(lab, DATACENTRE_URL), "what is known stays in use"
    eventually(lambda: facilitator.status()["hub"]["stale"], 10.0 + PATIENCE, "it is too old")
    running.cut(2.0)
    assert not passes(lab, DATACENTRE_URL)
    assert passes(lab, CLOUD_URL)
    eventually(
        lambda: [each["name"] for each in facilitator.status()["conditions"]] == ["hub-stale"],
        PATIENCE,
        "it is said",
    )
    hub.start()
    hub.ask("hub-a", "POST", "/api/v1/heartbeat", heartbeat([session]))
    eventually(lambda: passes(lab, DATACENTRE_URL), 20.0 + PATIENCE, "the book is fresh again")
    running.close()


def test_a_real_servers_status_names_its_clients(lab: Lab, daemon: LabDaemon, tmp_path: Path) -> None:
    """The facilitator is the client here, and the customer's server the one that is asked."""
    with socket.socket(socket.AF_UNIX) as management:
        management.connect(str(lab.openvpn.management))
        management.sendall(b"status 2\n")
        said = [line.rstrip() for line in iter(management.makefile().readline, "END\n")]
    file = tmp_path / "status"
    file.write_text("\n".join([*(line for line in said if not line.startswith(">")), "END", ""]))
    found = []
    for server in (f"unix:{lab.openvpn.management}", str(file)):
        source = OpenVpnServers(
            [server], {"machines": ["svc-facilitator"]}, 1.0, lambda each: each.version == 4
        )
        (holding,) = asyncio.run(source.read(0, 0.0)).holdings
        found.append((str(ip_address(holding.address)), holding.person, holding.groups))
        assert time.time() - 120 < holding.since <= time.time()
    address = daemon.tunnel("acme-dc")["session"]["address"]
    assert found == [(address, "svc-facilitator", ("machines",))] * 2
