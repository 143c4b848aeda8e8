"""Whether a tunnel should have an open incident: one verdict per tunnel, a function of the snapshot."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from supervisor.core.alerting.flapping import OutageTracker
from supervisor.core.conditions import Condition
from supervisor.core.lock_view import LockView
from supervisor.core.session.liveness import LOCAL, SENTENCES, dead_leg
from supervisor.core.session.retry import needs_person, not_retried
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Asking, Leg, Phase, Reach, RecoveryStep, TunnelState, Want, well
from tunnels.base import Reason, Wanted
from tunnels.settings import Tunnel

_NO_DETAILS: Mapping[str, str] = MappingProxyType({})
_NO_OUTAGES: Mapping[str, OutageTracker] = MappingProxyType({})
_GATEWAY_TEXTS = MappingProxyType(
    {Reach.ANSWERS: "it answers outside the tunnel", Reach.SILENT: "it does not answer outside the tunnel"}
)
_RECOVERY_TEXTS = MappingProxyType(
    {
        RecoveryStep.IN_PLACE: "the running client was told to reconnect",
        RecoveryStep.RESUME: "a new client resumed the session at the gateway",
        RecoveryStep.LOGIN: "a new client logged in",
        RecoveryStep.NEXT_REMOTE: "a new client logged in at the gateway's next server",
    }
)


class Verdict(enum.Enum):
    """What an incident about a tunnel should be."""

    FIRING = "firing"  # open it, if it is not open
    CLEAR = "clear"  # resolve it, if it is open
    HOLD = "hold"  # leave it as it is: neither down nor well for long enough, or not known


@dataclass(frozen=True, slots=True)
class Alert:
    """The verdict on one tunnel, group or condition, and, if it is FIRING, the content of the page."""

    tunnel: str  # or the name of the group or condition
    verdict: Verdict
    severity: str  # PagerDuty's: critical, error, warning or info
    summary: str  # empty unless FIRING
    since: float  # monotonic seconds: when it became down or well
    details: Mapping[str, str]  # PagerDuty's custom_details
    reason: str = ""  # machine-readable word for why it is down
    # More details, monotonic seconds, shown as time of day.
    moments: Mapping[str, float] = field(default_factory=dict)
    members: tuple[str, ...] = ()  # the tunnels of a group, or the tunnel of a condition


def verdicts(
    facilitator: str, snapshot: Snapshot, outages: Mapping[str, OutageTracker] = _NO_OUTAGES
) -> tuple[dict[str, Alert], float | None]:
    """A verdict for each tunnel, and the monotonic moment at which one may change without any event (None:
    never).

    A tunnel that is down and not in `outages` counts as down since its last change.
    """
    alerts = {}
    moments = []
    for name, (tunnel, state) in snapshot.tunnels.items():
        outage = outages.get(name) or OutageTracker(state.well_since, state.well_since)
        verdict, due = _judge(tunnel, state, outage, snapshot)
        if due is not None:
            moments.append(due)
        alerts[name] = _alert(facilitator, tunnel, state, outage, verdict, snapshot)
    return alerts, min(moments, default=None)


def condition_alerts(facilitator: str, conditions: Mapping[str, Condition], now: float) -> dict[str, Alert]:
    """A FIRING alert for each condition that pages, by its name."""
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
        if each.pages
    }


def _alert(
    facilitator: str,
    tunnel: Tunnel,
    state: TunnelState,
    outage: OutageTracker,
    verdict: Verdict,
    snapshot: Snapshot,
) -> Alert:
    since = state.well_since if well(tunnel, state) else outage.since
    reason = failure_reason(state, since).value
    if verdict is not Verdict.FIRING:
        return Alert(tunnel.name, verdict, tunnel.alert.severity, "", since, _NO_DETAILS, reason)
    leg = dead_leg(tunnel, state, snapshot.uplink)
    summary = _summary(facilitator, tunnel, state, outage, leg)
    details = _details(tunnel, state, outage, snapshot.now, leg)
    return Alert(
        tunnel.name, verdict, tunnel.alert.severity, summary, since, details, reason, _moments(state, since)
    )


def failure_reason(state: TunnelState, since: float) -> Reason:
    """Why the tunnel is down since that moment: the last failure's reason, unless that failure is older."""
    failure = state.failure
    return state.reason if failure is None or failure.at < since else failure.reason


