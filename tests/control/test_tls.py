"""TLS of the HTTP server: who gets in, and certificates that change while it listens."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from common.tls import ServerTls
from supervisor.app.watchers.server_tls import TlsRenewal
from supervisor.control.api import HTTPApi
from supervisor.control.sockets import Servers
from supervisor.core.events import Event
from tests.control.certificates import ControlAuthority
from tests.control.test_api import FakeDaemon


@pytest.fixture
def authority(tmp_path: Path) -> ControlAuthority:
    return ControlAuthority(tmp_path)


@pytest.fixture
async def serve():
    """Serves with a TLS configuration; gives the address."""
    servers = Servers()

    async def start(tls: ServerTls) -> str:
        await servers.listen_tcp(HTTPApi(FakeDaemon()).public(tls.refusal), "127.0.0.1", 0, tls.context)
        await servers.serve()
        return f"https://127.0.0.1:{servers.addresses()[-1][1]}"

    yield start
    await servers.close()


async def get(address: str, context: ssl.SSLContext) -> tuple[int, str]:
    """A request on a connection of its own."""
    async with aiohttp.ClientSession() as http, http.get(f"{address}/healthz", ssl=context) as answer:
        return answer.status, (await answer.text()).strip()


async def shown_by(address: str, context: ssl.SSLContext) -> str:
    """The common name of the server's certificate."""
    port = int(address.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return dict(pair for part in subject for pair in part)["commonName"]


async def test_only_clients_of_the_ca_get_in(serve, authority: ControlAuthority, tmp_path: Path) -> None:
    address = await serve(ServerTls(*authority.sign("CN=server", "server"), authority.file))
    assert await get(address, authority.client(authority.sign("CN=anybody", "client"))) == (200, "ok")
    stranger = ControlAuthority(tmp_path, "CN=Other CA").sign("CN=anybody", "stranger")
    for shown in (None, stranger):
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await get(address, authority.client(shown))


async def test_of_these_only_the_listed_subjects(serve, authority: ControlAuthority) -> None:
    tls = ServerTls(
        *authority.sign("CN=server", "server"), authority.file, ["CN=prometheus,O=Example", "CN=two"]
    )
    address = await serve(tls)
    assert await get(address, authority.client(authority.sign("CN=prometheus,O=Example", "good"))) == (
        200,
        "ok",
    )
    for subject in (
        "CN=prometheus",
        "O=Example,CN=prometheus",
        "CN=prometheus,O=Example,C=DE",
        "CN=prometheus\\,O\\=Example",
    ):
        status, text = await get(address, authority.client(authority.sign(subject, "bad")))
        assert status == 403, subject
        assert "is not among http.tls.client_subjects" in text


async def test_a_subject_may_be_written_as_openssl_prints_it(serve, authority: ControlAuthority) -> None:
    address = await serve(
        ServerTls(
            *authority.sign("CN=server", "server"),
            authority.file,
            ["emailAddress=ops@example.net,CN=a\\,b,C=DE"],
        )
    )
    shown = authority.sign("1.2.840.113549.1.9.1=ops@example.net,CN=a\\,b,C=DE", "client")
    command = ["openssl", "x509", "-in", str(shown[0]), "-noout", "-subject", "-nameopt", "RFC2253"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.stdout.strip() == "subject=emailAddress=ops@example.net,CN=a\\,b,C=DE"
    assert await get(address, authority.client(shown)) == (200, "ok")


def test_a_subject_that_is_none_is_refused_at_the_start(authority: ControlAuthority) -> None:
    with pytest.raises(ValueError, match="'prometheus' is no subject"):
        ServerTls(*authority.sign("CN=server", "server"), authority.file, ["prometheus"])


async def test_new_files_hold_from_the_next_handshake_on(serve, authority: ControlAuthority) -> None:
    tls = ServerTls(*authority.sign("CN=old", "server"))
    address = await serve(tls)
    assert await shown_by(address, authority.client()) == "old"
    authority.sign("CN=new", "server")
    assert await shown_by(address, authority.client()) == "old", "nobody has said so yet"
    tls.renew()
    assert await shown_by(address, authority.client()) == "new"


async def test_another_ca_of_the_clients_holds_too_also_for_those_who_were_in_already(
    serve, authority: ControlAuthority, tmp_path: Path
) -> None:
    ca, other = tmp_path / "clients.pem", ControlAuthority(tmp_path, "CN=Other CA")
    shutil.copy(authority.file, ca)
    tls = ServerTls(*authority.sign("CN=server", "server"), ca)
    address = await serve(tls)
    before, after = authority.client(authority.sign("CN=a", "a")), authority.client(other.sign("CN=b", "b"))
    assert (await get(address, before))[0] == 200
    shutil.copy(other.file, ca)
    tls.renew()
    assert (await get(address, after))[0] == 200
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
        await get(address, before)


async def test_the_files_are_watched_and_bad_ones_change_nothing(serve, authority: ControlAuthority) -> None:
    events: asyncio.Queue[Event] = asyncio.Queue()
    tls, renewal = ServerTls(*authority.sign("CN=old", "server")), TlsRenewal(events.put_nowait)
    address = await serve(tls)
    renewal.start(tls)
    try:
        certificate = tls.files[0]
        certificate.write_text("no certificate")
        await asyncio.wait_for(events.get(), 20)
        assert "the earlier ones are in effect" in renewal.conditions["http-certificate"].text
        assert await shown_by(address, authority.client()) == "old"
        authority.sign("CN=new", "server")
        await asyncio.wait_for(events.get(), 20)
        assert renewal.conditions == {}
        assert await shown_by(address, authority.client()) == "new"
    finally:
        await renewal.close()
