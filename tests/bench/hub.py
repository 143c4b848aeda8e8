"""Measures how long the session service takes for a login, over mutual TLS, while it holds many sessions and
two nodes send heartbeats that name them all. Needs no root.

    python -m tests.bench.hub [--sessions 10000] [--logins 500] [--rate 20] [--postgresql]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hub.core import routes
from tests.hub.messages import heartbeat, login
from tests.hub.running import HubSetup, get, post
from tests.hub.stores import postgresql

NODES = ("hub-a", "hub-b")
HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class LoginTimes:
    """Milliseconds of decisions, sorted, and of heartbeats."""

    logins: list[float]
    heartbeats: list[float]
    holder: float  # "who had ADDRESS at TIME", over the API

    def share(self, part: float) -> float:
        """The decision that this part is not slower than."""
        return self.logins[min(len(self.logins) - 1, int(part * len(self.logins)))]

    def __str__(self) -> str:
        return (
            f"{len(self.logins)} logins: p50 {self.share(0.5):.1f} ms, p99 {self.share(0.99):.1f} ms, most "
            f"{self.logins[-1]:.1f} ms; heartbeat p50 {statistics.median(self.heartbeats):.1f} ms; "
            f"who had an address {self.holder:.1f} ms"
        )


@contextlib.contextmanager
def database(wanted: bool, directory: Path) -> Iterator[dict[str, str]]:
    """Settings for a PostgreSQL of our own, or for the file of `HubSetup`."""
    if not wanted:
        yield {}
        return
    place = Path(tempfile.mkdtemp(prefix="hub-pg-", dir="/tmp"))  # noqa: S108 - unprivileged users must get there
    with postgresql(place) as server:
        yield {"database": server.database()}


async def measured(setup: HubSetup, sessions: int, logins: int, rate: float) -> LoginTimes:
    """The service is a process of its own."""
    people = {f"person{number}": None for number in range(sessions + logins)}
    setup.write_people(people)
    process = await asyncio.create_subprocess_exec(
        *setup.command, "sessions", "-c", setup.config, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while b'"serving"' not in await process.stdout.readline():
        continue
    draining = asyncio.create_task(_drain(process.stdout))
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(setup.client(node)) for node in NODES]
            ops = await stack.enter_async_context(setup.client("ops"))
            return await _measure(clients, ops, sessions, logins, rate)
    finally:
        process.terminate()
        await process.wait()
        draining.cancel()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        continue


async def _measure(
    clients: list[aiohttp.ClientSession], ops: aiohttp.ClientSession, sessions: int, logins: int, rate: float
) -> LoginTimes:
    up: list[list[str]] = [[], []]
    address = ""

    async def one(number: int) -> float:
        nonlocal address
        node = number % 2
        begun = time.perf_counter()
        request = login(f"person{number}", node=NODES[node], client_id=number)
        _, answer = await post(clients[node], routes.LOGIN.path, request)
        took = (time.perf_counter() - begun) * 1000
        assert answer["decision"] == "allow", answer
        up[node].append(answer["session"])
        address = answer["address"]
        return took

    for first in range(0, sessions, 32):
        await asyncio.gather(*(one(number) for number in range(first, min(sessions, first + 32))))
    beaten: list[float] = []

    async def beat(node: int) -> None:
        while True:
            message = heartbeat(up[node], node=NODES[node])
            begun = time.perf_counter()
            _, answer = await post(clients[node], routes.HEARTBEAT.path, message)
            beaten.append((time.perf_counter() - begun) * 1000)
            assert answer["closed"] == 0
            await asyncio.sleep(HEARTBEAT_SECONDS)

    beating = [asyncio.create_task(beat(node)) for node in (0, 1)]
    while len(beaten) < 2:  # the first ones bring all sessions up
        await asyncio.sleep(0.1)
    beaten.clear()
    started, running = time.perf_counter(), []
    for number in range(logins):
        running.append(asyncio.create_task(one(sessions + number)))
        await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
    times = sorted(await asyncio.gather(*running))
    for task in beating:
        task.cancel()
    begun = time.perf_counter()
    _, found = await get(ops, f"/api/v1/history?address={address}&at={time.time()}")
    holder = (time.perf_counter() - begun) * 1000
    assert len(found["sessions"]) == 1
    return LoginTimes(times, beaten, holder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--logins", type=int, default=500)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, database(given.postgresql, Path(directory)) as settings:
        setup = HubSetup(Path(directory), **settings)
        print(asyncio.run(measured(setup, given.sessions, given.logins, given.rate)))


if __name__ == "__main__":
    main()
