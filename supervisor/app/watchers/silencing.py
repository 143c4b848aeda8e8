"""Keeps incidents from the receivers while a silence holds, and shows the silences as conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import structlog

from supervisor.app.closing import Closing
from supervisor.app.stores.silence_file import SilenceFile
from supervisor.clients.input_watcher import InputWatcher
from supervisor.core.alerting.silences import Silence, active, conditions, quiet
from supervisor.core.alerting.verdict import Alert
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.outputs import Alerter

_LOOK_SECONDS = 60.0  # the wall clock may be set: ends are looked for at least so often


class Silencing:
    """The engine's `Alerter` before the receivers, and a `Watcher`."""

    def __init__(
        self,
        state_dir: Path,
        receivers: Alerter,
        post: Callable[[Event], None],
        noted: Callable[[str, str], None],
        closing: Closing,
    ) -> None:
        """`noted(action, tunnel)` is told of each silence that begins or ends."""
        self._file, self._receivers = SilenceFile(state_dir), receivers
        self._post, self._noted = post, noted
        closing.add("silences", self.close)
        self._watcher = InputWatcher(lambda _: self._read())
        self._silences: tuple[Silence, ...] = ()
        self._alerts: Mapping[str, Alert] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.conditions: Mapping[str, Condition] = MappingProxyType({})

    def start(self) -> None:
        """Follow the file, on the running loop."""
        self._watcher.start()
        self._watcher.set(lambda: {"silences": (self._file.path,)})
        self._read()

    async def close(self) -> None:
        """Follow it no more."""
        if self._timer is not None:
            self._timer.cancel()
        await self._watcher.close()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """See `outputs.Alerter`."""
        self._alerts = alerts
        self._receivers.set(quiet(alerts, self._silences))

    @property
    def silenced(self) -> tuple[str, ...]:
        """The tunnels; empty text: everything."""
        return tuple(each.tunnel for each in self._silences)

    def _read(self) -> None:
        try:
            found = self._file.load()
        except (OSError, ValueError) as error:
            structlog.get_logger().error("silences are not known: nothing is silenced", why=str(error))
            found = ()
        now = time.time()
        holding = active(found, now)
        before, self._silences = self._silences, holding
        waits = [moment - now for each in found for moment in (each.since, each.until) if moment > now]
        if self._timer is not None:
            self._timer.cancel()
        wait = min((*waits, _LOOK_SECONDS))
        self._timer = asyncio.get_running_loop().call_later(wait, self._read) if waits else None
        if holding != before:
            self._changed(before)

    def _changed(self, before: tuple[Silence, ...]) -> None:
        for each in self._silences:
            if each not in before:
                self._noted("silence", each.tunnel)
        for each in before:
            if each not in self._silences:
                self._noted("silence-over", each.tunnel)
        self.conditions = conditions(self._silences)
        if self._alerts is not None:
            self.set(self._alerts)
        self._post(Noticed(""))
