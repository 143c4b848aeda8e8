"""Logins at an identity provider: the whole way of a browser, forged proofs, and the attacks on links."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from pathlib import Path

import aiohttp
import pytest

from hub.core import routes
from hub.core.api import ClientAddress
from tests.hub.identity_provider import (
    CLIENT,
    SECRET,
    IdentityProviderDouble,
    by_another_key,
    by_the_public_key,
    signed,
    unsigned,
)
from tests.hub.messages import heartbeat, login
from tests.hub.running import PEOPLE, HubSetup, free_port, get, post

LOGIN, HEARTBEAT = routes.LOGIN.path, routes.HEARTBEAT.path
STAFF = {**PEOPLE, "olga": {"method": "oidc", "groups": ["staff"]}, "mallory": {"method": "oidc"}}
HERE = ClientAddress(address="127.0.0.1", port=1194)
ELSEWHERE = ClientAddress(address="198.51.100.7", port=1194)


@pytest.fixture
async def provider():
    made = IdentityProviderDouble()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def setup(tmp_path: Path, provider: IdentityProviderDouble) -> HubSetup:
    (tmp_path / "secret").write_text(SECRET + "\n")
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    oidc = {"issuer": provider.issuer, "client": CLIENT, "secret": {"file": "secret"}, "groups": "groups"}
    made = HubSetup(
        tmp_path,
        login={"oidc": oidc, "totp": {"seeds": {"file": "seeds.yaml"}}},
        pages={"listen": f"127.0.0.1:{port}", "url": base},
    )
    made.write_people(STAFF)
    made.pages = port
    provider.redirect = f"{base}/oidc"
    return made


def browser() -> aiohttp.ClientSession:
    """One person's, with cookies of its own."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


class WaitingBrowser:
    """A login that waits for a browser."""

    def __init__(self, client: aiohttp.ClientSession, answer: dict) -> None:
        self.client, self.answer, self.link = client, answer, answer["link"]

    async def leave(self, who: aiohttp.ClientSession, link: str | None = None) -> str | None:
        """Press the button; where the browser is sent, None: nowhere."""
        where, _, token = (link or self.link).partition("?token=")
        async with who.post(where, data={"token": token, "number": ""}) as response:
            away = response.headers.get("Refresh", "")
            assert bool(away) == (response.status == 200)
            return away.removeprefix("0; url=") or None

    async def come_back(self, who: aiohttp.ClientSession, away: str) -> tuple[int, str]:
        """Log in at the provider, and be sent back."""
        async with who.get(away) as response:
            return response.status, await response.text()

    async def open(self, who: aiohttp.ClientSession) -> tuple[int, str]:
        """The whole way."""
        away = await self.leave(who)
        return await self.come_back(who, away) if away is not None else (0, "")

    async def decided(self, boot: str = "b1") -> list[str]:
        """What the node is told."""
        session = self.answer["session"]
        beat = heartbeat([session], waiting={session}, boot=boot)
        return [
            each["answer"]["decision"] for each in (await post(self.client, HEARTBEAT, beat))[1]["decided"]
        ]


@pytest.fixture
async def begin(setup: HubSetup):
    """Begins logins of olga, or somebody else, whose client has the browser's address."""
    async with setup.serving(), setup.client("hub-a") as client:

        async def started(person: str = "olga", **more: object) -> WaitingBrowser:
            request = login(person, **{"understands": {"webauth"}, "client": HERE, **more})
            status, answer = await post(client, LOGIN, request)
            assert (status, answer["decision"]) == (200, "wait"), answer
            return WaitingBrowser(client, answer)

        yield started


