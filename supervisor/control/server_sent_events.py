"""`GET /api/v1/events`: server-sent events, first a snapshot of the board, then what changes on it.

One feed draws for all who watch, and only while somebody does. A stream remembers no more than the revision
that it has sent, so one that reads slowly skips what is outdated meanwhile, costs no memory, and is dropped
in the end; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from supervisor.control.page import Key, items, piece, piece_id

_CHUNK = 1 << 16  # bytes that are handed to the socket at a time
_RETRY = 3000  # milliseconds after which a browser connects again


class BoardSource(Protocol):
    """Where boards come from."""

    async def board(self) -> dict[str, Any]:
        """The board now."""

    async def changed(self) -> None:
        """Return as soon as it may look different."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How much the streams may cost. Times in seconds."""

    streams: int = 32
    pause: float = 0.5  # between two drawings, at least
    heartbeat: float = 15.0  # of silence, until a comment shows that the stream lives
    stalled: float = 10.0  # that a reader may take for one chunk


class Shared:
    """Something that is made for many at once, and at most every so many seconds, however often it is
    asked for.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, str]], seconds: float) -> None:
        self._make, self._seconds = make, seconds
        self._made: asyncio.Task[str] | None = None
        self._until = 0.0

    async def get(self) -> str:
        """The latest one."""
        loop = asyncio.get_running_loop()
        if self._made is None or (
            self._made.done() and (loop.time() >= self._until or self._made.exception() is not None)
        ):
            self._made, self._until = loop.create_task(self._make(), name="page"), loop.time() + self._seconds
        return await asyncio.shield(self._made)


@dataclass(frozen=True, slots=True)
class _Item:
    """One thing on the board, as it is sent, and the revision in which it changed."""

    revision: int
    value: Mapping[str, Any]
    text: str
    html: str


class Feed:
    """The latest board in pieces, each with the revision of its last change."""

    def __init__(self, source: BoardSource, limits: StreamLimits | None = None) -> None:
        self._source, self._limits = source, limits or StreamLimits()
        self._items: dict[Key, _Item] = {}
        self._revision, self._now = 0, 0.0
        self._watchers = 0
        self._drawing: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._encoded: dict[tuple[int, bool], bytes] = {}  # of this revision, by what a stream has seen

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A stream, until its reader leaves. `?as=html` gives pieces of the page instead of values."""
        if self._watchers >= self._limits.streams:
            raise web.HTTPServiceUnavailable(
                text=f"{self._watchers} streams are open already", headers={"Retry-After": "30"}
            )
        with self._watching():
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            try:
                await self._stream(response, request.query.get("as") == "html")
            except TimeoutError:  # it does not take what it asked for
                if request.transport is not None:
                    request.transport.abort()
        return response

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._watchers += 1
        if self._drawing is None:
            self._drawing = asyncio.get_running_loop().create_task(self._draw(), name="board")
            self._drawing.add_done_callback(lambda _: self._wake())
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._drawing.cancel()
                self._drawing, self._items = None, {}

    async def _stream(self, response: web.StreamResponse, html: bool) -> None:
        seen, names = -1, frozenset[Key]()
        await self._write(response, f"retry: {_RETRY}\n\n".encode())
        while True:
            news = self._news
            if self._drawing is not None and self._drawing.done():
                await self._drawing  # it can only have failed
            if self._items and seen != self._revision:
                data, there = self._event(seen, names, html), frozenset(self._items)
                seen, names = self._revision, there
                await self._write(response, data)
                continue
            if not await _within(self._limits.heartbeat, news):
                await self._write(response, b": nothing new\n\n")

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            async with asyncio.timeout(self._limits.stalled):
                await response.write(data[start : start + _CHUNK])

    # --- what is sent
    # ----------------------------------------------------------------------------------------------------

    def _event(self, seen: int, names: frozenset[Key], html: bool) -> bytes:
        """What a stream that has seen this revision, with these things on it, must be told."""
        if (seen, html) not in self._encoded:
            kind = "snapshot" if seen < 0 else "change"
            new = {key: item for key, item in self._items.items() if item.revision > seen}
            gone = sorted(names - self._items.keys())
            data = _pieces(new, gone, self._now) if html else _values(new, gone, self._now)
            self._encoded[seen, html] = f"event: {kind}\nid: {self._revision}\ndata: {data}\n\n".encode()
        return self._encoded[seen, html]

    # --- drawing
    # ------------------------------------------------------------------------------------------------------

    async def _draw(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            changed = asyncio.ensure_future(
                self._source.changed()
            )  # from now on, so that nothing is missed while we draw
            try:
                began = loop.time()
                board = await self._source.board()
                found = await asyncio.to_thread(_compare, self._items, board, self._revision + 1)
                if found is not None:
                    self._publish(found, board["now"])
                await asyncio.sleep(
                    max(self._limits.pause, 4 * (loop.time() - began))
                )  # a fifth of our time, however much there is
                await changed
            finally:
                changed.cancel()

    def _publish(self, found: dict[Key, _Item], now: float) -> None:
        self._items, self._revision, self._now = found, self._revision + 1, now
        self._encoded.clear()
        self._wake()

    def _wake(self) -> None:
        """Every stream looks again."""
        self._news.set()
        self._news = asyncio.Event()


def _compare(before: Mapping[Key, _Item], board: Mapping[str, Any], revision: int) -> dict[Key, _Item] | None:
    """The board in pieces; those that are as before keep their revision. None: all are. For a worker
    thread.
    """
    values, found = items(board), {}
    for key, value in values.items():
        known = before.get(key)
        same = known is not None and known.value == value
        found[key] = (
            known
            if known is not None and same
            else _Item(revision, value, json.dumps(value), json.dumps(piece(key, values, board["now"])))
        )
    unchanged = found.keys() == before.keys() and all(item.revision < revision for item in found.values())
    return None if unchanged else found


def _values(new: Mapping[Key, _Item], gone: Iterable[Key], now: float) -> str:
    sections: dict[str, list[str]] = {"facilitator": [], "tunnels": [], "measures": []}
    for (section, name), item in new.items():
        sections[section].append(f"{json.dumps(name)}: {item.text}" if name else item.text)
    facilitator = "".join(f'"facilitator": {text}, ' for text in sections.pop("facilitator"))
    rest = ", ".join(f'"{section}": {{{", ".join(texts)}}}' for section, texts in sections.items())
    return f'{{"now": {now}, {facilitator}{rest}, "gone": {json.dumps([name for section, name in gone if section == "tunnels"])}}}'


def _pieces(new: Mapping[Key, _Item], gone: Iterable[Key], now: float) -> str:
    whole = {name for section, name in new if section == "tunnels"}  # with their measures
    told = ", ".join(
        f"{json.dumps(piece_id(key))}: {item.html}"
        for key, item in new.items()
        if key[0] != "measures" or key[1] not in whole
    )
    left = json.dumps([piece_id(key) for key in gone if key[0] == "tunnels"])
    return f'{{"now": {now}, "pieces": {{{told}}}, "gone": {left}}}'


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
