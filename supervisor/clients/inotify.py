"""File changes from the kernel (inotify(7)): one inotify instance, one task, and a callback per watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

Callback = Callable[[str | None], None]

WRITTEN_ONCE = Mask.MODIFY | Mask.ONESHOT  # a flood of writes is one event, until the watch is set again
APPEARED = Mask.CREATE | Mask.MOVED_TO | Mask.ONLYDIR
WENT_AWAY = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
CHANGED = (
    WENT_AWAY | Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CLOSE_WRITE | Mask.ATTRIB
)


class InotifyWatches:
    """Watches files and directories. OSError from the constructor: the host has no inotify instance left."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._callbacks: dict[int, Callback] = {}
        self._watches: dict[int, object] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read events, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._listen(), name="inotify")

    def watch(self, path: Path, mask: Mask, callback: Callback) -> int:
        """Call back with the name of the directory entry that changed; None: the watched path itself, or the
        kernel has lost events. Returns the key for `unwatch`. OSError: it cannot be watched.
        """
        watch = self._inotify.add_watch(path, mask)
        self._callbacks[watch.wd] = callback
        self._watches[watch.wd] = watch
        return int(watch.wd)

    def unwatch(self, key: int) -> None:
        """Stop the calls for the key that `watch` returned; unknown keys are ignored."""
        self._callbacks.pop(key, None)
        watch = self._watches.pop(key, None)
        if watch is not None:
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(watch)

    async def close(self) -> None:
        """Stop reading events."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._inotify.close()

    async def _listen(self) -> None:
        while True:
            event = await self._inotify.get()
            if Mask.Q_OVERFLOW in event.mask:
                for callback in list(self._callbacks.values()):
                    callback(None)
            elif event.watch is not None:
                self._dispatch(event.watch.wd, event.mask, None if event.name is None else str(event.name))

    def _dispatch(self, key: int, mask: Mask, name: str | None) -> None:
        callback = self._callbacks.get(key)
        if Mask.IGNORED in mask or Mask.ONESHOT in getattr(self._watches.get(key), "mask", Mask.ZERO):
            self._callbacks.pop(key, None)
            self._watches.pop(key, None)
        if callback is not None:
            callback(name)
