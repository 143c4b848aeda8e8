"""Watches what doctor judges and what can change while the daemon runs: third-party firewalls, policy
rules, addresses, settings.

the kernel's notifications, a look a minute --> facts (app.preflight.live, in a thread) -->
core.preflight.live --> conditions
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from supervisor.app.preflight.requirements import Running, demand
from supervisor.config.model import Config
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.preflight.facts import Demand, HostFacts
from supervisor.core.preflight.live import clock, conditions
from supervisor.engine import Engine
from supervisor.kernel.nft.foreign_tables import ForeignTableReader
from tunnels.base import AnyKind
from tunnels.settings import IPAddress

FIRST = 1.0  # seconds after the start
GLANCE = 5.0  # seconds between two looks at what changes without a word: settings, /dev/net/tun, the clock
LOOK = 60.0  # seconds between two looks at everything
DEBOUNCE = 0.5  # seconds in which further changes of the same happening arrive
SHARE = 50.0  # a look may take this part of the time when changes do not end
LONGEST = 5.0  # seconds that a change may wait for that
_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
)  # what odd answers of the kernel lead to


class HostWatch:
    """Knows what other programs have put in the way, and posts `Noticed` when there is something new to say.

    `changed` may be called at any moment of the event loop. Nobody but the thread of the latest look touches
    what a look remembers.
    """

    def __init__(
        self, engine: Callable[[], Engine], kinds: Mapping[str, AnyKind], post: Callable[[Event], None]
    ) -> None:
        self._engine, self._kinds, self._post = engine, kinds, post
        self._config: Config | None = None
        self._demand = Demand()
        self._peers: dict[
            str, IPAddress
        ] = {}  # by tunnel: the gateway that its client was last connected with
        self._reader, self._facts = ForeignTableReader(), HostFacts()
        self._synchronised = False  # the clock was, at some time
        self._cost = 0.0  # seconds of processor time of the latest look
        self._found: Mapping[str, Condition] = {}  # by the latest look
        self._conditions: Mapping[str, Condition] = {}
        self._changed = asyncio.Event()
        self._looking = asyncio.Lock()

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What is wrong, by name."""
        return self._conditions

    def set(self, config: Config) -> None:
        """Judge by this configuration."""
        self._config, self._demand = config, demand(config, self._kinds)
        self._changed.set()

    def changed(self) -> None:
        """Somebody has changed something in the kernel."""
        self._changed.set()

    async def run(self) -> None:
        """Watch, for ever."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(FIRST)
        full_at = loop.time()
        while True:
            full = self._changed.is_set() or loop.time() >= full_at
            if full:
                full_at = loop.time() + LOOK
            await self.look(full)
            await asyncio.sleep(min(LONGEST, max(DEBOUNCE, SHARE * self._cost)))
            if not self._changed.is_set():
                await self._quiet(GLANCE)

    async def look(self, full: bool = True) -> HostFacts:
        """Look now: at everything, or at a glance; what was found. OSError: what the kernel says is not
        understood.
        """
        async with self._looking:
            if self._config is not None:
                await self._look(full)
            return self._facts

    async def _quiet(self, seconds: float) -> None:
        """Return when something has changed and that has gone on for a moment, or after these seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(DEBOUNCE)

    async def _look(self, full: bool) -> None:
        assert self._config is not None
        running = self._running(self._config)
        if full:
            self._changed.clear()
        try:
            found, said, self._cost = await asyncio.to_thread(self._judged, running, full)
        except _ERRORS as error:
            raise OSError(
                f"what other programs have put into the kernel cannot be judged: {error!r}"
            ) from error
        self._facts, self._found = found, said
        self._synchronised = self._synchronised or found.synchronised is True
        told = {**said, **clock(found.synchronised, self._synchronised)}
        if told != self._conditions:
            self._conditions = told
            self._post(Noticed(""))

    def _judged(self, running: Running, full: bool) -> tuple[HostFacts, Mapping[str, Condition], float]:
        """In a thread: the facts, the conditions, and the seconds that they cost. Nothing is judged again
        while nothing has changed.
        """
        from supervisor.app.preflight import live  # takes its time, and the daemon starts without it

        before, began = self._facts, time.thread_time()
        facts = live.everything(running, self._reader) if full else live.at_a_glance(before, running)
        said = self._found if facts == before else conditions(facts)
        return facts, said, time.thread_time() - began

    def _running(self, config: Config) -> Running:
        engine = self._engine()
        snapshot, names = engine.snapshot, config.tunnels.keys()
        self._peers = {name: peer for name, peer in self._peers.items() if name in names}
        for name, (_, state) in snapshot.tunnels.items():
            if name in names and (peer := _address(state.session.peer)) is not None:
                self._peers[name] = peer
        return Running(config, self._demand, engine.plan, tuple(self._peers.items()), os.getpid())


def _address(text: str | None) -> IPAddress | None:
    try:
        return None if text is None else ip_address(text)
    except ValueError:
        return None
