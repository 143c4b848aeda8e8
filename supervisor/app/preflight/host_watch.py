"""The preflight checks whose answers can change, repeated while the daemon runs: third-party firewalls,
policy routing rules, addresses, sysctls, the clock. A clock that was set is told as `ClockSet`.

netlink notification, or a minute has passed -> facts (`supervisor.app.preflight.live`, in a thread)
-> `supervisor.core.preflight.live` -> conditions
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from supervisor.app.engine_view import ReadableEngine
from supervisor.app.files import Files
from supervisor.app.preflight.clock_watch import ClockWatch
from supervisor.app.preflight.requirements import Running, requirements
from supervisor.config.model import Config
from supervisor.core.conditions import Condition
from supervisor.core.events import ClockSet, Event, Noticed
from supervisor.core.preflight.facts import HostFacts, Requirements
from supervisor.core.state import Phase, TunnelState, Want
from supervisor.kernel.nft.foreign_tables import ForeignTableReader
from supervisor.ticks import tick_after
from tunnels.base import AnyKind
from tunnels.networks import IPAddress
from tunnels.settings import Tunnel

FIRST_CHECK_SECONDS = 1.0  # after the start
RECHECK_SECONDS = 60.0  # between two checks of everything
# Between two checks of what changes without a notification: sysctls, /dev/net/tun, the clock.
UNNOTIFIED_RECHECK_SECONDS = 5.0
DEBOUNCE_SECONDS = 0.5  # wait for further changes after a first one
IDLE_PER_CPU_SECOND = 50.0  # seconds without a check per second of processor time that one costs
MAX_IDLE_SECONDS = 5.0  # longest delay of a check for this reason
_ERRORS = (OSError, ValueError, LookupError, ArithmeticError, struct.error)  # from odd answers of the kernel


class _Checked(NamedTuple):
    """What one check has shown."""

    facts: HostFacts
    conditions: Mapping[str, Condition]  # that follow, but for the clock's
    clock: Mapping[str, Condition]
    cost: float  # processor seconds


class HostWatch:
    """Keeps the conditions that other programs on this host cause, and posts `Noticed` when they change.

    `changed` is for the event loop's thread. What a check remembers is touched by the thread of that check
    only.
    """

    def __init__(
        self,
        engine: ReadableEngine,
        kinds: Mapping[str, AnyKind],
        post: Callable[[Event], None],
        files: Files,
        clock_watch: ClockWatch | None = None,
    ) -> None:
        self._engine, self._kinds, self._post, self._files = engine, kinds, post, files
        self._config: Config | None = None
        self._requirements = Requirements()
        # by tunnel: the gateway that its client was last connected with
        self._peers: dict[str, IPAddress] = {}
        # those that the peers were last taken from
        self._tunnels: Mapping[str, tuple[Tunnel, TunnelState]] = {}
        self._reader, self._facts = ForeignTableReader(), HostFacts()
        self._clock_watch = clock_watch or ClockWatch()
        self._synchronised = False  # the clock was synchronised at some time
        self._cost = 0.0  # seconds of processor time of the latest check
        self._found: Mapping[str, Condition] = {}  # by the latest check
        self._conditions: Mapping[str, Condition] = {}
        self._changed = asyncio.Event()
        self._checking = asyncio.Lock()

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What is wrong, by name."""
        return self._conditions

    def set(self, config: Config) -> None:
        """Check for this configuration from now on."""
        self._config, self._requirements = config, requirements(config, self._kinds)
        self._tunnels = {}
        self._changed.set()

    def changed(self) -> None:
        """Something in the kernel has changed: check soon."""
        self._changed.set()

    async def run(self) -> None:
        """Check for ever."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(FIRST_CHECK_SECONDS)
        full_at = loop.time()
        while True:
            full = self._changed.is_set() or loop.time() >= full_at
            if full:
                full_at = loop.time() + RECHECK_SECONDS
            await self.look(full)
            rested_at = loop.time() + min(
                MAX_IDLE_SECONDS, max(DEBOUNCE_SECONDS, IDLE_PER_CPU_SECOND * self._cost)
            )
            await self._wait_for_change(UNNOTIFIED_RECHECK_SECONDS)
            await asyncio.sleep(max(0.0, rested_at - loop.time()))

    async def look(self, full: bool = True) -> HostFacts:
        """Check now: everything, or only what changes without a notification. OSError: the kernel's answer is
        not understood.
        """
        async with self._checking:
            if self._config is not None:
                await self._look(full)
            return self._facts

    async def _wait_for_change(self, seconds: float) -> None:
        """Return a moment after something has changed, or after these seconds."""
        try:
            async with asyncio.timeout_at(tick_after(seconds)):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(DEBOUNCE_SECONDS)

    async def _look(self, full: bool) -> None:
        assert self._config is not None
        running = self._running(self._config)
        if full:
            self._changed.clear()
        try:
            found, said, clock, self._cost = await asyncio.to_thread(self._check, running, full)
        except _ERRORS as error:
            raise OSError(
                f"what other programs have put into the kernel cannot be judged: {error!r}"
            ) from error
        self._facts, self._found = found, said
        if self._clock_watch.corrected(found.synchronised):
            self._post(ClockSet(""))
        told = {**said, **clock}
        if told != self._conditions:
            self._conditions = told
            self._post(Noticed(""))

    def _check(self, running: Running, full: bool) -> _Checked:
        """In a thread."""
        # Slow to import, and not needed for the start.
        from supervisor.app.preflight import live
        from supervisor.core.preflight.live import clock, conditions

        before, began = self._facts, time.thread_time()
        facts = live.everything(running, self._reader) if full else live.at_a_glance(before, running)
        said = self._found if facts == before else conditions(facts)
        self._synchronised = self._synchronised or facts.synchronised is True
        about_clock = clock(facts.synchronised, self._synchronised)
        return _Checked(facts, said, about_clock, time.thread_time() - began)

    def _running(self, config: Config) -> Running:
        tunnels, names = self._engine.snapshot.tunnels, config.tunnels.keys()
        if tunnels is not self._tunnels:  # the engine replaces what changes
            self._tunnels = tunnels
            self._peers = {name: peer for name, peer in self._peers.items() if name in names}
            for name, (_, state) in tunnels.items():
                if name in names and (peer := _address(state.session.peer)) is not None:
                    self._peers[name] = peer
        unreached = tuple(
            name
            for name, (_, state) in tunnels.items()
            if name in names and state.want is Want.UP and state.phase is not Phase.UP
        )
        peers = tuple(self._peers.items())
        return Running(
            config, self._requirements, self._engine.plan, peers, unreached, self._files, os.getpid()
        )


def _address(text: str | None) -> IPAddress | None:
    try:
        return None if text is None else ip_address(text)
    except ValueError:
        return None
