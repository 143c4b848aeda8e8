"""The question over the control socket, and the command around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession
from click.testing import CliRunner, Result

from supervisor.app.api.why_name import why_name
from supervisor.cli import main
from supervisor.control.api import HTTPApi
from supervisor.control.client import ControlClient, Refused
from supervisor.control.peer_credentials import ClientGuard
from supervisor.control.sockets import Servers
from supervisor.core.diagnosis.answer import document
from supervisor.core.diagnosis.query import PacketQuery
from supervisor.core.views.audit_lines import ChangeRequest
from supervisor.core.views.documents import WhyDocument
from tests.why.worlds import asked, facts


@dataclass
class WorldDaemon:
    """Answers from the tests' world, where `down` is down."""

    down: dict[str, str] = field(default_factory=dict)

    async def why(self, question: PacketQuery) -> WhyDocument:
        given = facts(
            str(question.address),
            None if question.source is None else str(question.source),
            question.port,
            **self.down,
        )
        return document(given, asked(given))

    async def why_name(self, name: str, source: str | None, port: str | None) -> WhyDocument:
        """A host without a name service."""
        return await why_name(name, source, port, self.look_up, self.why)

    async def look_up(self, name: str, kind: int) -> None:
        """Nobody is asked."""

    def record_change(self, request: ChangeRequest) -> None:
        """Nobody changes anything here."""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[WorldDaemon, Path, str]]:
    daemon, servers = WorldDaemon(), Servers()
    api = HTTPApi(daemon)
    await servers.listen_unix(api.control(ClientGuard(lambda pid: False, "key")), tmp_path / "control.sock")
    await servers.listen_tcp(api.public(), "127.0.0.1", 0, None)
    await servers.serve()
    yield daemon, tmp_path / "control.sock", f"http://127.0.0.1:{servers.addresses()[-1][1]}"
    await servers.close()


async def test_the_question_reaches_the_daemon(served) -> None:
    query = urlencode({"address": "100.65.3.4", "from": "10.8.2.7", "port": "443"})
    found = await asyncio.to_thread(ControlClient(served[1]).get, f"/api/v1/why?{query}")
    assert (found["outcome"], found["from"], found["port"], found["real_address"]) == (
        "carried",
        "10.8.2.7",
        443,
        "10.0.3.4",
    )


async def test_tcp_does_not_serve_it(served) -> None:
    async with ClientSession() as http:
        assert (await http.get(f"{served[2]}/api/v1/why?address=10.77.0.10")).status == 404


@pytest.mark.parametrize(
    "query", ["", "address=", "address=10.77", "address=10.77.0.10&port=x", "address=10.77.0.10&from=here"]
)
async def test_a_bad_question_is_refused_in_words(served, query: str) -> None:
    with pytest.raises(Refused, match=r"^'.*' is not an? (IP address|port)"):
        await asyncio.to_thread(ControlClient(served[1]).get, f"/api/v1/why?{query}")


async def command(path: Path, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["why", *arguments, "--socket", str(path)])


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.77.0.10", 0),
        ("10.0.3.4", 1),
        ("8.8.8.8", 1),
        ("10.50.0.1", 0),
        ("acme.example", 1),
        ("10.77", 2),
        ("10.77.0.0/24", 2),
    ],
)
async def test_the_exit_code_is_the_outcome(served, address: str, code: int) -> None:
    assert (await command(served[1], address)).exit_code == code


async def test_a_tunnel_that_is_down_is_told_by_the_exit_code(served) -> None:
    served[0].down["acme"] = "backoff"
    result = await command(served[1], "10.77.0.10")
    assert (result.exit_code, result.stdout.splitlines()[0][:61]) == (
        3,
        "10.77.0.10 would be rejected: acme (openvpn) is down since 19",
    )


async def test_the_verdict_comes_first_then_the_steps_in_columns(served) -> None:
    lines = (await command(served[1], "10.77.0.10", "--from", "10.8.1.7")).stdout.splitlines()
    assert lines[:4] == [
        "10.77.0.10 is carried by acme (openvpn), healthy, for 3 h 12 min",
        "",
        "  ok       source       10.8.1.7 is staff: 10.8.0.0/16, segment engineers",
        "  ok       destination  10.77.0.0/24 of acme covers 10.77.0.10",
    ]


async def test_json_is_the_daemons_document(served) -> None:
    result = await command(served[1], "10.77.0.10", "--json")
    given = facts("10.77.0.10")
    assert json.loads(result.stdout) == document(given, asked(given))


def test_without_a_daemon_the_question_is_still_checked(tmp_path: Path) -> None:
    ends = [
        CliRunner().invoke(main, ["why", each, "--socket", str(tmp_path / "none")])
        for each in ("nonsense", "10.77.0.10")
    ]
    assert [each.exit_code for each in ends] == [2, 4]
    assert ends[0].stderr == "facilitator: 'nonsense' is not an IP address; names are not resolved\n"