async def test_a_person_logs_in_and_has_the_groups_of_the_provider(begin, setup: HubSetup) -> None:
    waiting = await begin()
    async with browser() as mine:
        async with mine.get(waiting.link) as page:
            text = await page.text()
            assert (page.status, "Log in" in text, "127.0.0.1" in text) == (200, True, True)
        assert await waiting.decided() == []  # a look decides nothing
        status, page = await waiting.open(mine)
        assert (status, "is approved" in page) == (200, True)
        assert await waiting.decided() == ["allow"]
        assert (await waiting.open(mine))[0] == 0  # the link is used
    async with setup.client("ops") as ops:
        _, found = await get(ops, "/api/v1/sessions?person=olga")
    (session,) = found["sessions"]
    assert (session["method"], session["groups"]) == ("oidc", ["staff", "engineers"])


async def test_forged_proofs_let_nobody_in_and_deny_nobody(begin, provider: IdentityProviderDouble) -> None:
    waiting = await begin()
    now = int(time.time())
    forged = [
        {"iss": "https://evil.example"}, {"aud": "another"}, {"aud": [CLIENT, "another"]}, {"azp": "another"},
        {"exp": now - 3600}, {"iat": now - 3600}, {"iat": now + 3600}, {"exp": None}, {"exp": True},
        {"nonce": "x" * 43}, {"nonce": None}, {"preferred_username": None}, {"preferred_username": ["olga"]},
        {"preferred_username": "mallory"}, {"preferred_username": "Olga"}, {"groups": "engineers"},
        {"padding": "x" * 40_000}, {"padding": "x" * 400_000},
    ]  # fmt: skip
    async with browser() as mine:
        for changed in forged:
            provider.forge = lambda claims, changed=changed: claims | changed
            status, page = await waiting.open(mine)
            assert (status, "Error id" in page) == (403, True), changed
        provider.forge = lambda claims: claims
        nested = f"{base64.urlsafe_b64encode(b'[' * 20_000).decode()}.e30.x"
        broken = (lambda _: "no.token.atall", lambda _: "", lambda _: nested)
        for sign in (unsigned, by_another_key, by_the_public_key, *broken):
            provider.sign = sign
            assert (await waiting.open(mine))[0] == 403
        assert await waiting.decided() == []
        provider.sign = signed
        assert (await waiting.open(mine))[0] == 200
    assert await waiting.decided() == ["allow"]


async def test_somebody_elses_browser_logs_in_nobody(begin, provider: IdentityProviderDouble) -> None:
    waiting = await begin("mallory")  # sends the link to olga
    async with browser() as olgas:
        status, page = await waiting.open(olgas)
    assert (status, "another person" in page) == (403, True)
    assert await waiting.decided() == []
    provider.person = "mallory"
    async with browser() as own:
        assert (await waiting.open(own))[0] == 200


async def test_a_browser_with_another_address_changes_nothing(begin) -> None:
    waiting = await begin(client=ELSEWHERE)
    async with browser() as mine:
        async with mine.get(waiting.link) as page:
            assert page.status == 403
        async with mine.get(waiting.link, headers={"X-Forwarded-For": "198.51.100.7"}) as page:
            assert page.status == 403  # nobody but configured proxies is believed
        assert await waiting.leave(mine) is None
    assert await waiting.decided() == []


async def test_only_the_browser_that_left_may_come_back_and_only_once(begin) -> None:
    waiting = await begin()
    async with browser() as mine, browser() as other:
        away = await waiting.leave(mine)
        async with mine.get(away, allow_redirects=False) as sent:
            back = sent.headers["Location"]
        assert (await waiting.come_back(other, back))[0] == 403  # without the cookie
        await waiting.leave(other)
        assert (await waiting.come_back(other, back))[0] == 403  # with one of its own
        garbled = re.sub("state=[^&]*", "state=x", back)
        assert (await waiting.come_back(mine, garbled))[0] == 403
        assert await waiting.decided() == []
        assert (await waiting.come_back(mine, back))[0] == 200
        assert (await waiting.come_back(mine, back))[0] == 403  # the code, the state and the link are used
    assert await waiting.decided() == ["allow"]


