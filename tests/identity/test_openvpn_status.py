"""The status of OpenVPN servers: what is read of it, and what a client cannot make of it."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.identity.openvpn_status import read_status
from supervisor.identity.openvpn_status import OpenVpnServers
from supervisor.identity.source import IdentityAway

NOW = 1_800_000_000
HEADER = (
    "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tVirtual IPv6 Address\tBytes Received\t"
    "Bytes Sent\tConnected Since\tConnected Since (time_t)\tUsername\tClient ID\tPeer ID\tData Channel Cipher"
)


def client(
    name: str = "alice", address: str = "10.8.0.6", user: str = "UNDEF", since: str = "1799999000"
) -> str:
    return (
        f"CLIENT_LIST\t{name}\t198.51.100.7:1194\t{address}\tfd00:8::6\t1\t2\t2027-01-15 07:43:20\t{since}\t"
        f"{user}\t4\t0\tAES-256-GCM"
    )


def status(*clients: str, end: str = "END", now: int = NOW) -> str:
    lines = (
        "TITLE\tOpenVPN 2.6.14",
        f"TIME\t2027-01-15 08:00:00\t{now}",
        HEADER,
        *clients,
        "GLOBAL_STATS\tx\t0",
        end,
    )
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[str, tuple[str, ...]]:
    found = read_status(text, "hub-a", {"engineers": ("alice",), "all": ("alice", "bob")}, lambda _: True)
    return {str(ip_address(each.address)): (each.person, *each.groups) for each in found.holdings}


@pytest.mark.parametrize("separator", ["\t", ","])
def test_clients_are_people_with_the_groups_of_the_configuration(separator: str) -> None:
    text = status(client(), client("bob", "10.8.0.7").replace("fd00:8::6", ""), client("UNDEF", ""))
    assert read(text.replace("\t", separator)) == {
        "10.8.0.6": ("alice", "all", "engineers"), "fd00:8::6": ("alice", "all", "engineers"), "10.8.0.7": ("bob", "all"),
    }  # fmt: skip
    (first, *_) = read_status(text, "hub-a", {}, lambda _: True).holdings
    assert (first.since, first.session, first.node) == (1_799_999_000.0, "4@1799999000", "hub-a")


def test_a_user_name_makes_nobody_somebody_else() -> None:
    for user in ("x\t9", "x,9", "x\nCLIENT_LIST\tbob"):
        text = status(client(user=user), client("carol", "10.8.0.9"))
        for found in (text, text.replace("\t", ",")):
            assert {"alice", "carol"} >= {person for person, *_ in read(found).values()}


@pytest.mark.parametrize(
    "text",
    ["", "END\n", status(end=""), status().replace("TIME", "TIMF"), status().replace("Common Name", "Name"),
     "OpenVPN CLIENT LIST\nUpdated,2027-01-15 08:00:00\nEND\n"],
)  # fmt: skip
def test_what_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read(text)


@given(st.text())
def test_nothing_else_is_raised(text: str) -> None:
    for each in (text, status(text)):
        try:
            read(each)
        except ValueError:
            continue


def servers(*names: object) -> OpenVpnServers:
    return OpenVpnServers([str(name) for name in names], {}, 1.0, lambda address: address.version == 4)


async def test_files_of_several_servers_are_one_book(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    now = int(time.time())
    one.write_text(status(client(), now=now))
    other.write_text(status(client("bob", "10.8.1.6"), now=now - 5))
    found = await servers(one, other).read(0, 0.0)
    assert sorted((each.person, each.node) for each in found.holdings) == [("alice", "a"), ("bob", "b")]
    assert (found.time, found.complete) == (now - 5, True)
    other.write_text(status(now=now - 120))
    with pytest.raises(IdentityAway, match="12. s old; does the server run"):
        await servers(one, other).read(0, 0.0)
    with pytest.raises(IdentityAway, match="No such file"):
        await servers(tmp_path / "none").read(0, 0.0)


async def test_a_management_socket_is_asked_and_nothing_else_is_said(tmp_path: Path) -> None:
    said: list[bytes] = []
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b">INFO:OpenVPN Management Interface Version 5 -- type 'help' for more info\r\n")
        said.append(await reader.readline())
        text = status(client(), now=int(time.time())).replace("HEADER", ">LOG:1,,x\nHEADER", 1)
        writer.write(text.replace("\n", "\r\n").encode())
        said.append(await reader.readline())
        writer.close()
        gone.set()

    async with await asyncio.start_unix_server(serve, tmp_path / "m"):
        found = await servers(f"unix:{tmp_path}/m").read(0, 0.0)
        await gone.wait()
    assert [each.person for each in found.holdings] == ["alice"]
    assert said == [b"status 3\n", b"quit\n"]


async def test_a_password_is_not_given(tmp_path: Path) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ENTER PASSWORD:")

    async with await asyncio.start_unix_server(serve, tmp_path / "m"):
        with pytest.raises(IdentityAway, match="asks for a password"):
            await servers(f"unix:{tmp_path}/m").read(0, 0.0)
