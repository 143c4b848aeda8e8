"""The snapshot as JSON: the documents of `facilitator status` and `facilitator plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisor.core.conditions import Condition
from supervisor.core.humanize import iso
from supervisor.core.identity.view import IdentityView
from supervisor.core.lock_view import LockView
from supervisor.core.network.plan import Announced, NetworkPlan
from supervisor.core.session.lifetime import learned
from supervisor.core.session.liveness import dead_leg
from supervisor.core.session.probe_targets import answers, destination_of
from supervisor.core.session.reason_pages import runbook_url
from supervisor.core.session.retry import not_retried
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Asking, Drain, Phase, Session, TunnelState, Want, well
from supervisor.core.views.documents import (
    AnnouncedEntry,
    DrainEntry,
    EndEntry,
    HubEntry,
    LockEntry,
    OtherSessionEntry,
    PlanDocument,
    QuestionEntry,
    SessionEntry,
    StatusDocument,
    TargetEntry,
    TunnelStatus,
)
from tunnels.settings import Tunnel


@dataclass(frozen=True, slots=True)
class DaemonIdentity:
    """The process that answers, as its documents name it."""

    facilitator: str
    version: str
    pid: int
    started: float  # Unix time in seconds
    wall_offset: float  # what turns monotonic seconds into Unix time
    upgrades: int = 0  # how often this process has changed its program
    last_end: EndEntry | None = None  # of the daemon before
    runbooks: str = ""  # address of the page about reasons; "": in this distribution


def status_document(
    who: DaemonIdentity,
    snapshot: Snapshot,
    plan: NetworkPlan,
    conditions: Mapping[str, Condition],
    closed_since: float | None = None,
    people: IdentityView | None = None,
) -> StatusDocument:
    """The answer to `/api/v1/status`. `conditions`: what people see now, by name;
    `closed_since`: Unix time in seconds.
    """
    owners = {lane.number: lane.tunnel for lane in plan.lanes if lane.up}
    carried: dict[str, list[str]] = {}
    for carry in plan.carries:
        if carry.lane in owners:
            carried.setdefault(owners[carry.lane], []).append(str(carry.network))
    announced: dict[str, list[AnnouncedEntry]] = {}
    for each in plan.announced:
        announced.setdefault(each.tunnel, []).append(_announced(who, each))
    return {
        "facilitator": who.facilitator,
        "version": who.version,
        "pid": who.pid,
        "started": iso(who.started),
        "upgrades": who.upgrades,
        "last_end": who.last_end,
        "closed_since": None if closed_since is None else iso(closed_since),
        "draining": snapshot.draining,
        "conditions": [
            {"name": name, "text": each.text, "severity": each.severity, "incident": each.pages}
            for name, each in conditions.items()
        ],
        "hub": None if people is None else _hub(people),
        "tunnels": [
            _tunnel(who, tunnel, state, carried.get(name, []), announced.get(name, []), snapshot)
            for name, (tunnel, state) in sorted(snapshot.tunnels.items())
        ],
    }


def _hub(people: IdentityView) -> HubEntry:
    return {
        "source": people.source,
        "sessions": len(people.present),
        "people": len({holding.person for holding in people.present.values()}),
        "age_seconds": None if people.age is None else round(people.age, 1),
        "stale": people.stale,
        "problem": people.problem,
        "skipped": people.skipped,
    }


def plan_document(plan: NetworkPlan, wanted: Sequence[str], changes: Sequence[str]) -> PlanDocument:
    """The answer to `facilitator plan`; `wanted` and `changes` have one item a line."""
    return {
        "lanes": {str(lane.number): lane.tunnel for lane in plan.lanes}
        | {str(lane.number): f"member {lane.member}" for lane in plan.members},
        "wanted": list(wanted),
        "changes": list(changes),
    }


def _announced(who: DaemonIdentity, announced: Announced) -> AnnouncedEntry:
    since = iso(who.wall_offset + announced.since)
    return {"destination": str(announced.network), "metric": announced.metric, "since": since}


def _tunnel(
    who: DaemonIdentity,
    tunnel: Tunnel,
    state: TunnelState,
    carries: list[str],
    announced: list[AnnouncedEntry],
    snapshot: Snapshot,
) -> TunnelStatus:
    leg = dead_leg(tunnel, state, snapshot.uplink)
    failure = state.failure if well(tunnel, state) else state.present_failure
    waiting = state.phase is Phase.BACKOFF and state.deadline is not None
    return {
        "name": tunnel.name,
        "kind": tunnel.kind,
        "description": tunnel.description,
        "phase": state.phase.value,
        "health": state.health.value,
        "want": state.want.value,
        "leg": None if leg is None else leg.value,
        "degraded": state.liveness.degraded,
        "endpoint": state.endpoint.value,
        "destinations": [str(d.staff_side) for d in tunnel.destinations],
        "carries": carries,
        "announced": announced,
        "drain": _drain(who, state.drain),
        "reason": state.reason.value,
        "since": iso(who.wall_offset + state.since),
        "session": _session(who, state.session) if state.running else None,
        "other_session": _other(who, state),
        "second_session": state.known.second.value,
        "planned_reconnect": None if state.planned is None else iso(who.wall_offset + state.planned),
        "learned_limit_seconds": learned(state.known.lengths, tunnel.reconnect.stable_after),
        "probe_rtt_seconds": state.liveness.last_rtt,
        "targets": [_target(who, tunnel, state, target) for target in tunnel.probe.targets],
        "reconnects": state.reconnects,
        "next_attempt": iso(who.wall_offset + (state.deadline or 0.0)) if waiting else None,
        "asks": _question(who, state.asking),
        "waits_for_code": _code(who, state, snapshot.now),
        "lock": _lock(tunnel, snapshot.locks.get(tunnel.name)),
        "not_retried": not_retried(state),
        "last_error": f"{failure.reason}: {failure.text}" if failure is not None else None,
        "runbook_url": _runbook(who, tunnel, state),
    }


def _runbook(who: DaemonIdentity, tunnel: Tunnel, state: TunnelState) -> str | None:
    """The page about what explains that it is not well now."""
    if well(tunnel, state) or state.want is Want.DOWN:
        return None
    failure = state.present_failure
    return runbook_url(who.runbooks, state.reason if failure is None else failure.reason)


def _target(who: DaemonIdentity, tunnel: Tunnel, state: TunnelState, target: str) -> TargetEntry:
    lies_in = destination_of(tunnel, target)
    moments = [each.since for each in state.liveness.silent or () if each.target == target]
    return {
        "target": target,
        "destination": None if lies_in is None else str(lies_in.staff_side),
        "answers": answers(state, target),
        "silent_since": iso(who.wall_offset + moments[0]) if moments else None,
    }


def _other(who: DaemonIdentity, state: TunnelState) -> OtherSessionEntry | None:
    """The session beside the one that carries: the next one, or the last one with its flows."""
    standby = state.standby
    if standby is None:
        return None
    return {
        "role": "coming" if state.coming else "leaving",
        "phase": standby.phase.value,
        "health": standby.health.value,
        "drain": _drain(who, standby.drain),
        **_session(who, standby.session),
    }


def _drain(who: DaemonIdentity, drain: Drain | None) -> DrainEntry | None:
    if drain is None:
        return None
    return {
        "reason": drain.reason.value,
        "flows_left": drain.left,
        "longest_idle_seconds": round(drain.idle, 1),
        "until": iso(who.wall_offset + drain.until),
    }


def _question(who: DaemonIdentity, asking: Asking | None) -> QuestionEntry | None:
    if asking is None:
        return None
    return {
        "wanted": asking.question.wanted.value,
        "text": asking.question.text,
        "until": iso(who.wall_offset + asking.until),
    }


def _code(who: DaemonIdentity, state: TunnelState, now: float) -> str | None:
    code_at = state.code_at
    return None if code_at is None or code_at <= now else iso(who.wall_offset + code_at)


def _lock(tunnel: Tunnel, lock: LockView | None) -> LockEntry | None:
    if not tunnel.exclusive or lock is None:
        return None
    return {
        "account": lock.account,
        "engine": lock.engine,
        "held": lock.held,
        "token": lock.token,
        "holder": lock.holder,
        "text": None if lock.held else lock.waits_for,
    }


def _session(who: DaemonIdentity, session: Session) -> SessionEntry:
    return {
        "id": session.id,
        "pid": session.pid,
        "device": session.device,
        "port": session.port,
        "address": session.address or session.address6,
        "peer": session.peer,
        "name_servers": [str(server) for server in session.name_servers],
        "path_mtu": session.path_mtu,
        "started": iso(who.wall_offset + session.started),
    }
