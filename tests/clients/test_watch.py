"""Inputs are replaced in every way that credential stores use; only other content counts."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.clients.input_watcher import InputWatcher
from supervisor.core.events import Event, InputsChanged

pytestmark = pytest.mark.slow

QUIET = 0.4  # seconds without an event that show that there is none


@asynccontextmanager
async def watching(**files: Path) -> AsyncIterator[asyncio.Queue[Event]]:
    inbox: asyncio.Queue[Event] = asyncio.Queue()
    watcher = InputWatcher(inbox.put_nowait)
    watcher.start()
    watcher.set(lambda: {tunnel: (path,) for tunnel, path in files.items()})
    try:
        yield inbox
    finally:
        await watcher.close()


async def told(inbox: asyncio.Queue[Event], tunnel: str = "acme") -> None:
    """One event for this tunnel, and no second one."""
    assert await asyncio.wait_for(inbox.get(), 60) == InputsChanged(tunnel)
    await quiet(inbox)


async def quiet(inbox: asyncio.Queue[Event]) -> None:
    with pytest.raises(TimeoutError):
        raise AssertionError(await asyncio.wait_for(inbox.get(), QUIET))


def kubernetes(root: Path, version: str, content: str) -> None:
    """As the kubelet does it: a new directory, then the link to it is exchanged in one step."""
    (root / version).mkdir(parents=True)
    (root / version / "password").write_text(content)
    (root / "..data_tmp").symlink_to(version)
    (root / "..data_tmp").rename(root / "..data")
    if not (root / "password").is_symlink():
        (root / "password").symlink_to("..data/password")


async def test_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one")
    async with watching(acme=path) as inbox:
        path.write_text("two")
        await told(inbox)


async def test_renamed_over(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one")
    async with watching(acme=path) as inbox:
        for content in ("two", "three"):
            (tmp_path / "draft").write_text(content)
            (tmp_path / "draft").rename(path)
            await told(inbox)


async def test_a_touch_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one")
    async with watching(acme=path) as inbox:
        os.utime(path)
        (tmp_path / "draft").write_text("one")
        (tmp_path / "draft").rename(path)
        (tmp_path / "other").write_text("something else in the same directory")
        await quiet(inbox)


async def test_symlink_exchange(tmp_path: Path) -> None:
    kubernetes(tmp_path, "..2026_01", "one")
    async with watching(acme=tmp_path / "password") as inbox:
        kubernetes(tmp_path, "..2026_02", "two")
        await told(inbox)
        shutil.rmtree(tmp_path / "..2026_01")
        kubernetes(tmp_path, "..2026_03", "two")
        await quiet(inbox)
        kubernetes(tmp_path, "..2026_04", "four")
        await told(inbox)


async def test_appears_later_with_its_directories(tmp_path: Path) -> None:
    path = tmp_path / "credentials" / "acme" / "password"
    async with watching(acme=path) as inbox:
        path.parent.mkdir(parents=True)
        await quiet(inbox)
        path.write_text("one")
        await told(inbox)


async def test_its_directory_is_exchanged(tmp_path: Path) -> None:
    for version in ("old", "new"):
        (tmp_path / version / "deep").mkdir(parents=True)
        (tmp_path / version / "deep" / "password").write_text(version)
    (tmp_path / "old").rename(tmp_path / "now")
    async with watching(acme=tmp_path / "now" / "deep" / "password") as inbox:
        (tmp_path / "now").rename(tmp_path / "gone")
        (tmp_path / "new").rename(tmp_path / "now")
        await told(inbox)
        (tmp_path / "now" / "deep" / "password").write_text("newer")
        await told(inbox)


async def test_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one")
    async with watching(acme=path) as inbox:
        path.unlink()
        await told(inbox)


async def test_only_its_own_tunnels_are_told(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.write_text("one")
    async with watching(first=a, second=b) as inbox:
        b.write_text("two")
        await told(inbox, "second")


async def test_set_again_keeps_what_was_known_and_drops_what_is_not_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.write_text("one")
    inbox: asyncio.Queue[Event] = asyncio.Queue()
    watcher = InputWatcher(inbox.put_nowait)
    watcher.start()
    watcher.set(lambda: {"first": (a,), "second": (b,)})
    a.write_text("two")
    watcher.set(lambda: {"first": (a,)})
    b.write_text("two")
    await told(inbox, "first")
    await watcher.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)])
async def test_things_that_are_no_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "password")
    async with watching(acme=tmp_path / "password") as inbox:
        await quiet(inbox)
