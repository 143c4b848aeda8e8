"""A fleet without a lock engine: members are asked by their own HTTP servers, with mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from common.tls import ServerTls
from supervisor.app.lock_engine import client_tls, member_apis
from supervisor.config.fleet import ClientTls, FleetMember, FleetSettings
from supervisor.control.api import HTTPApi
from supervisor.control.sockets import Servers
from supervisor.core.fleet.member_status import MemberStanding, MemberStatus, MemberTunnel
from supervisor.core.preflight.fleet import CLOCK_SECONDS
from supervisor.fleet.examining import etcd_nodes
from supervisor.fleet.member_api import examined_member
from tests.control.certificates import ControlAuthority
from tests.control.test_api import FakeDaemon
from tests.page.sample_pages import down, tunnel


class AskedMember(FakeDaemon):
    """A member with something of everything."""

    def status(self) -> dict[str, Any]:
        tunnels = [
            tunnel("acme-dc"),
            tunnel("borealis", drain={"flows_left": 2}),
            down("cascade"),
            tunnel("zephyr", phase="stopped", want="down"),
        ]
        return {"facilitator": "vpn2", "version": "0.1.0", "draining": False, "tunnels": tunnels}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ControlAuthority, str]]:
    authority, servers = ControlAuthority(tmp_path), Servers()
    tls = ServerTls(*authority.sign("CN=vpn2", "server"), authority.file)
    await servers.listen_tcp(HTTPApi(AskedMember()).public(tls.refusal), "127.0.0.1", 0, tls.context)
    await servers.serve()
    yield authority, f"https://127.0.0.1:{servers.addresses()[-1][1]}"
    await servers.close()


def fleet(url: str, tls: ClientTls) -> FleetSettings:
    """Four members: one that answers, one at whose port nobody listens, one without an address, and ours."""
    apis = {"vpn2": url, "vpn3": "https://127.0.0.1:1", "vpn4": None, "vpn1": "https://127.0.0.1:2"}
    members = {
        name: FleetMember(address=ip_address(f"192.0.2.{at}"), api=api)
        for at, (name, api) in enumerate(apis.items(), 1)
    }
    return FleetSettings(name="emea", members=members, tls=tls)


async def test_members_answer_by_their_own_servers(server: tuple[ControlAuthority, str]) -> None:
    authority, url = server
    certificate, key = authority.sign("CN=vpn1", "client")
    sight = await member_apis(
        fleet(url, ClientTls(certificate=certificate, key=key, ca=authority.file)), "vpn1"
    ).sight()
    assert sight.statuses == {
        "vpn2": MemberStatus(
            "0.1.0",
            False,
            (
                MemberTunnel("acme-dc", MemberStanding.READY),
                MemberTunnel("borealis", MemberStanding.DRAINS),
                MemberTunnel("cascade", MemberStanding.DOWN),
                MemberTunnel("zephyr", MemberStanding.STOPPED),
            ),
        )
    }
    assert sight.unknown.keys() == {"vpn3", "vpn4"}
    assert "Connect" in sight.unknown["vpn3"]
    assert "no api" in sight.unknown["vpn4"]


async def test_the_doctor_sees_names_and_clocks(server: tuple[ControlAuthority, str]) -> None:
    authority, url = server
    certificate, key = authority.sign("CN=vpn1", "client")
    tls = client_tls(ClientTls(certificate=certificate, key=key, ca=authority.file))
    found = await examined_member("vpn2", url, lambda: tls)
    assert (found.problem, found.name, found.version) == ("", "vpn2", "0.1.0")
    assert found.ahead is not None
    assert abs(found.ahead) < CLOCK_SECONDS
    assert "Connect" in (await examined_member("vpn3", "https://127.0.0.1:1", lambda: tls)).problem


@pytest.fixture
async def careless() -> AsyncIterator[Callable[[bytes, bytes], Awaitable[str]]]:
    """Starts servers that give one answer to everything; their URLs."""
    servers: list[asyncio.Server] = []

    async def start(date: bytes, body: bytes) -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (date, len(body)) + body)
            await writer.drain()
            writer.close()

        servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        return f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield start
    for each in servers:
        each.close()


async def test_the_doctor_goes_on_after_a_date_and_a_document_that_nobody_can_read(
    careless: Callable[[bytes, bytes], Awaitable[str]],
) -> None:
    url = await careless(b"Mon, 01 Jan 2024 00:00:00 +99999999999999999", b'{"facilitator": "vpn2"}')
    found = await examined_member("vpn2", url, lambda: None)
    assert (found.problem, found.name, found.ahead) == ("", "vpn2", None)
    (node,) = await etcd_nodes([await careless(b"", b"[" * 200_000)], lambda: None, 30.0)
    assert "recursion" in node.problem


async def test_who_is_not_let_in_says_so(server: tuple[ControlAuthority, str]) -> None:
    authority, url = server
    for tls in (ClientTls(), ClientTls(ca=authority.file)):
        sight = await member_apis(fleet(url, tls), "vpn1").sight()
        assert sight.statuses == {}
        assert sight.unknown["vpn2"].startswith(url)
