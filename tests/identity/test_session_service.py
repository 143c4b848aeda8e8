"""The book of a facilitator that follows the real session service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from hub.core import api
from supervisor.app.people.watch import PeopleWatch
from supervisor.config.fleet import ClientTls
from supervisor.config.hub import IdentitySettings
from supervisor.core.events import Event
from supervisor.core.views.audit_lines import FlowChange
from tests.hub.messages import heartbeat, login
from tests.hub.running import PEOPLE, HubSetup, post
from tests.lab.wait import NOISE
from tests.reports.test_audit import flow, lines, trail

STAFF = (ip_network("10.8.0.0/16"),)


@pytest.fixture
def setup(tmp_path: Path) -> HubSetup:
    return HubSetup(tmp_path)


def settings(setup: HubSetup, name: str = "vpn1", **changed: Any) -> IdentitySettings:
    certificate, key = setup.certificates[name]
    tls = ClientTls(certificate=certificate, key=key, ca=setup.authority.file)
    return IdentitySettings(
        **{"source": "sessions", "url": f"https://127.0.0.1:{setup.port}", "tls": tls, **changed}
    )


@pytest.fixture
async def watch(setup: HubSetup) -> AsyncIterator[PeopleWatch]:
    noted: list[Event] = []
    made = PeopleWatch(lambda secret: "", noted.append)
    tasks = [asyncio.create_task(made.run()), asyncio.create_task(made.watch_age())]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], Any], seconds: float = 5.0) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds * NOISE
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def test_a_person_is_named_from_login_to_end(
    setup: HubSetup, watch: PeopleWatch, tmp_path: Path
) -> None:
    async with setup.serving(), setup.client("hub-a") as sidecar, setup.client("ops") as ops:
        watch.set(settings(setup), STAFF)
        await until(lambda: watch.age is not None)
        before = time.time()
        _, answer = await post(sidecar, "/api/v1/login", login("alice"))
        address = ip_address(answer["address"])
        await until(lambda: watch.person(address.packed, time.time()), 1.0)
        view = watch.view
        assert view is not None
        assert [each.groups for each in view.present.values()] == [("engineers",)]
        assert watch.person(address.packed, before - 1) is None
        began = time.time()
        _, ended = await post(ops, "/api/v1/block", api.BlockCommand(person="alice"))
        assert ended["sessions"] == [answer["session"]]
        seconds = await until(lambda: not watch.view.present, 0.5)  # type: ignore[union-attr]
        assert seconds <= 0.5 * NOISE
        await until(lambda: watch.person(address.packed, time.time()) is None)
        with trail(tmp_path / "audit", person=watch.person) as made:
            for moment in (began, time.time()):
                made.put([flow(FlowChange.CLOSE, source=address.packed, began=moment, at=time.time())])
        named = [(line["person"], line["staff_session"]) for line in lines(tmp_path / "audit")[1:-1]]
        assert named == [("alice", answer["session"]), (None, None)]
        assert made.accounts.document(None, "alice", 10)[0]["person"] == "alice"


async def test_the_service_goes_and_comes_back(setup: HubSetup, watch: PeopleWatch) -> None:
    async with setup.serving(), setup.client("hub-a") as sidecar:
        watch.set(settings(setup, stale_after=10.0), STAFF)
        _, answer = await post(sidecar, "/api/v1/login", login("alice"))
        address = ip_address(answer["address"]).packed
        await until(lambda: watch.person(address, time.time()))
    await until(lambda: watch.view.problem)  # type: ignore[union-attr]
    assert watch.person(address, time.time()) is not None  # nobody else can have it yet
    assert not watch.stale
    async with setup.serving(), setup.client("hub-a") as sidecar:
        await post(sidecar, "/api/v1/heartbeat", heartbeat([answer["session"]]))
        await post(sidecar, "/api/v1/login", login("bob", client_id=1))
        await until(lambda: len(watch.view.present) == 2, 20.0)  # type: ignore[union-attr]
        assert watch.view.problem is None  # type: ignore[union-attr]


async def test_a_certificate_without_the_role_is_told_so(setup: HubSetup, watch: PeopleWatch) -> None:
    async with setup.serving():
        watch.set(settings(setup, "alice"), STAFF)
        await until(lambda: watch.view.problem)  # type: ignore[union-attr]
        said = str(watch.view and watch.view.problem)
        assert "status 403" in said
        assert "sessions.tls.roles" in said
        assert watch.age is None


async def test_changed_groups_arrive_at_once(setup: HubSetup, watch: PeopleWatch) -> None:
    async with setup.serving() as daemon, setup.client("hub-a") as sidecar:
        watch.set(settings(setup), STAFF)
        await post(sidecar, "/api/v1/login", login("bob"))
        await until(lambda: watch.view.present)  # type: ignore[union-attr]
        setup.write_people({**PEOPLE, "bob": {"groups": ["oncall"]}})
        await until(lambda: [each.groups for each in watch.view.present.values()] == [("oncall",)], 5.0)  # type: ignore[union-attr]
        assert daemon is not None