def _judge(
    tunnel: Tunnel, state: TunnelState, outage: OutageTracker, snapshot: Snapshot
) -> tuple[Verdict, float | None]:
    """The verdict, and the monotonic moment at which it changes without an event.

    While the daemon or the tunnel drains, no incident is opened, and only a tunnel that is well resolves its
    own. While the uplink is dead that is the one incident, and each tunnel has `alert.after` again
    afterwards.
    """
    if state.want is Want.DOWN or not tunnel.alert.enabled:
        return (Verdict.HOLD if snapshot.draining else Verdict.CLEAR), None
    is_well = well(tunnel, state)
    if (snapshot.draining or state.drain is not None) and not is_well:
        return Verdict.HOLD, None
    if not is_well and _carried_elsewhere(state, snapshot.locks.get(tunnel.name)):
        return Verdict.CLEAR, None
    if not is_well and needs_person(tunnel, state, outage.since):
        return Verdict.FIRING, None
    if is_well:
        due, verdict = state.well_since + tunnel.alert.clear_after, Verdict.CLEAR
    elif snapshot.uplink.alive:
        due, verdict = outage.pages_at(tunnel.alert.after, snapshot.uplink.since), Verdict.FIRING
    else:
        return Verdict.HOLD, None
    return (verdict, None) if snapshot.now >= due else (Verdict.HOLD, due)


def _carried_elsewhere(state: TunnelState, lock: LockView | None) -> bool:
    """It waits because another member has logged in: that is as it should be."""
    waits = state.phase is Phase.BACKOFF and state.reason is Reason.LOCK
    return waits and lock is not None and lock.holder is not None


def _summary(
    facilitator: str, tunnel: Tunnel, state: TunnelState, outage: OutageTracker, leg: Leg | None
) -> str:
    subject = f"{tunnel.name} ({tunnel.description})" if tunnel.description else tunnel.name
    if state.asking is not None:
        return f"{facilitator}: tunnel {subject} asks: {state.asking.question.text}"
    present = state.present_failure
    failure = f": {present.reason}: {present.text}" if present is not None else ""
    flaps = f"keeps failing ({outage.failures} times)"
    down = "works, but its destination is dead" if leg is Leg.DESTINATION else "is down"
    what = flaps if outage.flapping else down
    if needs_person(tunnel, state, outage.since):
        what = "needs attention"
    return f"{facilitator}: tunnel {subject} {what}{failure}"


def _details(
    tunnel: Tunnel, state: TunnelState, outage: OutageTracker, now: float, leg: Leg | None
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
        "down_for_seconds": f"{now - outage.since:.0f}",
        "failures_since_then": str(outage.failures),
        "sessions_tried": str(state.session.number),
        "attempts_in_a_row": str(state.retry.attempts),
        "look_further": f"facilitator status {tunnel.name}; facilitator logs {tunnel.name}; facilitator "
        f"history {tunnel.name}",
    }
    if (failure := state.present_failure) is not None:
        details["last_error"] = f"{failure.reason}: {failure.text}"
    if state.endpoint in _GATEWAY_TEXTS:
        details["gateway"] = _GATEWAY_TEXTS[state.endpoint]
    if state.recovery is not None:
        details["last_recovery"] = _RECOVERY_TEXTS[state.recovery]
    if state.asking is not None:
        details["asks"] = state.asking.question.text
        details["answer_with"] = _answer_with(tunnel, state.asking)
        details["asks_for_seconds"] = f"{max(0.0, state.asking.until - now):.0f}"
    if state.phase is Phase.BACKOFF and state.deadline is not None:
        details["next_attempt_in_seconds"] = f"{max(0.0, state.deadline - now):.0f}"
    if (why := not_retried(state)) is not None:
        details["next_attempt"] = f"none: {why} {tunnel.name}"
    return details


def _moments(state: TunnelState, since: float) -> dict[str, float]:
    waits = state.phase is Phase.BACKOFF and state.deadline is not None
    return {"since": since} | ({"next_attempt": state.deadline or 0.0} if waits else {})


def destinations(tunnel: Tunnel) -> str:
    """The networks that staff reach through it, as text."""
    return ", ".join(str(d.staff_side) for d in tunnel.destinations)


def _staff(tunnel: Tunnel) -> str:
    """The segments of staff that may use it, as text."""
    if tunnel.allow is None:
        return "everybody"
    return ", ".join(map(str, tunnel.allow))


def _leg(state: TunnelState, leg: Leg | None) -> str:
    """The part of the path that is known to be dead, as text."""
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
    return "approve it where the remote gateway says" if approval else f"facilitator answer {tunnel.name}"
