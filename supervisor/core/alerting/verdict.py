"""Who should be called: one verdict per tunnel, a function of the snapshot."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from supervisor.core.alerting.flapping import FLAPS, OutageTracker
from supervisor.core.conditions import Condition
from supervisor.core.session.liveness import LOCAL, SENTENCES, dead_leg
from supervisor.core.state import Asking, Leg, Phase, Reach, RecoveryStep, Snapshot, TunnelState, Want, well
from tunnels.base import Reason, Wanted
from tunnels.settings import Tunnel

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_TROUBLE: Mapping[str, OutageTracker] = MappingProxyType({})
_REACHES = MappingProxyType(
    {
        Reach.ANSWERS: "it answers, asked past the tunnel",
        Reach.SILENT: "it does not answer, asked past the tunnel",
    }
)
_RUNGS = MappingProxyType(
    {
        RecoveryStep.IN_PLACE: "the running client was told to reconnect",
        RecoveryStep.RESUME: "a new client continued the session at the far side",
        RecoveryStep.LOGIN: "a new client logged in",
        RecoveryStep.NEXT_REMOTE: "a new client logged in at another server of the far side",
    }
)


class Verdict(enum.Enum):
    """What an incident about a tunnel should be."""

    FIRING = "firing"  # open it, if it is not open
    CLEAR = "clear"  # resolve it, if it is open
    HOLD = "hold"  # leave it as it is: not bad for long enough, not well for long enough, or not known


@dataclass(frozen=True, slots=True)
class Alert:
    """The verdict on one tunnel, and, where somebody is called, what a tired engineer must be told."""

    tunnel: str  # or the name of the group or of the condition that it is about
    verdict: Verdict
    severity: str
    summary: str
    since: float  # monotonic seconds: when it became what it is
    details: Mapping[str, str]
    reason: str = ""  # the word for why it is down
    moments: Mapping[str, float] = field(
        default_factory=dict
    )  # monotonic seconds; people are told the time of day
    members: tuple[str, ...] = ()  # of a group or a condition: the tunnels that it speaks for


def verdicts(
    facilitator: str, snapshot: Snapshot, troubles: Mapping[str, OutageTracker] = _NO_TROUBLE
) -> tuple[dict[str, Alert], float | None]:
    """A verdict for each tunnel, and the monotonic moment at which one may change without any event (None:
    never).

    `troubles` says how a tunnel that is not well came there; without it, it has been so since it last
    changed.
    """
    alerts = {}
    moments = []
    for name, (tunnel, state) in snapshot.tunnels.items():
        trouble = troubles.get(name) or OutageTracker(state.well_since, state.well_since)
        verdict, due = _judge(tunnel, state, trouble, snapshot)
        if due is not None:
            moments.append(due)
        alerts[name] = _alert(facilitator, tunnel, state, trouble, verdict, snapshot)
    return alerts, min(moments, default=None)


def about(facilitator: str, conditions: Mapping[str, Condition], now: float) -> dict[str, Alert]:
    """An alert for each condition that calls somebody, by its name."""
    return {
        name: Alert(
            name,
            Verdict.FIRING,
            each.severity,
            f"{facilitator}: {each.text}",
            now,
            {"look_further": each.look_further},
            name,
            {"since": now},
            (each.tunnel,) if each.tunnel else (),
        )
        for name, each in conditions.items()
        if each.calls
    }


def _alert(
    facilitator: str,
    tunnel: Tunnel,
    state: TunnelState,
    trouble: OutageTracker,
    verdict: Verdict,
    snapshot: Snapshot,
) -> Alert:
    since = state.well_since if well(tunnel, state) else trouble.since
    reason = why(state, since).value
    if verdict is not Verdict.FIRING:
        return Alert(tunnel.name, verdict, tunnel.alert.severity, "", since, _NOTHING, reason)
    leg = dead_leg(tunnel, state, snapshot.uplink)
    summary, details = (
        _summary(facilitator, tunnel, state, trouble, leg),
        _details(tunnel, state, trouble, snapshot.now, leg),
    )
    return Alert(
        tunnel.name, verdict, tunnel.alert.severity, summary, since, details, reason, _moments(state, since)
    )


def why(state: TunnelState, since: float) -> Reason:
    """The word for what is wrong: that of the failure, unless it is an old one and something else happened
    since.
    """
    failure = state.failure
    return state.reason if failure is None or failure.at < since else failure.reason


def _judge(
    tunnel: Tunnel, state: TunnelState, trouble: OutageTracker, snapshot: Snapshot
) -> tuple[Verdict, float | None]:
    """While the daemon or a tunnel drains nobody is called for what is to end, and its end proves nothing
    well: only health still resolves.

    While the uplink is dead that is the one incident; afterwards each tunnel has its ordinary time to come
    back.
    """
    if state.want is Want.DOWN:
        return (Verdict.HOLD if snapshot.draining else Verdict.CLEAR), None
    is_well = well(tunnel, state)
    if (snapshot.draining or state.drain is not None) and not is_well:
        return Verdict.HOLD, None
    if state.phase is Phase.FAILED or (state.asking is not None and not is_well):  # only a human can help
        return Verdict.FIRING, None
    if is_well:
        due, verdict = state.well_since + tunnel.alert.clear_after, Verdict.CLEAR
    elif snapshot.uplink.alive:
        due, verdict = trouble.due(tunnel.alert.after, snapshot.uplink.since), Verdict.FIRING
    else:
        return Verdict.HOLD, None
    return (verdict, None) if snapshot.now >= due else (Verdict.HOLD, due)


def _summary(
    facilitator: str, tunnel: Tunnel, state: TunnelState, trouble: OutageTracker, leg: Leg | None
) -> str:
    subject = f"{tunnel.name} ({tunnel.description})" if tunnel.description else tunnel.name
    if state.asking is not None:
        return f"{facilitator}: tunnel {subject} asks: {state.asking.question.text}"
    failure = f": {state.failure.reason}: {state.failure.text}" if state.failure is not None else ""
    flaps = f"keeps failing ({trouble.drops} times)"
    down = "works, but its destination is dead" if leg is Leg.DESTINATION else "is down"
    what = "waits for a human" if state.phase is Phase.FAILED else flaps if trouble.drops >= FLAPS else down
    return f"{facilitator}: tunnel {subject} {what}{failure}"


def _details(
    tunnel: Tunnel, state: TunnelState, trouble: OutageTracker, now: float, leg: Leg | None
) -> dict[str, str]:
    details = {
        "tunnel": tunnel.name,
        "kind": tunnel.kind,
        "destinations": destinations(tunnel),
        "staff": _staff(tunnel),
        "phase": state.phase.value,
        "health": state.health.value,
        "reason": state.reason.value,
        "dead_leg": _leg(state, leg),
        "down_for_seconds": f"{now - trouble.since:.0f}",
        "failures_since_then": str(trouble.drops),
        "sessions_tried": str(state.session.number),
        "attempts_in_a_row": str(state.retry.attempts),
        "look_further": f"facilitator status {tunnel.name}; facilitator logs {tunnel.name}; facilitator "
        f"history {tunnel.name}",
    }
    if state.failure is not None:
        details["last_error"] = f"{state.failure.reason}: {state.failure.text}"
    if state.endpoint in _REACHES:
        details["gateway"] = _REACHES[state.endpoint]
    if state.recovery is not None:
        details["last_recovery"] = _RUNGS[state.recovery]
    if state.asking is not None:
        details["asks"] = state.asking.question.text
        details["answer_with"] = _answer_with(tunnel, state.asking)
        details["asks_for_seconds"] = f"{max(0.0, state.asking.until - now):.0f}"
    if state.phase is Phase.BACKOFF and state.deadline is not None:
        details["next_attempt_in_seconds"] = f"{max(0.0, state.deadline - now):.0f}"
    if state.phase is Phase.FAILED:
        details["next_attempt"] = (
            f"none before a secret or the configuration is corrected, or: facilitator start {tunnel.name}"
        )
    return details


def _moments(state: TunnelState, since: float) -> dict[str, float]:
    waits = state.phase is Phase.BACKOFF and state.deadline is not None
    return {"since": since} | ({"next_attempt": state.deadline or 0.0} if waits else {})


def destinations(tunnel: Tunnel) -> str:
    """The networks that staff cannot reach without it."""
    return ", ".join(str(d.staff_side) for d in tunnel.destinations)


def _staff(tunnel: Tunnel) -> str:
    """For whom it is."""
    if tunnel.allow is None:
        return "everybody"
    return ", ".join(
        each.segment if each.ports is None else f"{each.segment} ({' '.join(each.ports)})"
        for each in tunnel.allow
    )


def _leg(state: TunnelState, leg: Leg | None) -> str:
    """Between here and the destination: what is known to be dead."""
    if leg is not None:
        return f"{leg}: {SENTENCES[leg]}"
    reason = state.failure.reason if state.failure is not None else state.reason
    return (
        "this host"
        if reason in LOCAL
        else "not known: the client is connected, and no probe target has answered yet"
    )


def _answer_with(tunnel: Tunnel, asking: Asking) -> str:
    approval = asking.question.wanted is Wanted.APPROVAL
    return "approve it where the far side says" if approval else f"facilitator answer {tunnel.name}"
