"""Who should be called: one verdict per tunnel, a function of the snapshot."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from supervisor.core.conditions import Condition
from supervisor.core.state import Asking, Phase, Snapshot, TunnelState, Uplink, Want, well
from tunnels.base import Wanted
from tunnels.settings import Tunnel

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Verdict(enum.Enum):
    """What an incident about a tunnel should be."""

    FIRING = "firing"   # open it, if it is not open
    CLEAR = "clear"     # resolve it, if it is open
    HOLD = "hold"       # leave it as it is: not bad for long enough, not well for long enough, or not known


@dataclass(frozen=True, slots=True)
class Alert:
    """The verdict on one tunnel, and, where somebody is called, what a tired engineer must be told."""

    tunnel: str
    verdict: Verdict
    severity: str
    summary: str
    since: float                        # monotonic seconds: when it became what it is
    details: Mapping[str, str]
    reason: str = ""                    # the word for why it is down


def verdicts(facilitator: str, snapshot: Snapshot) -> tuple[dict[str, Alert], float | None]:
    """A verdict for each tunnel, and the monotonic moment at which one may change without any event (None: never)."""
    alerts = {}
    moments = []
    for name, (tunnel, state) in snapshot.tunnels.items():
        verdict, due = _judge(tunnel, state, snapshot.now, snapshot.draining, snapshot.uplink)
        if due is not None:
            moments.append(due)
        told = verdict is Verdict.FIRING
        summary, details = (_summary(facilitator, tunnel, state), _details(tunnel, state, snapshot.now)) if told else ("", _NOTHING)
        reason = (state.failure.reason if state.failure is not None else state.reason).value
        alerts[name] = Alert(name, verdict, tunnel.alert.severity, summary, state.well_since, details, reason)
    return alerts, min(moments, default=None)


def about(facilitator: str, conditions: Mapping[str, Condition], now: float) -> dict[str, Alert]:
    """An alert for each condition that concerns no single tunnel, by its name; one that is gone is not named any more."""
    return {
        name: Alert(name, Verdict.FIRING, each.severity, f"{facilitator}: {each.text}", now, {"look_further": each.look_further}, name)
        for name, each in conditions.items()
    }


def _judge(tunnel: Tunnel, state: TunnelState, now: float, draining: bool, uplink: Uplink) -> tuple[Verdict, float | None]:
    """While the daemon drains nobody is called for what it ends itself, and its end proves nothing well: only health still resolves.

    While the uplink is dead that is the one incident; afterwards each tunnel has its ordinary time to come back.
    """
    if state.want is Want.DOWN:
        return (Verdict.HOLD if draining else Verdict.CLEAR), None
    is_well = well(tunnel, state)
    if draining and not is_well:
        return Verdict.HOLD, None
    if state.phase is Phase.FAILED or (state.asking is not None and not is_well):     # only a human can help
        return Verdict.FIRING, None
    if not is_well and not uplink.alive:
        return Verdict.HOLD, None
    hold, verdict = (tunnel.alert.clear_after, Verdict.CLEAR) if is_well else (tunnel.alert.after, Verdict.FIRING)
    due = (state.well_since if is_well else max(state.well_since, uplink.since)) + hold
    return (verdict, None) if now >= due else (Verdict.HOLD, due)


def _summary(facilitator: str, tunnel: Tunnel, state: TunnelState) -> str:
    subject = f"{tunnel.name} ({tunnel.description})" if tunnel.description else tunnel.name
    if state.asking is not None:
        return f"{facilitator}: tunnel {subject} asks: {state.asking.question.text}"
    why = f": {state.failure.reason}: {state.failure.text}" if state.failure is not None else ""
    what = "waits for a human" if state.phase is Phase.FAILED else "is down"
    return f"{facilitator}: tunnel {subject} {what}{why}"


def _details(tunnel: Tunnel, state: TunnelState, now: float) -> dict[str, str]:
    details = {
        "tunnel": tunnel.name,
        "kind": tunnel.kind,
        "destinations": ", ".join(str(d.staff_side) for d in tunnel.destinations),
        "phase": state.phase.value,
        "health": state.health.value,
        "reason": state.reason.value,
        "down_for_seconds": f"{now - state.well_since:.0f}",
        "sessions_tried": str(state.session.number),
        "look_further": f"facilitator status {tunnel.name}; facilitator logs {tunnel.name}",
    }
    if state.failure is not None:
        details["last_error"] = f"{state.failure.reason}: {state.failure.text}"
    if state.asking is not None:
        details["asks"] = state.asking.question.text
        details["answer_with"] = _answer_with(tunnel, state.asking)
        details["asks_for_seconds"] = f"{max(0.0, state.asking.until - now):.0f}"
    if state.phase is Phase.BACKOFF and state.deadline is not None:
        details["next_attempt_in_seconds"] = f"{max(0.0, state.deadline - now):.0f}"
    return details


def _answer_with(tunnel: Tunnel, asking: Asking) -> str:
    approval = asking.question.wanted is Wanted.APPROVAL
    return "approve it where the far side says" if approval else f"facilitator answer {tunnel.name}"
