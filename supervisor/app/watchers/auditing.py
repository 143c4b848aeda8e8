"""Starts, stops and moves the audit as the configuration says, also at a reload.

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

from supervisor.app.engine_view import ReadableEngine
from supervisor.config.model import Audit
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.views.audit_lines import AuditEvent, ChangeRequest, Requester
from supervisor.core.views.documents import AuditDocument
from supervisor.kernel.conntrack.flow_events import FlowEvents
from supervisor.reports.audit.rotation import RotatedFile
from supervisor.reports.audit.writer import AuditWriter, Person

# A reload that ends the audit is recorded when it is done, and still belongs into it.
_LAST_RECORDS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Running:
    """An audit that is being kept, and its configuration."""

    audit: Audit
    trail: AuditWriter
    flows: FlowEvents

    def end(self, details: Mapping[str, Any]) -> None:
        """Write what is known, and the last line. Blocks on the disk: not for the event loop's thread."""
        self.flows.close()
        self.trail.close(details)


class Auditing:
    """Recorder and Watcher (`supervisor.outputs`) that keeps the audit. All methods but `document` are for
    the event loop's thread.
    """

    def __init__(
        self,
        version: str,
        engine: ReadableEngine,
        post: Callable[[Event], None],
        person: Person | None = None,
    ) -> None:
        """`person`: who had an address at a moment, for an audit that names people."""
        self._version, self._engine, self._post, self._person = version, engine, post, person
        self._log = structlog.get_logger()
        self._sessions: dict[tuple[str, int], str] = {}  # ids by tunnel and slot
        self._wanted: Audit | None = None
        self._running: _Running | None = None
        self._following: asyncio.Task[None] | None = None

    def set(self, audit: Audit | None) -> None:
        """Keep this audit from now on; None: none."""
        self._wanted = audit
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow(), name="audit")

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Remember the ids of the tunnel's sessions, which flows are recorded with."""
        for session in snapshot.tunnels[transition.tunnel][1].slots:
            self._sessions[transition.tunnel, session.slot] = session.id

    def acted(self, act: ChangeRequest) -> None:
        """Record that somebody asked for a change: in the log, and in the audit if there is one."""
        self._log.info("command", **act)
        if self._running is not None:
            self._running.trail.put([AuditEvent("control", time.time(), act)])

    def signalled(self, action: str, signals: str, why: str | None = None) -> None:
        """Record that a signal asked for a change, and `why` that failed. The kernel does not say who sent
        it.
        """
        result, by = "failed" if why else "done", Requester(signal=signals)
        self.acted(ChangeRequest(action=action, tunnel=None, by=by, result=result, why=why or None))

    def noted(self, action: str, tunnel: str) -> None:
        """Record that a file of an operator brought a change, such as a silence; empty: for everything."""
        by, name = Requester(signal="silences.json"), tunnel or None
        self.acted(ChangeRequest(action=action, tunnel=name, by=by, result="done", why=None))

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Set while the audit is configured and cannot be written."""
        trail = None if self._running is None else self._running.trail
        if trail is None or trail.problem is None:
            return {}
        text = (
            f"the audit cannot be written to {trail.path}: {trail.problem}; what finds no room in "
            f"memory is lost, and counted"
        )
        return {"audit": Condition(text, look_further="facilitator audit")}

    def document(self, tunnel: str | None, source: str | None, limit: int) -> AuditDocument:
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
        """End the audit, with a last line."""
        if self._following is not None:
            await asyncio.gather(self._following, return_exceptions=True)
        self._wanted = None
        await self._follow()

    async def _follow(self) -> None:
        while (None if self._running is None else self._running.audit) != self._wanted:
            if self._running is not None:
                await asyncio.sleep(_LAST_RECORDS_SECONDS)
                ending, self._running = self._running, None
                await asyncio.to_thread(ending.end, {})
            if self._wanted is not None:
                self._running = self._begin(self._wanted)
            self._post(Noticed(""))

    def _notice(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called in the thread that writes, which may outlive the loop if a disk hangs."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._post, Noticed(""))

    def _begin(self, audit: Audit) -> _Running:
        loop = asyncio.get_running_loop()
        file = RotatedFile(audit.file, audit.max_size, audit.keep, audit.keep_for)
        trail = AuditWriter(
            file,
            lambda: self._engine.plan,
            self._sessions,
            lambda: self._notice(loop),
            person=self._person if audit.people else None,
        )
        flows = FlowEvents(trail.put)
        trail.start({"version": self._version})
        flows.start()
        return _Running(audit, trail, flows)
