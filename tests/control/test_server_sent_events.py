"""Server-sent events: a snapshot, then changes; readers that leave, stall or are too many."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from supervisor.control.api import HTTPApi
from supervisor.control.server_sent_events import SharedResult, StreamLimits
from supervisor.control.sockets import Servers
from supervisor.core.views.documents import StatusPageDocument
from tests.control.test_api import FakeDaemon
from tests.page.sample_pages import ShownPages, bad_night, tunnel, with_tunnels

pytestmark = pytest.mark.slow

SOON = 30.0  # seconds that a loaded machine may take for something that is over in milliseconds
QUICK = StreamLimits(streams=3, pause_seconds=0.01, heartbeat_seconds=0.2, stalled_seconds=0.3)

Told = tuple[str, dict[str, Any]]


class ShowingDaemon(ShownPages, FakeDaemon):
    """A daemon whose status page the test changes."""

    def __init__(self, page: StatusPageDocument) -> None:
        FakeDaemon.__init__(self)
        ShownPages.__init__(self, page)


@pytest.fixture
def daemon() -> ShowingDaemon:
    return ShowingDaemon(bad_night())


@pytest.fixture
async def address(daemon: ShowingDaemon):
    servers = Servers()
    await servers.listen_tcp(HTTPApi(daemon, QUICK).public(), "127.0.0.1", 0, None)
    await servers.serve()
    yield f"http://127.0.0.1:{servers.addresses()[-1][1]}/api/v1/events"
    await servers.close()


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    """What is told; comments are told as `comment`."""
    block: dict[str, str] = {}
    async for raw in answer.content:
        name, _, value = raw.decode().rstrip("\n").partition(":")
        if raw == b"\n" and "data" in block:
            yield block["event"], json.loads(block["data"])
        if raw == b"\n":
            block = {}
        elif not name:
            yield "comment", {}
        else:
            block[name] = value.strip()


class EventReader:
    """One stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._events = events(answer)

    async def next(self, *kinds: str) -> Told:
        """The next event of these kinds; comments are passed over unless they are asked for."""
        async with asyncio.timeout(SOON):
            async for kind, data in self._events:
                if kind in (kinds or ("snapshot", "change")):
                    return kind, data
        raise AssertionError("the stream has ended")


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(read_bufsize=1 << 24) as session:
        yield session


def changed(page: StatusPageDocument, name: str, **said: Any) -> StatusPageDocument:
    """The page with something different about one tunnel."""
    after = copy.deepcopy(page)
    next(entry for entry in after["tunnels"] if entry["name"] == name).update(said)
    return after


async def test_first_a_snapshot_then_what_changes(address: str, daemon: ShowingDaemon, http) -> None:
    async with http.get(address) as answer:
        assert answer.content_type == "text/event-stream"
        assert (await http.head(address)).status == 405, "it would never end"
        stream = EventReader(answer)
        kind, told = await stream.next()
        assert kind == "snapshot"
        assert told["facilitator"]["facilitator"] == "vpn1-eu-west-1"
        assert (
            told["tunnels"].keys()
            == told["measures"].keys()
            == {entry["name"] for entry in bad_night()["tunnels"]}
        )
        assert told["tunnels"]["acme-dc"]["phase"] == "up"
        after = changed(bad_night(), "acme-dc", phase="backoff")
        left = [entry for entry in after["tunnels"] if entry["name"] != "zephyr"]
        daemon.show(with_tunnels(after, [*left, tunnel("young")]))
        kind, told = await stream.next()
        assert kind == "change"
        assert {name: entry["phase"] for name, entry in told["tunnels"].items()} == {
            "acme-dc": "backoff",
            "young": "up",
        }
        assert told["measures"].keys() == {"young"}
        assert told["gone"] == ["zephyr"]
        assert told["facilitator"]["bad"] == 5


async def test_pieces_of_the_page_for_browsers(address: str, daemon: ShowingDaemon, http) -> None:
    async with http.get(f"{address}?as=html") as answer:
        stream = EventReader(answer)
        _, told = await stream.next()
        assert told["pieces"].keys() == {
            "facilitator",
            *(f"tunnel-{entry['name']}" for entry in bad_night()["tunnels"]),
        }
        after = bad_night()
        after["measures"]["acme-dc"]["rtts"][-1] = 0.5
        daemon.show(after)
        kind, told = await stream.next()
        assert (kind, list(told["pieces"])) == ("change", ["measures-acme-dc"])
        assert "500 ms" in told["pieces"]["measures-acme-dc"]


async def test_what_looks_the_same_is_not_told_and_a_silent_stream_shows_that_it_lives(
    address: str, daemon: ShowingDaemon, http
) -> None:
    async with http.get(address) as answer:
        stream = EventReader(answer)
        await stream.next()
        daemon.show({**bad_night(), "now": 1.0})
        assert (await stream.next("comment", "change"))[0] == "comment"


async def test_there_are_only_so_many_streams(address: str, http) -> None:
    answers = [await http.get(address) for _ in range(QUICK.streams)]
    for answer in answers:
        await EventReader(answer).next("snapshot")
    async with http.get(address) as refused:
        assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
    answers[0].close()
    async with asyncio.timeout(SOON):
        while (answer := await http.get(address)).status != 200:  # until the server has seen it
            answer.close()
    assert (await EventReader(answer).next())[0] == "snapshot"


async def test_a_reader_that_stalls_is_dropped_and_holds_up_nobody(
    address: str, daemon: ShowingDaemon, http
) -> None:
    port = int(address.split(":")[2].split("/", maxsplit=1)[0])
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", port))
    stalled, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    async with http.get(address) as answer:
        stream = EventReader(answer)
        await stream.next()
        assert await stalled.readline() == b"HTTP/1.1 200 OK\r\n"
        big = "x" * 300_000
        for turn in range(30):  # far more than the sockets hold
            daemon.show(changed(bad_night(), "acme-dc", description=f"{turn}{big}"))
            _, told = await stream.next("change")
            assert told["tunnels"]["acme-dc"]["description"].startswith(str(turn))
        got, expected = 0, 30 * len(big)
        async with asyncio.timeout(SOON):
            await asyncio.sleep(2 * QUICK.stalled_seconds)
            try:
                while data := await stalled.read(1 << 20):
                    got += len(data)
            except ConnectionError:
                pass
        assert got < expected, "it was cut off"
    writer.close()


async def test_a_page_that_cannot_be_drawn_ends_the_stream_and_the_next_one_tries_again(
    address: str, daemon: ShowingDaemon, http
) -> None:
    daemon.show({})
    async with http.get(address) as answer:
        with pytest.raises((AssertionError, aiohttp.ClientError)):
            await EventReader(answer).next()
    daemon.show(bad_night())
    async with http.get(address) as answer:
        assert (await EventReader(answer).next())[0] == "snapshot"


async def test_many_who_load_the_page_at_once_have_it_drawn_once() -> None:
    drawn, go = [], asyncio.Event()

    async def draw() -> str:
        drawn.append(1)
        await go.wait()
        if len(drawn) == 2:
            raise OSError
        return f"page {len(drawn)}"

    shared = SharedResult(draw, 0.0)
    readers = [asyncio.create_task(shared.get()) for _ in range(10)]
    await asyncio.sleep(0)
    readers[0].cancel()
    go.set()
    assert await asyncio.gather(*readers[1:]) == ["page 1"] * 9
    with pytest.raises(OSError):
        await shared.get()
    assert await shared.get() == "page 3"
