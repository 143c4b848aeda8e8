"""What is wrong, named, so that status, page, incidents and people speak of the same thing.

what the parts of the daemon find, and `of_tunnels` -> `seen` -> what people see: what has lasted, and no
other condition explains
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from supervisor.core.session.liveness import dead_leg
from supervisor.core.state import Snapshot, Want, well

UPLINK = "uplink"  # the condition that this host's own way out is dead
DOWN = "tunnels-down"  # the one that tunnels do not work
_NAMED = 8  # tunnels that a sentence names


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong now, in a sentence."""

    text: str
    severity: str = "error"  # PagerDuty's word
    look_further: str = "facilitator status"  # the command that shows more
    after: float = 0.0  # seconds for which it must last before anybody sees it
    explained_by: str = ""  # the condition that is reason enough for it
    calls: bool = True  # somebody is called for it; else others call for the same thing
    clear_after: float = 60.0  # seconds for which it must be gone before its incident is resolved
    tunnel: str = ""  # the one tunnel that it is about: whoever is called for that is called for this


@dataclass(frozen=True, slots=True)
class VisibleConditions:
    """What is seen of the conditions. Moments are monotonic seconds."""

    since: Mapping[str, float]  # when each began that nothing else explains
    shown: Mapping[str, Condition]
    due: float | None  # when another one may be seen without any event


def seen(since: Mapping[str, float], found: Mapping[str, Condition], now: float) -> VisibleConditions:
    """Who sees what now; `since` is what the last sight said. What was explained begins anew when its
    explanation is gone.
    """
    own = {name: each for name, each in found.items() if each.explained_by not in found}
    began = {name: since.get(name, now) for name in own}
    later = [began[name] + each.after for name, each in own.items() if began[name] + each.after > now]
    return VisibleConditions(
        began,
        {name: each for name, each in own.items() if began[name] + each.after <= now},
        min(later, default=None),
    )


def of_tunnels(snapshot: Snapshot) -> dict[str, Condition]:
    """What is wrong with tunnels: those that do not work in one sentence, for they call by themselves, and
    each that works badly.
    """
    found = {f"degraded:{condition.tunnel}": condition for condition in _degraded(snapshot)}
    if down := list(_down(snapshot)):
        wanted = sum(state.want is Want.UP for _, state in snapshot.tunnels.values())
        names = ", ".join(down[:_NAMED]) + (f" and {len(down) - _NAMED} more" if len(down) > _NAMED else "")
        text = f"{len(down)} of {wanted} tunnels {'does' if len(down) == 1 else 'do'} not work: {names}"
        found[DOWN] = Condition(text, explained_by=UPLINK, calls=False)
    return found


def _degraded(snapshot: Snapshot) -> Iterator[Condition]:
    for name, (tunnel, state) in snapshot.tunnels.items():
        degraded = state.liveness.degraded
        if degraded is not None and well(tunnel, state):
            text = f"tunnel {name} works badly: {degraded}"
            further = f"facilitator status {name}; facilitator history {name}"
            yield Condition(text, "warning", further, tunnel.alert.after, UPLINK, tunnel=name)


def _down(snapshot: Snapshot) -> Iterator[str]:
    """Those that had their time to come back, and which part of their way is dead."""
    for name, (tunnel, state) in snapshot.tunnels.items():
        over = max(state.well_since, snapshot.uplink.since) + tunnel.alert.after <= snapshot.now
        if state.want is Want.UP and over and not well(tunnel, state):
            leg = dead_leg(tunnel, state, snapshot.uplink)
            yield name if leg is None else f"{name} ({leg})"
