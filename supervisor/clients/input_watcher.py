"""Reports when a secret or file of a tunnel has new content, so that a tunnel that waits for it can start.

Files are replaced in many ways: written in place, renamed over, or, as Kubernetes, Nomad and systemd do it,
by exchanging a symbolic link somewhere in their path. So everything in the path that may change is watched,
and the content decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from supervisor.clients.inotify import CHANGED, WENT_AWAY, InotifyWatches
from supervisor.core.events import Event, InputsChanged

DEBOUNCE_SECONDS = 0.1  # without changes until the content is compared
MAX_DELAY_SECONDS = 1.0  # from the first change until the content is compared in any case
_MAX_LINKS = 40  # symbolic links in one path: the kernel's own limit
_MAX_BYTES = 4 << 20  # of a file that are compared

ANY = ""  # in place of a name: each entry of a directory

Step = tuple[
    Path, str | None
]  # a directory, and a name in it that matters (None: the directory must only stay where it is)


class InputWatcher:
    """Posts `InputsChanged(tunnel)` when one of a tunnel's files gets other content, appears, disappears or
    becomes readable.
    """

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._inotify = InotifyWatches()
        self._say: Callable[[], Mapping[str, tuple[Path, ...]]] = dict
        self._files: dict[str, tuple[Path, ...]] = {}
        self._content: dict[Path, bytes | None] = {}
        self._entries: dict[Path, set[str]] = {}  # directory -> names in it that matter
        self._watches: dict[Path, int] = {}
        self._closely: set[Path] = set()  # watched directories whose entries are told
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0

    def start(self) -> None:
        """Start, on the running event loop."""
        self._inotify.start()

    def set(self, files: Callable[[], Mapping[str, tuple[Path, ...]]]) -> None:
        """Watch exactly the files and folders that this function returns, now and after each change, because
        a file may name others. Known files are compared with their earlier content.
        """
        self._say = files
        self._ask()

    def _ask(self) -> None:
        self._files = {tunnel: tuple(map(_absolute, paths)) for tunnel, paths in self._say().items()}
        wanted = {path for paths in self._files.values() for path in paths}
        self._watch(wanted)
        self._content = {
            path: self._content[path] if path in self._content else _content(path) for path in wanted
        }

    def digest(self, tunnel: str) -> str:
        """A checksum that is the same as long as the content of the tunnel's files is."""
        contents = (self._content.get(path) or b"" for path in self._files.get(tunnel, ()))
        return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()

    async def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        await self._inotify.close()

    def _watch(self, paths: Iterable[Path]) -> None:
        self._entries = {}
        for path in paths:
            for directory, name in _way(path):
                self._entries.setdefault(directory, set()).update(() if name is None else (name,))
        for directory in self._watches.keys() - self._entries.keys():
            self._forget(directory)
        for directory, names in self._entries.items():
            if directory not in self._watches or (names and directory not in self._closely):
                self._add(directory, closely=bool(names))

    def _add(self, directory: Path, closely: bool) -> None:
        mask = CHANGED if closely else WENT_AWAY
        try:
            self._watches[directory] = self._inotify.watch(
                directory, mask, lambda name: self._on_change(directory, name)
            )
        except FileNotFoundError:  # since we looked
            self._changed()
        except OSError:  # no right, or no watch left on this host: changes are seen at the next start then
            return
        if closely:
            self._closely.add(directory)

    def _on_change(self, directory: Path, name: str | None) -> None:
        if name is None:  # the directory itself went away or was touched, or the kernel lost count
            self._forget(directory)
            self._changed()
        elif not {name, ANY}.isdisjoint(self._entries.get(directory, ())):
            self._changed()

    def _forget(self, directory: Path) -> None:
        """Its name, and those below, may lead to other directories now: the watches are set again."""
        for known in [known for known in self._watches if known.is_relative_to(directory)]:
            self._closely.discard(known)
            self._inotify.unwatch(self._watches.pop(known))

    def _changed(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._latest = loop.time() + MAX_DELAY_SECONDS
        else:
            self._timer.cancel()
        self._timer = loop.call_at(min(loop.time() + DEBOUNCE_SECONDS, self._latest), self._compare)

    def _compare(self) -> None:
        self._timer = None
        self._watch(self._content)  # first: a change that comes while we read is not missed
        before, self._content = self._content, {path: _content(path) for path in self._content}
        changed = [
            tunnel
            for tunnel, paths in self._files.items()
            if any(before[path] != self._content[path] for path in paths)
        ]
        if changed:
            self._ask()
        for tunnel in changed:
            self._post(InputsChanged(tunnel))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _way(path: Path) -> Iterator[Step]:
    """What decides which file `path` is: each directory, each symlink, and the last entry, or the first
    one that is missing.
    """
    here, parts, links = Path("/"), list(path.parts[1:]), 0
    while parts:
        name = parts.pop(0)
        if name == "..":
            here = here.parent
            continue
        there = here / name
        if parts and os.path.isdir(there) and not os.path.islink(there):
            here = there
            yield here, None
            continue
        yield here, name
        links += 1
        if not os.path.islink(there) or links > _MAX_LINKS:
            if os.path.isdir(there):
                yield there, ANY
            return
        target = Path(os.readlink(there))
        here, parts = (
            (Path("/"), [*target.parts[1:], *parts])
            if target.is_absolute()
            else (here, [*target.parts, *parts])
        )


def _content(path: Path) -> bytes | None:
    """A checksum of what can be read there, of a folder's names; None: nothing can."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block us
    except OSError:
        return None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            return hashlib.sha256("\0".join(sorted(os.listdir(fd))).encode(errors="surrogateescape")).digest()
        return hashlib.sha256(os.pread(fd, _MAX_BYTES, 0)).digest() if stat.S_ISREG(mode) else None
    except OSError:
        return None
    finally:
        os.close(fd)
