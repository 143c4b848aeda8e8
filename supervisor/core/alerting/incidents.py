"""Which incidents there should be: the tunnels' verdicts, grouped by common cause, and the conditions that
page.

    snapshot -> `flapping.track_outages` -> `verdict.verdicts` -> `grouping.assign`, `group` -> alerts by name

`decide` is a fold over the engine's publications: `IncidentState` is what it remembers from one to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from supervisor.core.alerting.flapping import OutageTracker, track_outages
from supervisor.core.alerting.grouping import GROUP_PREFIX, Causes, assign, group
from supervisor.core.alerting.verdict import Alert, Verdict, condition_alerts, verdicts
from supervisor.core.conditions import Condition
from supervisor.core.snapshot import Snapshot

# Flap damping of conditions: how long one must be gone before its incident is resolved, by how often it has
# come back lately; the last entry also for more.
CLEAR_SECONDS_BY_RECURRENCE = (0.0, 60.0, 300.0, 900.0)
RECURRENCE_MEMORY_SECONDS = 1800.0  # a disappearance longer ago does not count as a recurrence
# After a restart of the daemon, how long incidents of conditions stay open that it has not found again yet.
REDISCOVERY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class OpenCondition:
    """A condition with an open incident."""

    alert: Alert  # as of the last time at which the condition was there
    clear_after: float  # seconds for which it must be gone before the incident is resolved
    resolve_at: float | None = None  # monotonic seconds; None: the condition is there


@dataclass(frozen=True, slots=True)
class IncidentState:
    """What is remembered between two publications. Moments are monotonic seconds."""

    outages: Mapping[str, OutageTracker] = field(default_factory=dict)  # by tunnel
    covered_by: Mapping[str, str] = field(default_factory=dict)  # firing tunnel -> name of its incident
    conditions: Mapping[str, OpenCondition] = field(default_factory=dict)  # by name
    recurrences: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # how often gone, valid until
    inherited: frozenset[str] = frozenset()  # names of incidents that an earlier run left open
    inherited_until: float = 0.0  # after that an inherited condition is resolved


def inherit(names: Collection[str], now: float) -> IncidentState:
    """The state to begin with when an earlier run of the daemon left these incidents open."""
    return IncidentState(inherited=frozenset(names), inherited_until=now + REDISCOVERY_SECONDS)


def decide(
    facilitator: str,
    state: IncidentState,
    snapshot: Snapshot,
    conditions: Mapping[str, Condition],
    causes: Causes,
) -> tuple[IncidentState, dict[str, Alert], float | None]:
    """The next state, the alerts by name (an incident that is not named is over), and the monotonic moment at
    which they may change without any event.
    """
    now = snapshot.now
    outages = track_outages(state.outages, snapshot)
    own, due = verdicts(facilitator, snapshot, outages)
    known = {**{name: name for name in state.inherited if name in own}, **state.covered_by}
    covered_by = assign(known, own, snapshot, causes, state.inherited)
    paging = {name: condition for name, condition in conditions.items() if condition.pages}
    found_again = {*own, *covered_by.values(), *paging}
    recurrences, open_conditions = _follow_conditions(facilitator, state, snapshot, paging)
    after = replace(
        state,
        outages=outages,
        covered_by=covered_by,
        conditions=open_conditions,
        recurrences=recurrences,
        inherited=state.inherited - found_again,
    )
    alerts = group(facilitator, own, covered_by, snapshot) | _condition_alerts(open_conditions)
    for name in after.inherited:
        if _stays_open(name, after, own, snapshot, causes):
            alerts[name] = Alert(name, Verdict.HOLD, "info", "", now, {}, name)
    return after, alerts, min((each for each in _moments(after, due) if each > now), default=None)


def _moments(state: IncidentState, due: float | None) -> Iterator[float]:
    """The moments at which the alerts may change without any event."""
    if due is not None:
        yield due
    for each in state.conditions.values():
        if each.resolve_at is not None:
            yield each.resolve_at
    if any(not name.startswith(GROUP_PREFIX) for name in state.inherited):
        yield state.inherited_until


def _follow_conditions(
    facilitator: str, state: IncidentState, snapshot: Snapshot, conditions: Mapping[str, Condition]
) -> tuple[dict[str, tuple[int, float]], dict[str, OpenCondition]]:
    """The recurrences and the conditions with an open incident. While the daemon drains no new one is opened;
    an open one is resolved some time after the condition is gone.
    """
    now = snapshot.now
    recurrences = {name: each for name, each in state.recurrences.items() if each[1] > now}
    followed: dict[str, OpenCondition] = {}
    for name, known in state.conditions.items():
        gone = known
        if known.resolve_at is None and name not in conditions:
            times, _ = recurrences.get(name, (0, 0.0))
            damping = CLEAR_SECONDS_BY_RECURRENCE[min(times, len(CLEAR_SECONDS_BY_RECURRENCE) - 1)]
            gone = replace(known, resolve_at=now + max(known.clear_after, damping))
            recurrences[name] = times + 1, now + RECURRENCE_MEMORY_SECONDS
        if name in conditions or gone.resolve_at is None or gone.resolve_at > now:
            followed[name] = gone
    for name, alert in condition_alerts(facilitator, _paging(conditions, snapshot), now).items():
        if name in followed or not snapshot.draining:
            since = followed[name].alert.since if name in followed else now
            dated = replace(alert, since=since, moments={"since": since})
            followed[name] = OpenCondition(dated, conditions[name].clear_after)
    return recurrences, followed


def _paging(conditions: Mapping[str, Condition], snapshot: Snapshot) -> dict[str, Condition]:
    """The conditions but for those of tunnels that never page."""
    mute = {name for name, (tunnel, _) in snapshot.tunnels.items() if not tunnel.alert.enabled}
    return {name: each for name, each in conditions.items() if each.tunnel not in mute}


def _condition_alerts(conditions: Mapping[str, OpenCondition]) -> dict[str, Alert]:
    return {
        name: each.alert if each.resolve_at is None else replace(each.alert, verdict=Verdict.HOLD)
        for name, each in conditions.items()
    }


def _stays_open(
    name: str, state: IncidentState, own: Mapping[str, Alert], snapshot: Snapshot, causes: Causes
) -> bool:
    """True if an inherited incident is kept open: a group while one of its tunnels may belong to it, a
    condition for some time.
    """
    if not name.startswith(GROUP_PREFIX):
        return snapshot.now < state.inherited_until
    dependants = (each for each in own if any(cause.incident == name for cause in causes.get(each, ())))
    return any(own[each].verdict is not Verdict.CLEAR and each not in state.covered_by for each in dependants)
