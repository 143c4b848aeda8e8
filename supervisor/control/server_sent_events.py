"""`GET /api/v1/events`: server-sent events, first a snapshot of the status page, then what changes on it.

One task computes the page for all streams, and only while there are streams. A stream remembers no more than
the revision that it has sent. So one that reads slowly skips intermediate states, takes no memory, and is
closed in the end; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from supervisor.control.page import Key, piece_id, pieces
from supervisor.core.views.documents import StatusPageDocument

_CHUNK_BYTES = 1 << 16  # that are handed to the socket at a time
_RECONNECT_MILLISECONDS = 3000  # after which a browser connects again
_RETRY_AFTER_SECONDS = 30  # for a client that finds all streams taken
_DRAWING_SHARE = (
    4  # pauses are this many times as long as the drawing took, so that it takes a fifth of the time
)


class StatusPageSource(Protocol):
    """What the streams need of the `DaemonAPI`."""

    async def status_page(self) -> StatusPageDocument:
        """The page now."""

    async def status_page_changed(self) -> None:
        """Return as soon as it may differ."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How much the streams may cost."""

    streams: int = 32
    pause_seconds: float = 0.5  # between two drawings, at least
    heartbeat_seconds: float = 15.0  # without an event, until a comment shows that the stream lives
    stalled_seconds: float = 10.0  # that a reader may take for one chunk


