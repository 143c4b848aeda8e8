"""Which incidents there shall be: the tunnels' verdicts, gathered where they have a common cause, and the
conditions beside them.

The engine folds `called` over its publications. What must be remembered between two of them is in
`IncidentState`: an incident that is open stays the one incident for its tunnels until they are well, whatever
happens around them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from supervisor.core.alerting.flapping import OutageTracker, follow
from supervisor.core.alerting.grouping import PREFIX, SharedCause, cover, gathered
from supervisor.core.alerting.verdict import Alert, Verdict, about, verdicts
from supervisor.core.conditions import Condition
from supervisor.core.state import Snapshot

# Seconds for which a condition that came back so often must be gone before its incident is resolved: one that
# flaps stays one.
PATIENCE = (0.0, 60.0, 300.0, 900.0)
FORGOTTEN = 1800.0  # seconds after which it no longer counts that a condition was there before
# seconds after the start of the daemon in which a condition of before is noticed again, if it lasts
FOUND_AGAIN = 120.0


@dataclass(frozen=True, slots=True)
class IncidentState:
    """What is remembered between two publications. Moments are monotonic seconds."""

    troubles: Mapping[str, OutageTracker] = field(default_factory=dict)
    under: Mapping[str, str] = field(
        default_factory=dict
    )  # tunnels for which somebody is called: by which incident
    conditions: Mapping[str, Alert] = field(
        default_factory=dict
    )  # those with an incident, as they were last seen
    gone: Mapping[str, float] = field(default_factory=dict)  # those of them that are gone: when they are over
    clear_after: Mapping[str, float] = field(
        default_factory=dict
    )  # seconds for which each of these must be gone
    returns: Mapping[str, tuple[int, float]] = field(
        default_factory=dict
    )  # how often one has gone lately, and until when that counts
    left: frozenset[str] = frozenset()  # names of incidents that an earlier run left open
    left_until: float = 0.0  # after that a condition among them is over


def resumed(names: Collection[str], now: float) -> IncidentState:
    """Where to begin when an earlier run left these incidents open."""
    return IncidentState(left=frozenset(names), left_until=now + FOUND_AGAIN)


def called(
    facilitator: str,
    calls: IncidentState,
    snapshot: Snapshot,
    conditions: Mapping[str, Condition],
    ties: Mapping[str, tuple[SharedCause, ...]],
) -> tuple[IncidentState, dict[str, Alert], float | None]:
    """What to remember, the alerts by name (one that is not named is over), and the moment at which they
    may change by themselves.
    """
    troubles = follow(calls.troubles, snapshot)
    own, due = verdicts(facilitator, snapshot, troubles)
    under = cover({**{n: n for n in calls.left if n in own}, **calls.under}, own, snapshot, ties, calls.left)
    conditions = {name: each for name, each in conditions.items() if each.calls}
    left = frozenset(
        n for n in calls.left if n not in own and n not in under.values() and n not in conditions
    )
    after = _conditions(
        facilitator, replace(calls, troubles=troubles, under=under, left=left), snapshot, conditions
    )
    alerts = gathered(facilitator, own, under, snapshot) | _of_conditions(after, conditions)
    alerts |= {
        name: _held(name, snapshot.now) for name in left if _may_last(name, after, own, snapshot, ties)
    }
    moments = [
        due,
        *after.gone.values(),
        after.left_until if any(not n.startswith(PREFIX) for n in left) else None,
    ]
    return (
        after,
        alerts,
        min((moment for moment in moments if moment is not None and moment > snapshot.now), default=None),
    )


def _conditions(
    facilitator: str, calls: IncidentState, snapshot: Snapshot, conditions: Mapping[str, Condition]
) -> IncidentState:
    """While the daemon drains nobody is called for a new one; what was open is over some time after it is
    gone.
    """
    now, known = snapshot.now, dict(calls.conditions)
    returns = {name: each for name, each in calls.returns.items() if each[1] > now}
    gone = {name: calls.gone[name] for name in known if name not in conditions and name in calls.gone}
    for name in [name for name in known if name not in conditions and name not in calls.gone]:
        times, _ = returns.get(name, (0, 0.0))
        gone[name] = now + max(calls.clear_after[name], PATIENCE[min(times, len(PATIENCE) - 1)])
        returns[name] = times + 1, now + FORGOTTEN
    for name in [name for name, over in gone.items() if over <= now]:
        del known[name], gone[name]
    for name, alert in about(facilitator, conditions, now).items():
        if name in known or not snapshot.draining:
            since = known[name].since if name in known else now
            known[name] = replace(alert, since=since, moments={"since": since})
    clear_after = {
        name: conditions[name].clear_after if name in conditions else calls.clear_after[name]
        for name in known
    }
    return replace(calls, conditions=known, gone=gone, clear_after=clear_after, returns=returns)


def _of_conditions(calls: IncidentState, conditions: Mapping[str, Condition]) -> dict[str, Alert]:
    return {
        n: alert if n in conditions else replace(alert, verdict=Verdict.HOLD)
        for n, alert in calls.conditions.items()
    }


def _held(name: str, now: float) -> Alert:
    return Alert(name, Verdict.HOLD, "info", "", now, {}, name)


def _may_last(
    name: str,
    calls: IncidentState,
    own: Mapping[str, Alert],
    snapshot: Snapshot,
    ties: Mapping[str, tuple[SharedCause, ...]],
) -> bool:
    """Is an incident of an earlier run kept open: a group while one of its tunnels may be of it, a
    condition for a while.
    """
    if not name.startswith(PREFIX):
        return snapshot.now < calls.left_until
    tied = (n for n in own if any(tie.incident == name for tie in ties.get(n, ())))
    return any(own[n].verdict is not Verdict.CLEAR and n not in calls.under for n in tied)
