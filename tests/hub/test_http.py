"""The API over real mutual TLS: roles, statuses, the long poll, files that change, pages and metrics."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from hub.core import routes
from tests.hub.messages import heartbeat, login
from tests.hub.running import PEOPLE, HubSetup, get, post
from tests.lab.wait import NOISE

LOGIN, HEARTBEAT = routes.LOGIN.path, routes.HEARTBEAT.path


@pytest.fixture
def setup(tmp_path: Path) -> HubSetup:
    return HubSetup(tmp_path)


@pytest.fixture
async def running(setup: HubSetup):
    async with setup.serving() as daemon:
        yield daemon


async def test_each_role_may_do_its_own(setup: HubSetup, running) -> None:
    roles = {"hub-a": "sidecar", "vpn1": "facilitator", "ops": "admin"}
    for name in ("hub-a", "vpn1", "ops", "alice"):
        async with setup.client(name) as client:
            for route in routes.ROUTES:
                async with client.request(route.method, route.path, data="{}") as response:
                    right = roles.get(name) == route.role
                    assert (response.status == 403) != right, (name, route.path, response.status)
                    if not right:
                        assert (await response.json())["error"] == f"CN={name} has not the role {route.role}"


async def test_without_a_certificate_there_is_no_connection(setup: HubSetup, running) -> None:
    async with setup.client(None) as client:
        with pytest.raises(aiohttp.ClientError):
            await get(client, "/api/v1/sessions")


async def test_a_sidecar_speaks_for_its_own_node_only(setup: HubSetup, running) -> None:
    async with setup.client("hub-a") as client:
        assert (await post(client, LOGIN, login(node="hub-b")))[0] == 403
        assert (await post(client, LOGIN, login(node="hub-a:tcp")))[0] == 200


async def test_a_wrong_document_is_told_without_its_values(setup: HubSetup, running) -> None:
    async with setup.client("hub-a") as client:
        status, answer = await post(client, LOGIN, '{"node": "hub-a", "password": "s3cret", "client_id": -1}')
        assert status == 400
        assert "boot: missing" in answer["error"]
        assert "s3cret" not in str(answer)


@pytest.mark.parametrize("asked", ["limit=inf", "limit=nan", "limit=many"])
async def test_a_number_that_is_none_is_refused_in_words(setup: HubSetup, running, asked: str) -> None:
    async with setup.client("ops") as ops:
        status, answer = await get(ops, f"/api/v1/sessions?{asked}")
    assert (status, answer["error"]) == (400, "limit: a number is expected")


async def test_who_end_and_history_over_the_api(setup: HubSetup, running) -> None:
    async with setup.client("hub-a") as sidecar, setup.client("vpn1") as follower, setup.client("ops") as ops:
        _, answer = await post(sidecar, LOGIN, login())
        assert answer["decision"] == "allow"
        _, book = await get(follower, "/api/v1/addresses")
        assert [(e["address"], e["person"], e["groups"]) for e in book["entries"]] == [
            ("10.8.0.2", "alice", ["engineers"])
        ]
        beat = heartbeat([answer["session"]], wait=30)
        held = asyncio.create_task(post(sidecar, HEARTBEAT, beat))
        poll = asyncio.create_task(get(follower, f"/api/v1/addresses?after={book['revision']}&wait=30"))
        _, who = await get(ops, "/api/v1/sessions?person=alice")
        assert [each["session"] for each in who["sessions"]] == [answer["session"]]
        begun = time.monotonic()
        assert (await post(ops, "/api/v1/end", '{"person": "alice"}')) == (
            200,
            {"sessions": [answer["session"]]},
        )
        _, orders = await held
        assert [order["session"] for order in orders["end"]] == [answer["session"]]
        _, news = await poll
        while not any(e["ended"] for e in news["entries"]):
            _, news = await get(follower, f"/api/v1/addresses?after={news['revision']}&wait=30")
        assert time.monotonic() - begun < 0.5 * NOISE
        assert (await post(ops, "/api/v1/end", "{}"))[0] == 400


async def test_a_login_waits_a_moment_for_the_facilitators(setup: HubSetup, running) -> None:
    async with setup.client("hub-a") as sidecar, setup.client("vpn1") as follower:
        _, book = await get(follower, "/api/v1/addresses")
        known: list[str] = []

        async def follow() -> None:
            after = book["revision"]
            while True:
                _, news = await get(follower, f"/api/v1/addresses?after={after}&wait=30")
                known.extend(each["address"] for each in news["entries"])
                after = news["revision"]

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        _, answer = await post(sidecar, LOGIN, login())
        assert answer["address"] in known
        following.cancel()


async def test_people_who_change_in_the_file(setup: HubSetup, running) -> None:
    async with setup.client("hub-a") as client, setup.client("vpn1") as follower:
        _, answer = await post(client, LOGIN, login())
        _, book = await get(follower, "/api/v1/addresses")
        setup.write_people({**PEOPLE, "alice": {"groups": ["oncall"]}})
        while not (entries := [e for e in book["entries"] if e["groups"] == ["oncall"]]):
            _, book = await get(follower, f"/api/v1/addresses?after={book['revision']}&wait=30")
        assert entries[0]["session"] == answer["session"]
        setup.people.write_text("people: {alice: {grups: []}}")  # wrong: nothing changes
        await asyncio.sleep(0.6)
        assert (await post(client, LOGIN, login("bob")))[1]["decision"] == "allow"
        setup.write_people({name: entry for name, entry in PEOPLE.items() if name != "alice"})
        _, orders = await post(client, HEARTBEAT, heartbeat([answer["session"]], wait=30))
        assert [(order["person"], order["reason"]) for order in orders["end"]] == [("alice", "offboarded")]


async def test_a_new_certificate_of_the_service_is_shown_at_once(setup: HubSetup, running) -> None:
    certificate, key = setup.certificates["service"]
    fresh = setup.authority.sign("CN=renewed", "renewed")
    key.write_bytes(fresh[1].read_bytes())
    certificate.write_bytes(fresh[0].read_bytes())

    async def shown() -> object:
        _, writer = await asyncio.open_connection("127.0.0.1", setup.port, ssl=setup.tls("hub-a"))
        subject = writer.get_extra_info("peercert")["subject"]
        writer.close()
        return subject[0][0][1]

    while await shown() != "renewed":
        await asyncio.sleep(0.05)


async def test_metrics_health_and_page(setup: HubSetup, running) -> None:
    async with setup.client("hub-a") as client:
        _, answer = await post(client, LOGIN, login("bob", claims={"IV_VER": "<script>alert(1)</script>"}))
        await post(client, HEARTBEAT, heartbeat([answer["session"]]))
        await post(client, LOGIN, login("<script>alert(2)</script>"))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{setup.http}") as browser:
        async with browser.get("/metrics") as response:
            text = await response.text()
        assert 'facilitator_hub_logins_total{decision="allow",reason=""} 1.0' in text
        assert 'facilitator_hub_sessions{node="hub-a"} 1.0' in text
        assert "facilitator_hub_database_up 1.0" in text
        async with browser.get("/readyz") as response:
            assert response.status == 200
        async with browser.get("/") as response:
            page = await response.text()
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "bob" in page
        assert "<script>" not in page
