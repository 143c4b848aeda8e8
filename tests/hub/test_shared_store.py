"""Several service processes on one PostgreSQL, and a PostgreSQL that goes away and comes back."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.core import api
from hub.service.database import Database, Unavailable
from hub.service.service import SessionService
from tests.hub.messages import heartbeat, login
from tests.hub.stores import PostgresqlServer, initdb, postgresql, postgresql_store
from tests.hub.test_service import RULES

pytestmark = pytest.mark.skipif(initdb() is None, reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    directory = Path(tempfile.mkdtemp(prefix="hub-pg-", dir="/tmp"))  # noqa: S108 - unprivileged users must get there
    with postgresql(directory) as made:
        yield made


def made(address: str) -> tuple[Database, SessionService]:
    """One of several services on a database."""
    database = Database(postgresql_store(address))
    return database, SessionService(database, RULES, 5.0, lambda ask: None)


async def test_two_services_at_once_give_no_address_twice_and_hear_of_each_other(
    server: PostgresqlServer,
) -> None:
    address = server.database()
    databases, services = zip(*(made(address) for _ in range(2)), strict=True)
    answers = await asyncio.gather(
        *(
            services[number % 2].login(login(("alice", "bob")[number % 2], client_id=number))
            for number in range(20)
        )
    )
    given = [answer.address for answer in answers if isinstance(answer, api.Allowed)]
    assert len(given) == len(set(given)) == 20
    trail = (await services[0].events(0, None, 1000, 0)).events
    assert [each.revision for each in trail] == list(range(1, len(trail) + 1)), "no number is missing"
    held = asyncio.create_task(
        services[0].heartbeat(
            heartbeat([a.session for a in answers], ending=[a.session for a in answers[:18]], wait=30)
        )
    )
    await asyncio.sleep(0.2)
    await services[1].end(api.EndCommand(session=answers[19].session), "CN=ops")
    while not held.done():
        await services[0].look_for_others()
        await asyncio.sleep(0.05)
    assert answers[19].session in [order.session for order in held.result().end]
    for database in databases:
        await database.close()


async def test_while_the_database_is_away_nobody_gets_in_and_then_all_is_as_before(
    server: PostgresqlServer,
) -> None:
    database, service = made(server.database())
    first = await service.login(login())
    server.stop()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await service.login(login("bob"))
    server.start()
    assert (await service.heartbeat(heartbeat([first.session]))).closed == 0
    assert isinstance(await service.login(login("bob")), api.Allowed)
    await database.close()
