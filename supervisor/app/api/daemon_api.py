"""The running daemon as `supervisor.control.api.DaemonAPI`: questions are answered from the engine's
snapshot, commands are posted to the inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from supervisor.app.api.status_page_model import StatusPageModel
from supervisor.clients.runner import Runner
from supervisor.core.diagnosis.query import PacketQuery
from supervisor.core.events import Asked
from supervisor.core.fleet.carrying import carrying_problem
from supervisor.core.fleet.orders import FleetOrder
from supervisor.core.identity.view import IdentityView
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, TunnelState, well
from supervisor.core.views.audit_lines import ChangeRequest
from supervisor.core.views.documents import (
    AlertsDocument,
    AlertTestDocument,
    AuditDocument,
    FleetDocument,
    FleetOrderDocument,
    HandOverDocument,
    HistoryDocument,
    NameServiceEntry,
    PlanDocument,
    ReloadDocument,
    StatusDocument,
    StatusPageDocument,
    TriedReceiverEntry,
    TunnelStatus,
    UpgradeDocument,
    WhyDocument,
)
from supervisor.core.views.drain_text import all_counted
from supervisor.core.views.history_json import DAY_SECONDS, DAY_SLOTS, TunnelHistory, history_document
from supervisor.core.views.status_json import DaemonIdentity, plan_document, status_document
from supervisor.engine import Engine
from supervisor.inbox import Inbox
from supervisor.kernel.network import KernelNetwork
from supervisor.reports.history.recorder import History
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.paging.incident import SendOutcome, SendResult
from supervisor.reports.paging.pagers import Pagers
from tunnels.base import Reason

_REASONS = {"start": Reason.STARTED, "stop": Reason.STOPPED, "restart": Reason.RESTARTED}
_ALERT_TEST_SECONDS = 40.0  # for all answers to a test incident
_COUNT_FLOWS_SECONDS = 5.0  # until the flows of all tunnels that drain have been counted
# A command has been carried out, or has failed for now. Stopped: another command came in between.
_SETTLED = (Phase.UP, Phase.BACKOFF, Phase.FAILED, Phase.STOPPED)


class StopStore(Protocol):
    """Remembers which tunnels an operator has stopped."""

    def hold(self, tunnel: str) -> None:
        """It is stopped. OSError: that does not survive a restart of the daemon."""

    def release(self, tunnel: str) -> None:
        """It may run. OSError: see `hold`."""


class FleetMembership(Protocol):
    """This daemon as a member of a fleet."""

    @property
    def drained(self) -> bool:
        """An order drains this member."""

    def refusal(self, tunnel: str) -> str | None:
        """Why an operator of this member cannot start a tunnel; None: no order is against it."""

    async def document(self) -> FleetDocument:
        """All members."""

    async def give(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """Give an order, and wait up to so many seconds. LookupError, OSError: see `DaemonAPI`."""

    async def lift(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """Lift it, and wait. LookupError, OSError."""


class AuditTrail(Protocol):
    """Keeps the audit."""

    def document(self, tunnel: str | None, source: str | None, limit: int) -> AuditDocument:
        """What `facilitator audit` shows. LookupError: no audit is kept."""

    def acted(self, act: ChangeRequest) -> None:
        """Record that somebody asked for a change."""


class NameLookUp(Protocol):
    """The name service (`app.names`)."""

    @property
    def status(self) -> NameServiceEntry | None:
        """What it does now; None: it does not run."""

    async def look_up(self, name: str, kind: int) -> Mapping[str, Any] | None:
        """What a name leads to; None: nobody answers."""


@dataclass(frozen=True, slots=True)
class RunningDaemonAPI:
    """The `DaemonAPI` of the running daemon; what each method does is described there."""

    identity: DaemonIdentity
    inbox: Inbox
    engine: Engine
    runner: Runner
    network: KernelNetwork
    metrics_exporter: Metrics
    recorder: History
    stopped_tunnels: StopStore
    explain: Callable[[PacketQuery], Awaitable[WhyDocument]]
    page_model: StatusPageModel
    pagers: Pagers
    auditing: AuditTrail
    file_problem: Callable[
        [str], str | None
    ]  # tunnel -> why it could not start with its files; None: it could
    stalled: Callable[[], str | None]  # why the engine counts as stuck; None: it works
    on_reload: Callable[[], Awaitable[ReloadDocument]]
    on_drain: Callable[[bool], None]  # True: end now, whatever is under way
    on_upgrade: Callable[[], Awaitable[UpgradeDocument]]
    on_hand_over: Callable[[str], str | None]  # the owner that asks -> why not; None: it begins
    membership: FleetMembership | None = None
    people: Callable[[], IdentityView | None] = lambda: None
    names: NameLookUp | None = None
    route_problems: Callable[[], Sequence[str]] = tuple

    def status(self) -> StatusDocument:
        """From the engine's snapshot."""
        engine, closed_since = self.engine, self.network.closed_since
        found = status_document(
            self.identity, engine.snapshot, engine.plan, engine.conditions, closed_since, self.people()
        )
        found["names"] = None if self.names is None else self.names.status
        return found

    async def status_page(self) -> StatusPageDocument:
        """The status, with measurements and history."""
        return await self.page_model.document(self.status(), self.engine.snapshot)

    async def status_page_changed(self) -> None:
        """Wait for the next change."""
        await self.page_model.changed()

    def liveness_problem(self) -> str | None:
        """The event loop works, or nobody would ask; so the engine decides."""
        return self.stalled()

    def readiness_problem(self) -> str | None:
        """Never tied to one tunnel."""
        drained = self.membership is not None and self.membership.drained
        return self.ending() or ("drained by an order of the fleet" if drained else None)

    def ending(self) -> str | None:
        """It drains, and then ends."""
        return "draining" if self.engine.draining else None

    async def fleet(self) -> FleetDocument:
        """From the membership, and what does not fit the profiles of staff."""
        document = await self._member().document()
        return {**document, "problems": [*document["problems"], *self.route_problems()]}

    async def fleet_order(self, order: FleetOrder, wait: float, lift: bool) -> FleetOrderDocument:
        """Through the lock engine."""
        membership = self._member()
        by = f"{order.by}@{self.identity.facilitator}"
        return await (membership.lift if lift else membership.give)(replace(order, by=by), wait)

    def _member(self) -> FleetMembership:
        if self.membership is None:
            raise LookupError("the configuration has no `fleet:`, so this facilitator stands alone")
        return self.membership

    def carrying_problem(self, destination: str) -> str | None:
        """From the snapshot and the plan."""
        return carrying_problem(self.engine.snapshot, self.engine.plan, destination)

    def readiness_details(self) -> list[str]:
        """That the configuration file is refused, while an earlier one is in effect."""
        condition = self.engine.conditions.get("configuration-refused")
        return [] if condition is None else [condition.text]

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Rendered in a worker thread from a snapshot taken here."""
        return await asyncio.to_thread(self.metrics_exporter.render, self.engine.snapshot, accept)

    async def plan(self) -> PlanDocument:
        """The plan, compared with the kernel now."""
        wanted, changes = await self.network.compare()
        return plan_document(self.engine.plan, wanted, changes)

    async def why(self, question: PacketQuery) -> WhyDocument:
        """From the snapshot, the plan and the kernel."""
        return await self.explain(question)

    async def why_name(self, name: str, source: str | None, port: str | None) -> WhyDocument:
        """The name is asked for by the name service."""
        from supervisor.app.api.why_name import why_name  # seldom asked for

        assert self.names is not None, "the daemon has a name service, started or not"
        return await why_name(name, source, port, self.names.look_up, self.explain)

    async def history(self, tunnel: str | None, limit: int) -> HistoryDocument:
        """From the archive, in a worker thread."""
        configured = {name: settings.kind for name, (settings, _) in self.engine.snapshot.tunnels.items()}
        if tunnel is not None and tunnel not in configured and tunnel not in self.recorder.tunnels:
            raise LookupError(f"no such tunnel: {tunnel}")
        kinds = configured if tunnel is None else {tunnel: configured.get(tunnel)}
        return await asyncio.to_thread(self._history, kinds, tunnel, limit)

    def _history(self, kinds: Mapping[str, str | None], tunnel: str | None, limit: int) -> HistoryDocument:
        recorder = self.recorder
        rows = recorder.read(tunnel, limit)
        tunnels = (
            TunnelHistory(
                name, kind, recorder.availability(name), recorder.worst_by_part(name, DAY_SECONDS, DAY_SLOTS)
            )
            for name, kind in kinds.items()
        )
        return history_document(self.identity.facilitator, tunnels, rows, recorder.offset, limit)

    def alerts(self) -> AlertsDocument:
        """From the outboxes."""
        return {"facilitator": self.identity.facilitator, "receivers": self.pagers.receivers}

    async def test_alerts(self, tunnel: str) -> AlertTestDocument:
        """The receivers one after the other."""
        tried = self.pagers.test(tunnel)
        return {"receivers": [await _test_result(name, it) for name, it in tried.items()]}

    def audit(self, tunnel: str | None, source: str | None, limit: int) -> AuditDocument:
        """From the audit's counters."""
        return self.auditing.document(tunnel, source, limit)

    def record_change(self, request: ChangeRequest) -> None:
        """In the log and in the audit."""
        self.auditing.acted(request)

    def has_tunnel(self, tunnel: str) -> bool:
        """It is configured."""
        return tunnel in self.engine.snapshot.tunnels

    def tail(self, tunnel: str, lines: int) -> list[str]:
        """From the runner's buffer."""
        return self.runner.tail(tunnel, lines)

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """From the runner."""
        return self.runner.follow(tunnel)

    async def command(
        self, tunnel: str, verb: str, wait: float, drain: bool = False, force: bool = False
    ) -> TunnelStatus:
        """Post an event to the inbox and wait for its outcome."""
        if verb != "stop":
            self._refuse_against_the_fleet(tunnel)
        if verb == "restart" and not force:
            self._refuse_to_end_for_nothing(tunnel)
        self._remember(tunnel, verb)
        before = self.engine.snapshot.tunnels[tunnel][1]
        self.inbox.post(
            Asked(tunnel, reason=_REASONS[verb], until=self.engine.drained_by() if drain else None)
        )
        await self._wait(wait, _outcome(tunnel, verb, before, drain))
        entry = self._entry(tunnel)
        if drain:
            left: Mapping[str, object] = entry["drain"] or {}
            structlog.get_logger().info("draining", tunnel=tunnel, **left)
        return entry

    def _refuse_against_the_fleet(self, tunnel: str) -> None:
        """PermissionError: an order of the fleet keeps it down."""
        refusal = None if self.membership is None else self.membership.refusal(tunnel)
        if refusal is not None:
            raise PermissionError(refusal)

    def _refuse_to_end_for_nothing(self, tunnel: str) -> None:
        """PermissionError: the session is good, and no new one can start with the files as they are."""
        settings, state = self.engine.snapshot.tunnels[tunnel]
        if well(settings, state) and (problem := self.file_problem(tunnel)) is not None:
            raise PermissionError(
                f"{tunnel} is up and could not start again: {problem}; correct it first, or end the session all "
                f"the same: facilitator restart --force {tunnel}"
            )

    async def drain(self, now: bool) -> StatusDocument:
        """As SIGTERM does, or a second one; answered when the flows that are left have been counted."""
        self.on_drain(now)
        await self._wait(
            _COUNT_FLOWS_SECONDS, lambda snapshot: now or (snapshot.draining and all_counted(snapshot))
        )
        return self.status()

    def question(self, tunnel: str) -> str | None:
        """From the engine's snapshot."""
        asking = self.engine.snapshot.tunnels[tunnel][1].asking
        return None if asking is None else asking.question.text

    async def answer(self, tunnel: str, text: str, wait: float) -> TunnelStatus:
        """Hand it to the client and wait for the outcome."""
        if self.question(tunnel) is None:
            raise LookupError(f"{tunnel} asks nothing; see: facilitator status {tunnel}")
        self.runner.answer(tunnel, text)
        before = self.engine.snapshot.tunnels[tunnel][1]

        def settled(now: Snapshot) -> bool:
            state = now.tunnels[tunnel][1] if tunnel in now.tunnels else None
            asks_again = state is not None and state.asking is not None and state.asking is not before.asking
            return (
                state is None
                or asks_again
                or state.phase in _SETTLED
                or state.session.number != before.session.number
            )

        await self._wait(wait, settled)
        return self._entry(tunnel)

    async def reload(self) -> ReloadDocument:
        """As SIGHUP does."""
        return await self.on_reload()

    def hand_over(self, owner: str) -> HandOverDocument:
        """To a daemon of the same owner."""
        if (refusal := self.on_hand_over(owner)) is not None:
            raise PermissionError(refusal)
        return {"pid": self.identity.pid}

    async def upgrade(self) -> UpgradeDocument:
        """Re-execute the process."""
        return await self.on_upgrade()

    async def _wait(self, seconds: float, condition: Callable[[Snapshot], bool]) -> None:
        """Until the condition holds, or for so many seconds."""
        try:
            async with asyncio.timeout(max(seconds, 0.0) or None):
                await (self.engine.wait_for(condition) if seconds > 0 else asyncio.sleep(0))
        except TimeoutError:
            pass

    def _entry(self, tunnel: str) -> TunnelStatus:
        if not self.has_tunnel(tunnel):
            raise LookupError(f"{tunnel} was taken out of the configuration meanwhile")
        return next(entry for entry in self.status()["tunnels"] if entry["name"] == tunnel)

    def _remember(self, tunnel: str, verb: str) -> None:
        """A tunnel that was stopped stays down when the daemon restarts."""
        try:
            (self.stopped_tunnels.hold if verb == "stop" else self.stopped_tunnels.release)(tunnel)
        except OSError as error:
            structlog.get_logger().error(
                "the order will not survive a restart of the daemon",
                tunnel=tunnel,
                wish=verb,
                error=str(error),
            )


