"""Logins by notification: what the notifier gets, the page, and the attacks on links."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from hub.core import routes
from tests.hub.messages import heartbeat, login
from tests.hub.running import PEOPLE, HubSetup, free_port, post

LOGIN, HEARTBEAT = routes.LOGIN.path, routes.HEARTBEAT.path
KEY = "a-key-of-the-notifier"


class NotifierDouble:
    """Takes what the service sends."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.port = free_port()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Until it listens."""
        app = web.Application()
        app.router.add_post("/notify", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Until it does not."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        expected = hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(request.headers["X-Signature"], f"sha256={expected}")
        self.messages.put_nowait(json.loads(body))
        return web.Response()


@pytest.fixture
async def notifier():
    made = NotifierDouble()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def setup(tmp_path: Path, notifier: NotifierDouble) -> HubSetup:
    (tmp_path / "webhook").write_text(f"http://127.0.0.1:{notifier.port}/notify\n")
    (tmp_path / "key").write_text(KEY)
    port = free_port()
    made = HubSetup(
        tmp_path,
        login={
            "totp": {"seeds": {"file": "seeds.yaml"}},
            "notification": {"webhook": {"file": "webhook"}, "key": {"file": "key"}, "timeout": "60s"},
        },
        pages={"listen": f"127.0.0.1:{port}", "url": f"http://127.0.0.1:{port}"},
    )
    made.pages = port
    return made


class WaitingLogin:
    """A login that waits, its link, and what its node sees."""

    def __init__(
        self, client: aiohttp.ClientSession, browser: aiohttp.ClientSession, answer: dict, link: str
    ) -> None:
        self._client, self._browser = client, browser
        self.answer, self.link = answer, link
        self.token = link.partition("token=")[2]

    @property
    def number(self) -> str:
        """That the VPN client shows; empty: it cannot."""
        return self.answer["text"].rpartition(" ")[2]

    async def look(self) -> tuple[int, str]:
        """Open the link, as a mail scanner does."""
        async with self._browser.get(self.link) as response:
            return response.status, await response.text()

    async def press(self, number: str) -> tuple[int, str]:
        """A button of the page."""
        where = self.link.partition("?")[0]
        async with self._browser.post(where, data={"token": self.token, "number": number}) as response:
            return response.status, await response.text()

    async def leave(self) -> None:
        """The client gives up."""
        await post(self._client, HEARTBEAT, heartbeat([]))

    async def decided(self, wait: float = 0.0, boot: str = "b1") -> list[dict]:
        """What the node is told."""
        session = self.answer["session"]
        beat = heartbeat([session], waiting={session}, wait=wait, boot=boot)
        return (await post(self._client, HEARTBEAT, beat))[1]["decided"]


@pytest.fixture
async def begin(setup: HubSetup, notifier: NotifierDouble):
    """Begins logins of nora."""
    async with setup.serving(), setup.client("hub-a") as client, aiohttp.ClientSession() as browser:

        async def started(**more: object) -> WaitingLogin:
            request = login("nora", **{"understands": {"crtext"}, **more})
            status, answer = await post(client, LOGIN, request)
            assert (status, answer["decision"]) == (200, "wait"), answer
            message = await asyncio.wait_for(notifier.messages.get(), 20)
            assert (message["person"], message["place"], message["device"]) == (
                "nora",
                "198.51.100.7",
                "2.6.14 linux",
            )
            return WaitingLogin(client, browser, answer, message["link"])

        yield started


async def test_the_number_of_the_client_approves(begin) -> None:
    waiting = await begin()
    status, page = await waiting.look()
    assert status == 200
    assert all(text in page for text in ("nora", "198.51.100.7", "2.6.14 linux", f'value="{waiting.number}"'))
    assert await waiting.decided() == []  # a look decides nothing
    held = asyncio.create_task(waiting.decided(30))
    status, page = await waiting.press(waiting.number)
    assert (status, "is approved" in page) == (200, True)
    (decision,) = await held
    assert decision["answer"]["decision"] == "allow"
    assert decision["answer"]["method"] == "notification"


async def test_a_wrong_number_or_no_denies(begin) -> None:
    for pressed in ("no", "00"):
        waiting = await begin(client_id=ord(pressed[0]))
        _, page = await waiting.press(pressed)
        assert "was denied" in page
        (decision,) = await waiting.decided()
        assert (decision["answer"]["decision"], decision["answer"]["reason"]) == ("deny", "denied")
        await waiting.leave()


async def test_a_client_that_shows_nothing_has_no_number(begin) -> None:
    waiting = await begin(understands=set())
    assert waiting.answer["text"] == ""
    await waiting.press("")
    (decision,) = await waiting.decided()
    assert decision["answer"]["decision"] == "allow"


async def test_a_used_link_is_nothing(begin, setup: HubSetup) -> None:
    waiting = await begin()
    await waiting.press(waiting.number)
    assert (await waiting.look())[0] == 404
    for number in (waiting.number, "no"):
        assert (await waiting.press(number))[0] == 404
    (decision,) = await waiting.decided()
    assert decision["answer"]["decision"] == "allow"  # the session is as it was
    async with setup.client("ops") as ops, ops.get("/api/v1/sessions?person=nora") as response:
        assert [each["state"] for each in (await response.json())["sessions"]] == ["allowed"]


async def test_a_link_from_before_a_restart_of_openvpn_lets_nobody_in(begin, setup: HubSetup) -> None:
    waiting = await begin()
    async with setup.client("hub-a") as client:
        await post(client, HEARTBEAT, heartbeat([], boot="b2"))
        assert (await waiting.look())[0] == 404
        assert (await waiting.press(waiting.number))[0] == 404
        _, bob = await post(client, LOGIN, login("bob", boot="b2"))  # the same CID and KID
        beat = heartbeat([bob["session"]], boot="b2", waiting={bob["session"]})
        assert (await post(client, HEARTBEAT, beat))[1]["decided"] == []


async def test_a_link_of_a_person_who_was_disabled_lets_nobody_in(begin, setup: HubSetup) -> None:
    waiting = await begin()
    setup.write_people({**PEOPLE, "nora": {"state": "disabled"}})
    (decision,) = await waiting.decided(30)
    assert (decision["answer"]["decision"], decision["answer"]["reason"]) == ("deny", "offboarded")
    assert (await waiting.press(waiting.number))[0] == 404


async def test_forged_garbled_and_empty_links_are_pages_and_decide_nothing(begin) -> None:
    waiting = await begin()
    right = waiting.link
    for token in ("", "x", waiting.token[:-1], waiting.token + "A", "%00", "a" * 2000):
        waiting.link = f"{right.partition('=')[0]}={token}"
        waiting.token = token
        for status, page in (
            await waiting.look(),
            await waiting.press(waiting.number),
            await waiting.press("no"),
        ):
            assert status == 404
            assert "not valid" in page
    assert await waiting.decided() == []


async def test_only_one_login_of_a_person_waits(begin, setup: HubSetup) -> None:
    waiting = await begin()
    async with setup.client("hub-a") as client:
        _, second = await post(client, LOGIN, login("nora", client_id=9))
        assert (second["decision"], second["reason"]) == ("deny", "too-many-logins")
    assert await waiting.decided() == []


async def test_links_stand_in_no_log_and_no_table(
    begin, setup: HubSetup, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = await begin()
    await waiting.look()
    await waiting.press(waiting.number)
    stored = b"".join(path.read_bytes() for path in setup.directory.glob("sessions.db*"))
    assert waiting.answer["session"].encode() in stored
    assert waiting.token.encode() not in stored
    written = capsys.readouterr()
    assert waiting.token not in written.out + written.err
