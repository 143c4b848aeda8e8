"""Measures "who had ADDRESS at TIME" over many sessions that are long over. Needs no root.

python -m tests.bench.hub_history [--sessions 1000000] [--postgresql]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from ipaddress import IPv4Address
from pathlib import Path

from hub.core.addresses import AddressPool
from hub.core.api import EndReason, Method, StaffSessionState
from hub.core.sessions import StaffSession
from hub.service.database import Connection, Database, Transaction
from hub.service.rules import Rules
from hub.service.service import SessionService
from tests.bench.hub import database
from tests.hub.stores import postgresql_store, sqlite_store

BEGUN, ADDRESSES, HOURS = 1_700_000_000.0, 1400, 8 * 3600.0
LOOKS = 200


def past(sessions: int) -> list[tuple[object, ...]]:
    """Rows: each address is held for eight hours by one person after the other."""
    first = StaffSession(
        "", "", "hub-a", "b", 0, 0, 0, "serial", "198.51.100.7", 1194, "{}", Method.CERTIFICATE,
        StaffSessionState.ENDED, BEGUN, reason=EndReason.LEFT,
    )  # fmt: skip
    made = []
    for number in range(sessions):
        since = BEGUN + (number // ADDRESSES) * HOURS
        address = str(IPv4Address("10.8.0.2") + number % ADDRESSES)
        row = replace(
            first, id=f"s{number}", person=f"person{number % 977}", sequence=number, asked=since, since=since, up=since,
            ended=since + HOURS - 60, address=address, revision=number,
        )  # fmt: skip
        made.append(tuple(int(each) if isinstance(each, bool) else each for each in astuple(row)))
    return made


async def looked_up(connect: Callable[[bool], Connection], sessions: int) -> list[float]:
    """Milliseconds of each look, sorted."""
    store = Database(connect)
    columns = [field.name for field in fields(StaffSession)]
    insert = f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608

    def fill(transaction: Transaction) -> None:
        transaction.many(insert, past(sessions))

    await store.write(fill)
    service = SessionService(store, Rules(AddressPool(())), 5.0, lambda ask: None)
    times = []
    for number in range(LOOKS):
        wanted = sessions * number // LOOKS
        address = str(IPv4Address("10.8.0.2") + wanted % ADDRESSES)
        at = BEGUN + (wanted // ADDRESSES) * HOURS + 100
        begun = time.perf_counter()
        (found,) = (await service.history(None, address, at, 1)).sessions
        times.append((time.perf_counter() - begun) * 1000)
        assert found.session == f"s{wanted}"
    await store.close()
    return sorted(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, database(given.postgresql, Path(directory)) as settings:
        store = settings.get("database")
        connect = postgresql_store(store) if store is not None else sqlite_store(Path(directory) / "s.db")
        times = asyncio.run(looked_up(connect, given.sessions))
    print(f"{given.sessions} sessions: p50 {times[len(times) // 2]:.2f} ms, most {times[-1]:.2f} ms")


if __name__ == "__main__":
    main()