class SharedResult:
    """A result that concurrent callers share, and that is recreated at most every so many seconds."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, str]], seconds: float) -> None:
        self._make, self._seconds = make, seconds
        self._made: asyncio.Task[str] | None = None
        self._valid_until = 0.0

    async def get(self) -> str:
        """The latest result; raises what making it raised."""
        loop = asyncio.get_running_loop()
        if self._made is None or (
            self._made.done() and (loop.time() >= self._valid_until or self._made.exception() is not None)
        ):
            self._made = loop.create_task(self._make(), name="page")
            self._valid_until = loop.time() + self._seconds
        return await asyncio.shield(self._made)


@dataclass(frozen=True, slots=True)
class _SentPiece:
    """A piece of the page in both encodings, and the revision in which it changed."""

    revision: int
    value: Mapping[str, object]
    json: str
    html: str  # as a JSON string


class StatusPageStream:
    """The latest page in pieces, each with the revision of its last change, and the streams that
    send them.
    """

    def __init__(self, source: StatusPageSource, limits: StreamLimits | None = None) -> None:
        self._source, self._limits = source, limits or StreamLimits()
        self._pieces: dict[Key, _SentPiece] = {}
        self._revision, self._now = 0, 0.0
        self._streams = 0
        self._drawing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        # Events of this revision, by the revision that a stream has sent and whether it wants HTML.
        self._encoded: dict[tuple[int, bool], bytes] = {}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A stream, until its reader leaves. `?as=html` sends pieces of the page instead of values."""
        if self._streams >= self._limits.streams:
            raise web.HTTPServiceUnavailable(
                text=f"{self._streams} streams are open already",
                headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
            )
        with self._counted():
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            try:
                await self._send(response, request.query.get("as") == "html")
            except TimeoutError:  # the reader stalls
                if request.transport is not None:
                    request.transport.abort()
        return response

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """The first stream starts the drawing, the last one ends it."""
        self._streams += 1
        if self._drawing is None:
            self._drawing = asyncio.get_running_loop().create_task(self._draw(), name="status page")
            self._drawing.add_done_callback(lambda _: self._wake())
        try:
            yield
        finally:
            self._streams -= 1
            if not self._streams:
                self._drawing.cancel()
                self._drawing, self._pieces = None, {}

    async def _send(self, response: web.StreamResponse, html: bool) -> None:
        sent, names = -1, frozenset[Key]()
        await self._write(response, f"retry: {_RECONNECT_MILLISECONDS}\n\n".encode())
        while True:
            changed = self._changed
            if self._drawing is not None and self._drawing.done():
                await self._drawing  # which raises: it never ends by itself
            if self._pieces and sent != self._revision:
                data = self._event(sent, names, html)
                sent, names = self._revision, frozenset(self._pieces)
                await self._write(response, data)
                continue
            if not await _wait(changed, self._limits.heartbeat_seconds):
                await self._write(response, b": nothing new\n\n")

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            async with asyncio.timeout(self._limits.stalled_seconds):
                await response.write(data[start : start + _CHUNK_BYTES])

    # --- what is sent
    # ----------------------------------------------------------------------------------------------------

    def _event(self, sent: int, names: frozenset[Key], html: bool) -> bytes:
        """The event for a stream that has sent this revision, with pieces of these names."""
        if (sent, html) not in self._encoded:
            kind = "snapshot" if sent < 0 else "change"
            new = {key: piece for key, piece in self._pieces.items() if piece.revision > sent}
            gone = [name for section, name in sorted(names - self._pieces.keys()) if section == "tunnels"]
            data = _html_event(new, gone, self._now) if html else _json_event(new, gone, self._now)
            self._encoded[sent, html] = f"event: {kind}\nid: {self._revision}\ndata: {data}\n\n".encode()
        return self._encoded[sent, html]

    # --- drawing
    # ------------------------------------------------------------------------------------------------------

    async def _draw(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Before the page is read, so that a change while it is drawn is not missed.
            changed = asyncio.ensure_future(self._source.status_page_changed())
            try:
                began = loop.time()
                page = await self._source.status_page()
                found = await asyncio.to_thread(_compare, self._pieces, page, self._revision + 1)
                if found is not None:
                    self._publish(found, page["now"])
                pause = max(self._limits.pause_seconds, _DRAWING_SHARE * (loop.time() - began))
                await asyncio.sleep(pause)
                await changed
            finally:
                changed.cancel()

    def _publish(self, found: dict[Key, _SentPiece], now: float) -> None:
        self._pieces, self._revision, self._now = found, self._revision + 1, now
        self._encoded.clear()
        self._wake()

    def _wake(self) -> None:
        """Every stream looks at the revision."""
        self._changed.set()
        self._changed = asyncio.Event()


def _compare(
    before: Mapping[Key, _SentPiece], page: StatusPageDocument, revision: int
) -> dict[Key, _SentPiece] | None:
    """The page in pieces; unchanged ones keep their revision. None: nothing has changed. For a
    worker thread.
    """
    found = {}
    for key, piece in pieces(page).items():
        known = before.get(key)
        found[key] = (
            known
            if known is not None and known.value == piece.value
            else _SentPiece(revision, piece.value, json.dumps(piece.value), json.dumps(piece.html()))
        )
    unchanged = found.keys() == before.keys() and all(each.revision < revision for each in found.values())
    return None if unchanged else found


def _json_event(new: Mapping[Key, _SentPiece], gone: Iterable[str], now: float) -> str:
    """A `StatusEvent`, put together from pieces that are JSON already."""
    sections: dict[str, list[str]] = {"facilitator": [], "tunnels": [], "measures": []}
    for (section, name), piece in new.items():
        sections[section].append(f"{json.dumps(name)}: {piece.json}" if name else piece.json)
    facilitator = "".join(f'"facilitator": {text}, ' for text in sections.pop("facilitator"))
    rest = ", ".join(f'"{section}": {{{", ".join(texts)}}}' for section, texts in sections.items())
    return f'{{"now": {now}, {facilitator}{rest}, "gone": {json.dumps(list(gone))}}}'


def _html_event(new: Mapping[Key, _SentPiece], gone: Iterable[str], now: float) -> str:
    """A `StatusPageEvent`. The element of a tunnel contains that of its measurements."""
    tunnels = {name for section, name in new if section == "tunnels"}
    changed = ", ".join(
        f"{json.dumps(piece_id(key))}: {piece.html}"
        for key, piece in new.items()
        if key[0] != "measures" or key[1] not in tunnels
    )
    left = json.dumps([piece_id(("tunnels", name)) for name in gone])
    return f'{{"now": {now}, "pieces": {{{changed}}}, "gone": {left}}}'


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """False when it was not set in time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
