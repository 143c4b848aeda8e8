"""The configuration file while the daemon runs: whether it has changed, and whether it was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from supervisor.clients.input_watcher import InputWatcher
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.humanize import iso
from supervisor.included import watched

CONDITION = "configuration-refused"
_SHOWN_ERRORS = 3


class ConfigurationFile:
    """Is a condition while the file is refused. Posts `Noticed` when that changes."""

    def __init__(self, path: Path, post: Callable[[Event], None]) -> None:
        self._path, self._post = path, post
        self._watcher: InputWatcher | None = None
        self.conditions: Mapping[str, Condition] = MappingProxyType({})

    def watch(self, changed: Callable[[], None]) -> None:
        """Call back when the file or an included one has new content, on the running loop."""
        self._watcher = InputWatcher(lambda _: changed())
        self._watcher.start()
        self._watcher.set(lambda: {CONDITION: watched(self._path)})

    async def close(self) -> None:
        """Watch no more."""
        if self._watcher is not None:
            await self._watcher.close()

    def judged(self, errors: Sequence[str]) -> None:
        """The file was read. With errors it is refused, and the daemon runs with the last good one."""
        if not errors:
            self._say({})
            return
        more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
        said = "; ".join(errors[:_SHOWN_ERRORS])
        text = (
            f"the configuration file is refused{self._since()}, the last good one is in effect: {said}{more}"
        )
        further = f"facilitator check -c {self._path}"
        self._say({CONDITION: Condition(text, "warning", further, clear_after=0.0)})

    def _since(self) -> str:
        """When the file became what it is, which does not change over crashes and restarts."""
        try:
            return f" since {iso(self._path.stat().st_ctime)}"
        except OSError:
            return ""

    def _say(self, conditions: Mapping[str, Condition]) -> None:
        if conditions != self.conditions:
            self.conditions = conditions
            self._post(Noticed(""))
