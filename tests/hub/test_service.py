"""The session service over both stores: logins, heartbeats, ends, addresses, the past."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from hub.core import api
from hub.core.addresses import AddressPool
from hub.core.api import EndReason, Method, StaffSessionState
from hub.core.codes import Seed, code_at
from hub.core.people import Person
from hub.service.database import Database, Unavailable
from hub.service.nodes import LateMessage
from hub.service.rules import Rules
from hub.service.service import SessionService
from tests.bench.hub_history import looked_up
from tests.hub.messages import heartbeat, login
from tests.hub.stores import PostgresqlServer, initdb, postgresql, postgresql_store, sqlite_store

SEED = Seed(b"0123456789abcdef")
RULES = Rules(
    AddressPool((IPv4Network("10.8.0.0/24"),), frozenset({IPv4Address("10.8.0.200")})),
    {
        "alice": Person("alice", groups=("engineers",)),
        "bob": Person("bob"),
        "tom": Person("tom", method=Method.TOTP),
        "fay": Person("fay", address=IPv4Address("10.8.0.200")),
        "old": Person("old", disabled=True),
        "gone": Person("gone", until=1000.0),
    },
    {"tom": SEED},
    attempts=100,
)


class HandClock:
    """Unix time that tests move."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    directory = Path(tempfile.mkdtemp(prefix="hub-pg-", dir="/tmp"))  # noqa: S108 - unprivileged users must get there
    with postgresql(directory) as made:
        yield made
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgresql", marks=pytest.mark.skipif(initdb() is None, reason="PostgreSQL is not installed")
        ),
    ]
)
def connect(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "sqlite":
        return sqlite_store(tmp_path / "s.db")
    return postgresql_store(request.getfixturevalue("server").database())


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def service(connect, clock: HandClock):
    database = Database(connect)
    yield SessionService(database, RULES, 5.0, lambda ask: None, clock)
    await database.close()


async def allowed(service: SessionService, person: str = "alice", **more: object) -> api.Allowed:
    answer = await service.login(login(person, **more))
    assert isinstance(answer, api.Allowed), answer
    return answer


async def states(service: SessionService, **query: object) -> list[str]:
    found = await service.history(query.get("person"), None, None, 100)
    return [f"{each.state}:{each.reason}" if each.reason else f"{each.state}" for each in found.sessions]


async def test_a_login_gets_an_address_and_is_published_with_its_person(service: SessionService) -> None:
    answer = await allowed(service)
    assert str(answer.address) == "10.8.0.2"
    assert str(answer.netmask) == "255.255.255.0"
    assert answer.groups == ("engineers",)
    book = await service.addresses("vpn1", 0, 0)
    assert book.complete
    assert [(str(e.address), e.person, e.groups, e.ended) for e in book.entries] == [
        ("10.8.0.2", "alice", ("engineers",), None)
    ]
    assert book.entries[0].client == "2.6.14 linux"


async def test_the_same_request_gets_the_same_answer(service: SessionService) -> None:
    request = login()
    assert await service.login(request) == await service.login(request)
    assert len((await service.sessions(None, None, 10)).sessions) == 1


@pytest.mark.parametrize(
    ("person", "reason"),
    [("old", EndReason.OFFBOARDED), ("gone", EndReason.OFFBOARDED), ("mallory", EndReason.UNKNOWN_PERSON)],
)
async def test_who_has_no_access_is_refused_and_leaves_a_trace(
    service: SessionService, person: str, reason: EndReason
) -> None:
    answer = await service.login(login(person))
    assert isinstance(answer, api.Denied)
    assert answer.reason is reason
    assert await states(service, person=person) == [f"refused:{reason}"]


async def test_only_a_heartbeat_of_the_node_ends_a_session(service: SessionService, clock: HandClock) -> None:
    session = (await allowed(service)).session
    await service.heartbeat(heartbeat([session]))
    clock.time += 16  # three heartbeats of silence
    assert [each.state for each in (await service.sessions(None, None, 10)).sessions] == [
        StaffSessionState.STALE
    ]
    await service.heartbeat(heartbeat([], node="hub-b"))
    assert [each.state for each in (await service.sessions(None, None, 10)).sessions] == [
        StaffSessionState.STALE
    ]
    assert (await service.heartbeat(heartbeat([session]))).closed == 0
    assert [each.state for each in (await service.sessions(None, None, 10)).sessions] == [
        StaffSessionState.UP
    ]
    assert (await service.heartbeat(heartbeat([]))).closed == 1
    assert await states(service) == ["ended:left"]


async def test_a_login_after_the_list_was_made_is_not_missed_in_it(service: SessionService) -> None:
    early = heartbeat([])
    await allowed(service)
    assert (await service.heartbeat(early)).closed == 0


async def test_a_new_run_of_openvpn_has_lost_its_sessions(service: SessionService) -> None:
    session = (await allowed(service)).session
    await service.heartbeat(heartbeat([session]))
    assert (await service.heartbeat(heartbeat([], boot="b2"))).closed == 1
    assert await states(service) == ["ended:lost-with-node"]
    with pytest.raises(LateMessage):
        await service.heartbeat(heartbeat([], boot="b1"))


async def test_an_end_is_picked_up_by_the_heartbeat_that_waits(service: SessionService) -> None:
    session = (await allowed(service)).session
    await service.heartbeat(heartbeat([session]))
    held = asyncio.create_task(service.heartbeat(heartbeat([session], wait=30)))
    await asyncio.sleep(0)
    assert (await service.end(api.EndCommand(person="alice"), "CN=ops")).sessions == (session,)
    (order,) = (await asyncio.wait_for(held, 10)).end
    assert (order.session, order.reason) == (session, EndReason.ENDED_BY_ADMIN)
    told = await service.heartbeat(heartbeat([session], ending={session}))
    assert told.end == ()
    await service.ended(
        api.SessionEnds(node="hub-a", boot="b1", ended=(api.SessionEnd(session=session, received_bytes=7),))
    )
    (view,) = (await service.history("alice", None, None, 10)).sessions
    assert (view.state, view.reason, view.ended_by, view.received_bytes) == (
        "ended",
        "ended-by-admin",
        "CN=ops",
        7,
    )


async def test_a_facilitator_learns_of_an_end_before_the_vpn_has_cut(service: SessionService) -> None:
    session = (await allowed(service)).session
    before = await service.addresses("vpn1", 0, 0)
    poll = asyncio.create_task(service.addresses("vpn1", before.revision, 30))
    await asyncio.sleep(0)
    await service.block(api.BlockCommand(person="alice"), "CN=ops")
    book = await asyncio.wait_for(poll, 10)
    while not book.entries:  # the event of the block itself has no address
        book = await service.addresses("vpn1", book.revision, 30)
    assert [(e.session, e.ended is not None) for e in book.entries] == [(session, True)]
    assert isinstance(await service.login(login("alice")), api.Denied)
    await service.block(api.BlockCommand(person="alice", blocked=False), "CN=ops")
    await allowed(service, "alice")


async def test_an_address_rests_before_it_changes_its_person(
    service: SessionService, clock: HandClock
) -> None:
    small = replace(RULES, pool=AddressPool((IPv4Network("10.8.0.0/30"),)), rest_seconds=600.0)
    service.rules = small  # one address: 10.8.0.2
    first = await allowed(service, "alice")
    busy = await service.login(login("bob"))
    assert isinstance(busy, api.Denied)
    assert (busy.reason, busy.elsewhere) == (EndReason.NO_ADDRESS, True)
    await service.heartbeat(heartbeat([]))
    assert isinstance(await service.login(login("bob")), api.Denied)
    assert (await allowed(service, "alice")).address == first.address  # its own, at once
    await service.heartbeat(heartbeat([]))
    clock.time += 601
    assert (await allowed(service, "bob")).address == first.address


async def test_a_fixed_address_and_a_second_login(service: SessionService) -> None:
    first = await allowed(service, "fay")
    assert str(first.address) == "10.8.0.200"
    again = await service.login(login("fay", client_id=1))
    assert isinstance(again, api.Denied)
    assert again.elsewhere
    answer = await service.heartbeat(heartbeat([first.session]))
    assert [order.reason for order in answer.end] == [EndReason.REPLACED]
    await service.heartbeat(heartbeat([]))
    assert str((await allowed(service, "fay", client_id=2)).address) == "10.8.0.200"


async def test_the_third_session_of_a_person_ends_the_oldest(service: SessionService) -> None:
    sessions = [(await allowed(service, client_id=number)).session for number in range(3)]
    answer = await service.heartbeat(heartbeat(sessions))
    assert [(order.session, order.reason) for order in answer.end] == [(sessions[0], EndReason.REPLACED)]


async def test_too_many_logins_wait(service: SessionService, clock: HandClock) -> None:
    service.rules = replace(RULES, attempts=3)
    for _ in range(3):
        await service.login(login("old"))
    answer = await service.login(login("old"))
    assert isinstance(answer, api.Denied)
    assert answer.reason is EndReason.TOO_MANY_LOGINS
    assert answer.backoff > 0
    clock.time += 61
    assert (await service.login(login("old"))).reason is EndReason.OFFBOARDED


async def test_a_renewal_asks_nobody_and_ends_who_has_no_access(service: SessionService) -> None:
    session = (await allowed(service, "bob")).session
    again = await service.login(login("bob", renewal=True, session=session))
    assert isinstance(again, api.Allowed)
    assert again.session == session
    service.rules = replace(RULES, people={})
    refused = await service.login(login("bob", renewal=True))
    assert isinstance(refused, api.Denied)
    assert [order.session for order in (await service.heartbeat(heartbeat([session]))).end] == [session]


async def test_a_renewal_of_somebody_elses_session_is_refused(service: SessionService) -> None:
    session = (await allowed(service, "bob")).session
    answer = await service.login(login("alice", renewal=True, session=session))
    assert isinstance(answer, api.Denied)
    assert answer.reason is EndReason.NOT_OURS


async def test_a_person_who_leaves_the_file_is_ended_by_the_sweep(service: SessionService) -> None:
    session = (await allowed(service, "bob")).session
    service.rules = replace(RULES, people={})
    await service.apply_people()
    assert [order.reason for order in (await service.heartbeat(heartbeat([session]))).end] == [
        EndReason.OFFBOARDED
    ]


async def test_new_groups_reach_the_book(service: SessionService) -> None:
    await allowed(service, "bob")
    before = await service.addresses("vpn1", 0, 0)
    service.rules = replace(RULES, people={"bob": Person("bob", groups=("oncall",))})
    await service.apply_people()
    book = await service.addresses("vpn1", before.revision, 0)
    assert [(e.person, e.groups) for e in book.entries] == [("bob", ("oncall",))]
    assert not book.complete


async def test_a_session_that_is_too_long_ends(service: SessionService, clock: HandClock) -> None:
    session = (await allowed(service)).session
    clock.time += RULES.session_seconds + 1
    await service.end_overdue()
    assert [order.reason for order in (await service.heartbeat(heartbeat([session]))).end] == [
        EndReason.EXPIRED
    ]


async def test_a_client_that_nobody_knows_is_adopted_or_ended(service: SessionService) -> None:
    known = api.UnknownClient(client_id=7, person="alice", address=IPv4Address("10.8.0.9"))
    stranger = api.UnknownClient(client_id=8, person="mallory", address=IPv4Address("10.8.0.10"))
    answer = await service.heartbeat(heartbeat([], unknown=(known, stranger)))
    ids = {each.client_id: each.session for each in answer.adopted}
    assert [order.client_id for order in answer.end] == [8]
    assert (await service.heartbeat(heartbeat(ids.values(), ending={ids[8]}))).closed == 0
    assert [str(e.address) for e in (await service.addresses("v", 0, 0)).entries if e.ended is None] == [
        "10.8.0.9"
    ]
    assert (await allowed(service, "bob")).address != IPv4Address("10.8.0.9")


async def test_who_had_an_address_at_a_moment(service: SessionService, clock: HandClock) -> None:
    first = await allowed(service, "alice")
    begun = clock.time
    clock.time += 100
    await service.heartbeat(heartbeat([]))
    clock.time += 1000
    service.rules = replace(RULES, pool=AddressPool((IPv4Network("10.8.0.0/30"),)))
    second = await allowed(service, "bob")
    assert first.address == second.address

    async def holder(at: float) -> list[str]:
        found = await service.history(None, str(first.address), at, 10)
        return [each.person for each in found.sessions]

    assert await holder(begun - 1) == []
    assert await holder(begun + 50) == ["alice"]
    assert await holder(begun + 500) == []
    assert await holder(clock.time) == ["bob"]


async def test_what_is_older_than_the_retention_is_forgotten_and_a_late_reader_gets_the_whole_book(
    service: SessionService, clock: HandClock
) -> None:
    await allowed(service, "alice")
    await service.heartbeat(heartbeat([]))
    first = await service.addresses("vpn1", 0, 0)
    clock.time += 3600
    kept = await allowed(service, "bob")
    await service.heartbeat(heartbeat([kept.session]))
    await service.forget(1800.0)
    assert await states(service) == ["up"]
    assert {each.person for each in (await service.events(0, None, 100, 0)).events} == {"bob"}
    book = await service.addresses("vpn1", first.revision, 0)
    assert book.complete
    assert [each.session for each in book.entries] == [kept.session]


# --- codes


def code(clock: HandClock, offset: int = 0) -> str:
    return code_at(SEED, int(clock.time // 30) + offset)


async def challenge(service: SessionService, **more: object) -> api.Challenged:
    answer = await service.login(login("tom", username="tom", understands={"crv1"}, **more))
    assert isinstance(answer, api.Challenged), answer
    return answer


async def test_a_code_by_dynamic_challenge(service: SessionService, clock: HandClock) -> None:
    asked = await challenge(service)
    typed = f"CRV1::{asked.state}::{code(clock)}"
    answer = await service.login(login("tom", username="tom", password=typed, understands={"crv1"}))
    assert isinstance(answer, api.Allowed)
    assert answer.method is Method.TOTP
    replayed = await service.login(login("tom", username="tom", password=typed, understands={"crv1"}))
    assert isinstance(replayed, api.Challenged)  # asked anew: state and code are used up
    fresh = f"CRV1::{replayed.state}::{code(clock)}"
    used = await service.login(login("tom", username="tom", password=fresh, understands={"crv1"}))
    assert isinstance(used, api.Challenged)
    assert "not right" in used.text


async def test_a_challenge_is_for_one_person_and_certificate(
    service: SessionService, clock: HandClock
) -> None:
    asked = await challenge(service)
    service.rules = replace(
        RULES,
        people={**RULES.people, "eve": Person("eve", method=Method.TOTP)},
        seeds={"tom": SEED, "eve": SEED},
    )
    typed = f"CRV1::{asked.state}::{code(clock)}"
    other = await service.login(login("eve", username="tom", password=typed, understands={"crv1"}))
    assert isinstance(other, api.Challenged)
    clock.time += 121
    late = await service.login(
        login("tom", username="tom", password=f"CRV1::{asked.state}::{code(clock)}", understands={"crv1"})
    )
    assert isinstance(late, api.Challenged)


async def test_a_code_on_the_same_connection(service: SessionService, clock: HandClock) -> None:
    from base64 import b64encode

    answer = await service.login(login("tom", understands={"crtext"}))
    assert isinstance(answer, api.Challenged)
    assert answer.by == "crtext"

    def typed(text: str) -> api.ChallengeAnswer:
        return api.ChallengeAnswer(
            node="hub-a",
            boot="b1",
            session=answer.session,
            key_id=1,
            response=b64encode(text.encode()).decode(),
        )

    elsewhere = typed(code(clock)).model_copy(update={"boot": "b2"})
    assert isinstance(await service.typed(elsewhere), api.Denied)
    assert isinstance(await service.typed(typed(code(clock))), api.Allowed)
    assert isinstance(await service.typed(typed(code(clock))), api.Allowed)  # the same question again
    assert len((await service.sessions("tom", None, 10)).sessions) == 1


async def test_five_wrong_codes_lock_for_fifteen_minutes(service: SessionService, clock: HandClock) -> None:
    for _ in range(4):
        assert (await service.login(login("tom", password="000000"))).reason is EndReason.WRONG_CODE
    assert (await service.login(login("tom", password="000000"))).reason is EndReason.LOCKED
    assert (await service.login(login("tom", password=code(clock)))).reason is EndReason.LOCKED
    clock.time += 15 * 60 + 1
    assert isinstance(await service.login(login("tom", password=code(clock))), api.Allowed)


async def test_a_client_that_cannot_ask_is_told_so(service: SessionService) -> None:
    answer = await service.login(login("tom"))
    assert isinstance(answer, api.Denied)
    assert answer.reason is EndReason.METHOD_UNUSABLE
    assert "auth-user-pass" in answer.text


async def test_a_token_spares_the_code_only_for_its_own_certificate(
    service: SessionService, clock: HandClock
) -> None:
    token = {"username": "tom", "token": "valid", "understands": {"crv1"}}
    assert isinstance(await service.login(login("tom", **token)), api.Challenged)  # nothing was ever proved
    assert isinstance(await service.login(login("tom", password=code(clock))), api.Allowed)
    assert isinstance(
        await service.login(login("tom", boot="b2", **token)), api.Allowed
    )  # OpenVPN was restarted
    assert isinstance(await service.login(login("tom", certificate="stolen", **token)), api.Challenged)
    assert isinstance(await service.login(login("tom", **{**token, "username": "alice"})), api.Challenged)
    await service.end(api.EndCommand(person="tom"), "CN=ops")
    assert isinstance(
        await service.login(login("tom", **token)), api.Challenged
    )  # it cannot come back with it


# --- the database is away


async def test_without_a_database_nobody_gets_in(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    database = Database(sqlite_store(file / "s.db"))
    service = SessionService(database, RULES, 5.0, lambda ask: None)
    with pytest.raises(Unavailable):
        await service.login(login())
    await database.close()


async def test_who_had_an_address_among_many(connect) -> None:
    times = await looked_up(connect, 5000)
    assert len(times) > 0