async def _test_result(name: str, future: Future[tuple[SendResult, SendResult]]) -> TriedReceiverEntry:
    try:
        answers = await asyncio.wait_for(asyncio.wrap_future(future), _ALERT_TEST_SECONDS)
    except (OSError, LookupError, ValueError) as error:  # a TimeoutError is an OSError
        text = (
            str(error)
            or f"no answer within {_ALERT_TEST_SECONDS:.0f} s; an earlier message is still being sent"
        )
        return {"name": name, "taken": False, "trigger": text, "resolve": None}
    texts = [answer.outcome.value + (f": {answer.text}" if answer.text else "") for answer in answers]
    return {
        "name": name,
        "taken": all(answer.outcome is SendOutcome.ACCEPTED for answer in answers),
        "trigger": texts[0],
        "resolve": texts[1],
    }


def _outcome(tunnel: str, verb: str, before: TunnelState, drain: bool) -> Callable[[Snapshot], bool]:
    """True when the command has been carried out, has failed for now, or the tunnel is gone."""
    new_session = verb == "restart" or before.phase not in (Phase.STARTING, Phase.UP)
    number = before.session.number + new_session

    def reached(now: Snapshot) -> bool:
        if tunnel not in now.tunnels:
            return True
        state = now.tunnels[tunnel][1]
        if verb == "stop":
            return state.phase is Phase.STOPPED or (
                drain and state.drain is not None and state.drain.left is not None
            )
        if state.phase is Phase.BACKOFF and state.reason is Reason.LOCK:
            lock = now.locks.get(tunnel)
            return lock is not None and not lock.held and bool(lock.holder or lock.text)
        return state.session.number >= number and (state.phase in _SETTLED or state.asking is not None)

    return reached
