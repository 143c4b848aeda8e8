"""What the running daemon offers to commands and scrapers: questions are answered from the snapshot,
wishes go to the inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import structlog

from supervisor.app.api.explain import Explainer
from supervisor.app.api.status_page_model import Board
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.app.watchers.auditing import Auditing
from supervisor.clients.runner import Runner
from supervisor.core.diagnosis.query import PacketQuery
from supervisor.core.events import Asked
from supervisor.core.state import Phase, Snapshot, TunnelState
from supervisor.core.views.drain_text import counted
from supervisor.core.views.history_json import DAY, PARTS, TunnelHistory, chronicle
from supervisor.core.views.status_json import DaemonIdentity, plan_document, status
from supervisor.engine import Engine
from supervisor.inbox import Inbox
from supervisor.kernel.network import KernelNetwork
from supervisor.reports.history.recorder import History
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.paging.incident import SendOutcome, SendResult
from supervisor.reports.paging.pagers import Pagers
from tunnels.base import Reason

_REASONS = {"start": Reason.STARTED, "stop": Reason.STOPPED, "restart": Reason.RESTARTED}
_TRIED_WITHIN = 40.0  # seconds for the answers to a test
_COUNTED_WITHIN = 5.0  # seconds until it is known what is left
_SETTLED = (Phase.UP, Phase.BACKOFF, Phase.FAILED, Phase.STOPPED)  # stopped: somebody else wished otherwise


@dataclass(frozen=True, slots=True)
class Facade:
    """The `Daemon` of `supervisor.control.api`."""

    identity: DaemonIdentity
    inbox: Inbox
    engine: Engine
    runner: Runner
    network: KernelNetwork
    measured: Metrics
    recorded: History
    held: StoppedTunnels
    explainer: Explainer
    shown: Board
    pagers: Pagers
    auditing: Auditing
    stalled: Callable[[], str | None]
    reloaded: Callable[[], Awaitable[dict[str, Any]]]
    ended: Callable[[bool], None]  # True: now, whatever is under way
    upgraded: Callable[[], Awaitable[dict[str, Any]]]

    def status(self) -> dict[str, Any]:
        """See `supervisor.core.views.status_json.status`."""
        return status(self.identity, self.engine.snapshot, self.engine.plan, self.engine.conditions)

    async def board(self) -> dict[str, Any]:
        """The status, and beside it what is measured and remembered."""
        return await self.shown.about(self.status(), self.engine.snapshot)

    async def changed(self) -> None:
        """Return as soon as the board may look different."""
        await self.shown.changed()

    def alive(self) -> str | None:
        """The loop answers, so it turns; the engine must turn with it."""
        return self.stalled()

    def ready(self) -> str | None:
        """Never tied to one tunnel."""
        return "draining" if self.engine.draining else None

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Rendered in a thread from a snapshot taken here."""
        return await asyncio.to_thread(self.measured.render, self.engine.snapshot, accept)

    async def plan(self) -> dict[str, Any]:
        """What the kernel should hold, and how it differs now; `lanes` says whose numbers these are."""
        wanted, changes = await self.network.compare()
        return plan_document(self.engine.plan, wanted, changes)

    async def why(self, question: PacketQuery) -> dict[str, Any]:
        """What would become of a packet now, step by step."""
        return await self.explainer.answer(question)

    async def history(self, tunnel: str | None, limit: int) -> dict[str, Any]:
        """What happened, and how available everything was. LookupError: nothing is known of such a tunnel."""
        configured = {name: settings.kind for name, (settings, _) in self.engine.snapshot.tunnels.items()}
        if tunnel is not None and tunnel not in configured and tunnel not in self.recorded.tunnels:
            raise LookupError(f"no such tunnel: {tunnel}")
        chosen = configured if tunnel is None else {tunnel: configured.get(tunnel)}
        return await asyncio.to_thread(self._chronicle, chosen, tunnel, limit)

    def _chronicle(self, chosen: Mapping[str, str | None], tunnel: str | None, limit: int) -> dict[str, Any]:
        record = self.recorded
        rows = record.read(tunnel, limit)
        told = (
            TunnelHistory(name, kind, record.availability(name), record.slots(name, DAY, PARTS))
            for name, kind in chosen.items()
        )
        return chronicle(self.identity.facilitator, told, rows, record.offset, limit)

    def alerts(self) -> dict[str, Any]:
        """Open incidents, and what waits to be sent."""
        return {"facilitator": self.identity.facilitator, **self.pagers.document}

    async def test_alerts(self) -> dict[str, Any]:
        """An incident of its own through the real way to each receiver."""
        return {"receivers": [await _tried(name, future) for name, future in self.pagers.test().items()]}

    def audit(self, tunnel: str | None, source: str | None, limit: int) -> dict[str, Any]:
        """What the audit counted."""
        return self.auditing.document(tunnel, source, limit)

    def acted(self, act: Mapping[str, Any]) -> None:
        """Keep it in mind."""
        self.auditing.acted(act)

    def known(self, tunnel: str) -> bool:
        """Is it configured."""
        return tunnel in self.engine.snapshot.tunnels

    def tail(self, tunnel: str, lines: int) -> list[str]:
        """The last lines of the client."""
        return self.runner.tail(tunnel, lines)

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """Every further line."""
        return self.runner.follow(tunnel)

    async def ask(self, tunnel: str, verb: str, wait: float, drain: bool = False) -> dict[str, Any]:
        """Put the wish into the inbox and wait for what comes of it. LookupError: the tunnel is gone
        meanwhile.
        """
        self._remember(tunnel, verb)
        before = self.engine.snapshot.tunnels[tunnel][1]
        self.inbox.post(
            Asked(tunnel, reason=_REASONS[verb], until=self.engine.drained_by() if drain else None)
        )
        await self._outcome_within(wait, _outcome(tunnel, verb, before, drain))
        entry = self._entry(tunnel)
        if drain:
            structlog.get_logger().info("draining", tunnel=tunnel, **(entry["drain"] or {}))
        return entry

    async def drain(self, now: bool) -> dict[str, Any]:
        """As SIGTERM, or as a second one; the status when it is known what is left."""
        self.ended(now)
        await self._outcome_within(
            _COUNTED_WITHIN, lambda snapshot: now or (snapshot.draining and counted(snapshot))
        )
        return self.status()

    def question(self, tunnel: str) -> str | None:
        """What its far side wants to know from a person now."""
        asking = self.engine.snapshot.tunnels[tunnel][1].asking
        return None if asking is None else asking.question.text

    async def answer(self, tunnel: str, text: str, wait: float) -> dict[str, Any]:
        """Pass the answer on and wait for what comes of it. LookupError: nothing is asked, or the tunnel
        is gone meanwhile.
        """
        if self.question(tunnel) is None:
            raise LookupError(f"{tunnel} asks nothing; see: facilitator status {tunnel}")
        self.runner.answer(tunnel, text)
        before = self.engine.snapshot.tunnels[tunnel][1]

        def settled(now: Snapshot) -> bool:
            state = now.tunnels[tunnel][1] if tunnel in now.tunnels else None
            anew = state is not None and state.asking is not None and state.asking is not before.asking
            return (
                state is None
                or anew
                or state.phase in _SETTLED
                or state.session.number != before.session.number
            )

        await self._outcome_within(wait, settled)
        return self._entry(tunnel)

    async def _outcome_within(self, seconds: float, condition: Callable[[Snapshot], bool]) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.0) or None):
                await (self.engine.wait_for(condition) if seconds > 0 else asyncio.sleep(0))
        except TimeoutError:
            pass

    def _entry(self, tunnel: str) -> dict[str, Any]:
        if not self.known(tunnel):
            raise LookupError(f"{tunnel} was taken out of the configuration meanwhile")
        return next(entry for entry in self.status()["tunnels"] if entry["name"] == tunnel)

    async def upgrade(self) -> dict[str, Any]:
        """Change the program of the daemon's process; returns only when that did not succeed."""
        return await self.upgraded()

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again."""
        return await self.reloaded()

    def _remember(self, tunnel: str, verb: str) -> None:
        try:
            (self.held.hold if verb == "stop" else self.held.release)(tunnel)
        except OSError as error:
            structlog.get_logger().error(
                "the wish will not survive a restart of the daemon",
                tunnel=tunnel,
                wish=verb,
                error=str(error),
            )


async def _tried(name: str, future: Future[tuple[SendResult, SendResult]]) -> dict[str, Any]:
    try:
        answers = await asyncio.wait_for(asyncio.wrap_future(future), _TRIED_WITHIN)
    except (OSError, LookupError, ValueError) as error:  # a TimeoutError is an OSError
        text = str(error) or f"no answer within {_TRIED_WITHIN:.0f} s; an earlier message is still under way"
        return {"name": name, "taken": False, "trigger": text, "resolve": None}
    said = [answer.outcome.value + (f": {answer.text}" if answer.text else "") for answer in answers]
    return {
        "name": name,
        "taken": all(a.outcome is SendOutcome.ACCEPTED for a in answers),
        "trigger": said[0],
        "resolve": said[1],
    }


def _outcome(tunnel: str, verb: str, before: TunnelState, drain: bool) -> Callable[[Snapshot], bool]:
    """True once the wish is fulfilled, has visibly failed for the moment, or is void because the tunnel is
    gone.
    """
    fresh = verb == "restart" or before.phase not in (Phase.STARTING, Phase.UP)
    target = before.session.number + fresh

    def reached(now: Snapshot) -> bool:
        if tunnel not in now.tunnels:
            return True
        state = now.tunnels[tunnel][1]
        if verb == "stop":
            return state.phase is Phase.STOPPED or (
                drain and state.drain is not None and state.drain.left is not None
            )
        return state.session.number >= target and (state.phase in _SETTLED or state.asking is not None)

    return reached
