"""The audit as the configuration wants it: on, off or elsewhere, over reloads.

kernel.conntrack.flow_events (flows, gaps) +
control socket, signals ---------+--> reports.audit.writer --> file
engine: plan, sessions ------------------^  (what a flow's numbers mean)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from supervisor.config.model import Audit
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.state import Snapshot, Transition
from supervisor.core.views.audit_lines import Act
from supervisor.kernel.conntrack.flow_events import FlowEvents
from supervisor.reports.audit.rotation import RotatedFile
from supervisor.reports.audit.writer import Trail

# seconds: who asked for a reload that ends the audit is told when it is done, and still belongs into it
_LAST_WORDS = 0.2


@dataclass(frozen=True, slots=True)
class _Running:
    """What runs, and what for."""

    audit: Audit
    trail: Trail
    flows: FlowEvents

    def end(self, details: Mapping[str, Any]) -> None:
        """Write what is known, and the last line. It may wait for a disk: not for the event loop's thread."""
        self.flows.close()
        self.trail.close(details)


class Auditing:
    """Recorder and Watcher (`supervisor.outputs`) that keeps the audit. Everything but the document
    belongs to the event loop's thread.
    """

    def __init__(self, version: str, plan: Callable[[], NetworkPlan], post: Callable[[Event], None]) -> None:
        self._version, self._plan, self._post = version, plan, post
        self._log = structlog.get_logger()
        self._sessions: dict[tuple[str, int], str] = {}  # ids by tunnel and slot
        self._wanted: Audit | None = None
        self._running: _Running | None = None
        self._following: asyncio.Task[None] | None = None

    def set(self, audit: Audit | None) -> None:
        """Keep it so from now on."""
        self._wanted = audit
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow(), name="audit")

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Remember whose session it is."""
        for session in snapshot.tunnels[transition.tunnel][1].slots:
            self._sessions[transition.tunnel, session.slot] = session.id

    def acted(self, act: Mapping[str, Any]) -> None:
        """Somebody asked for a change. It is logged, and stands in the audit where there is one."""
        self._log.info("asked", **act)
        if self._running is not None:
            self._running.trail.put([Act("control", time.time(), act)])

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """The audit is configured, and cannot be kept."""
        trail = None if self._running is None else self._running.trail
        if trail is None or trail.problem is None:
            return {}
        text = (
            f"the audit cannot be written to {trail.path}: {trail.problem}; what finds no room in "
            f"memory is lost, and counted"
        )
        return {"audit": Condition(text, look_further="facilitator audit")}

    def document(self, tunnel: str | None, source: str | None, limit: int) -> dict[str, Any]:
        """What `facilitator audit` shows. LookupError: there is no audit."""
        running = self._running
        if running is None:
            raise LookupError("no audit is kept; see audit in the configuration")
        trail, problem = running.trail, running.trail.problem or running.flows.problem
        return {
            "file": trail.path,
            "problem": problem,
            "events": dict(trail.accounts.events),
            "lost": trail.lost,
            "totals": trail.accounts.document(tunnel, source, limit),
        }

    @property
    def counts(self) -> Mapping[str, int] | None:
        """Lines written, by their event, and what was `lost`; None: there is no audit."""
        running = self._running
        return None if running is None else {**running.trail.accounts.events, "lost": running.trail.lost}

    async def close(self) -> None:
        """End it with a last line."""
        if self._following is not None:
            await asyncio.gather(self._following, return_exceptions=True)
        self._wanted = None
        await self._follow()

    async def _follow(self) -> None:
        while (None if self._running is None else self._running.audit) != self._wanted:
            if self._running is not None:
                await asyncio.sleep(_LAST_WORDS)
                ending, self._running = self._running, None
                await asyncio.to_thread(ending.end, {})
            if self._wanted is not None:
                self._running = self._begin(self._wanted)
            self._post(Noticed(""))

    def _notice(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the thread that writes, which may outlive the loop when a disk hangs."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._post, Noticed(""))

    def _begin(self, audit: Audit) -> _Running:
        loop = asyncio.get_running_loop()
        file = RotatedFile(audit.file, audit.max_size, audit.keep)
        trail = Trail(file, self._plan, self._sessions, lambda: self._notice(loop))
        flows = FlowEvents(trail.put)
        trail.start({"version": self._version})
        flows.start()
        return _Running(audit, trail, flows)