async def test_links_from_before_a_restart_of_openvpn_let_nobody_in(begin) -> None:
    waiting = await begin()
    async with browser() as mine:
        away = await waiting.leave(mine)
        await post(waiting.client, HEARTBEAT, heartbeat([], boot="b2"))
        other = await begin("mallory", boot="b2")  # the same CID and KID
        assert (await waiting.come_back(mine, away))[0] == 404
    assert await other.decided(boot="b2") == []


async def test_a_disabled_person_comes_back_to_nothing(begin, setup: HubSetup) -> None:
    waiting = await begin()
    async with browser() as mine:
        away = await waiting.leave(mine)
        setup.write_people({**STAFF, "olga": {"state": "disabled"}})
        session = waiting.answer["session"]
        beat = heartbeat([session], waiting={session}, wait=30)
        (told,) = (await post(waiting.client, HEARTBEAT, beat))[1]["decided"]
        assert (told["answer"]["decision"], told["answer"]["reason"]) == ("deny", "offboarded")
        assert (await waiting.come_back(mine, away))[0] == 404


async def test_a_client_without_webauth_gets_a_sentence(setup: HubSetup) -> None:
    async with setup.serving(), setup.client("hub-a") as client:
        _, answer = await post(client, LOGIN, login("olga", understands={"crtext"}))
    assert (answer["decision"], answer["reason"]) == ("deny", "method-unusable")
    assert "cannot open" in answer["text"]
    assert len(answer["text"]) <= 160  # of what a client is shown


async def test_a_lost_answer_gets_another_link(begin) -> None:
    request = login("olga", understands={"webauth"}, client=HERE)
    waiting = await begin()
    first = (await post(waiting.client, LOGIN, request))[1]
    again = (await post(waiting.client, LOGIN, request))[1]
    assert first["session"] == again["session"]
    assert first["link"] != again["link"]
    async with browser() as mine:
        assert await waiting.leave(mine, first["link"]) is None
        assert await waiting.leave(mine, waiting.link) is None  # given up with the client's next login
        assert await waiting.leave(mine, again["link"]) is not None


async def test_the_provider_may_be_away(provider: IdentityProviderDouble, setup: HubSetup) -> None:
    """It refuses and hangs: the service starts, others log in as fast as before, renewals ask nobody."""
    await provider.stop()
    async with setup.serving(), setup.client("hub-a") as client, browser() as mine:

        async def begun() -> WaitingBrowser:
            request = login("olga", understands={"webauth"}, client=HERE)
            return WaitingBrowser(client, (await post(client, LOGIN, request))[1])

        waiting = await begun()
        assert await waiting.leave(mine) is None  # refused
        await provider.start()
        assert (await waiting.open(mine))[0] == 200
        waiting = await begun()
        away = await waiting.leave(mine)
        provider.answers.clear()  # hangs
        hanging = asyncio.create_task(waiting.come_back(mine, away))
        asked = provider.asked
        while provider.asked == asked:
            await asyncio.sleep(0.01)
        for number in range(20):
            alice = await post(client, LOGIN, login("alice", client_id=100 + number))
            if number == 0:
                renewed = login("alice", client_id=100, renewal=True, session=alice[1]["session"])
                assert (await post(client, LOGIN, renewed))[1]["decision"] == "allow"
            if alice[1]["decision"] == "deny":
                assert alice[1]["reason"] == "too-many-logins"
        assert not hanging.done()
        provider.answers.set()
        assert (await hanging)[0] == 200


async def test_secrets_stand_in_no_log_and_no_table(
    begin, setup: HubSetup, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = await begin()
    async with browser() as mine:
        away = await waiting.leave(mine)
        secret = next(iter(mine.cookie_jar)).value
        stored = b"".join(path.read_bytes() for path in setup.directory.glob("sessions.db*"))
        await waiting.come_back(mine, away)
    state = re.search("state=([^&]*)", away).group(1)
    token = waiting.link.partition("token=")[2]
    written = capsys.readouterr()
    for each in (token, state, secret, SECRET):
        assert each.encode() not in stored
        assert each not in written.out + written.err
