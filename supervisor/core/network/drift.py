"""Drift: what others changed of ours in the kernel, and whether it is put back now.

    judge(believed, changes (from what was found to what is wanted), guard, now) -> Repair | RateLimited

Repairs are rate-limited (`common.token_bucket`). Another program that changes the same thing again and again
would otherwise keep this host busy for ever: that is a fight, which people are told of, and which is over
after some seconds without drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from common.token_bucket import TokenBucket
from supervisor.core.network.changes import Change, Op
from supervisor.core.network.layout import Element, HostFeatures, Layout, Route, Table
from supervisor.core.network.plan import Lane
from supervisor.core.network.rules import Rule
from supervisor.core.network.wanted import open_routes

REPAIR_BURST = 20  # repairing rounds in a row before the rate limit counts
REPAIRS_PER_SECOND = 2.0  # repairing rounds after that
FIGHT_OVER_SECONDS = 5.0  # without drift, after which a fight is over
SHOWN_CHANGES = 5  # in one line of the log
FIGHT = "another program keeps changing facilitator's kernel state; repairs are slowed down"
REPAIRING = "repairing what was changed from outside"

_WORDS: Mapping[type, str] = {Route: "route", Rule: "rule", Table: "table", Element: "element"}


@dataclass(frozen=True, slots=True)
class DriftGuard:
    """What is remembered from one reading of the kernel to the next."""

    bucket: TokenBucket = TokenBucket(REPAIR_BURST, REPAIRS_PER_SECOND)
    fighting: str = ""  # what is fought about; "": nothing
    over_at: float = 0.0  # monotonic seconds at which a fight will be over


@dataclass(frozen=True, slots=True)
class Repair:
    """Carry out the changes now."""

    guard: DriftGuard
    drift: tuple[Change, ...]  # those of the changes that undo what others did
    announcement: str = ""  # for the log
    recheck_seconds: float | None = None  # look again after this time, to see that a fight is over


@dataclass(frozen=True, slots=True)
class RateLimited:
    """Carry out nothing before the rate limit lets us."""

    guard: DriftGuard
    drift: tuple[Change, ...]
    announcement: str
    recheck_seconds: float


def is_drift(change: Change, believed: Layout) -> bool:
    """It undoes what somebody else did: takes away what we did not put there, or puts back what we did."""
    return (change.item in believed) is (change.op is Op.ADD)


def judge(believed: Layout, changes: Iterable[Change], guard: DriftGuard, now: float) -> Repair | RateLimited:
    """What to do about the changes that a reading shows to be necessary. `now`: monotonic seconds."""
    drift = tuple(change for change in changes if is_drift(change, believed))
    if not drift:
        return _repair(guard, drift, now)
    guard = replace(guard, bucket=guard.bucket.at_time(now), over_at=now + FIGHT_OVER_SECONDS)
    rest = guard.bucket.take()
    if rest is not None:
        return _repair(replace(guard, bucket=rest), drift, now)
    about = f"{FIGHT}: {', '.join(map(str, drift[:SHOWN_CHANGES]))}"
    announcement = "" if guard.fighting else FIGHT
    return RateLimited(replace(guard, fighting=about), drift, announcement, guard.bucket.wait_seconds)


def _repair(guard: DriftGuard, drift: tuple[Change, ...], now: float) -> Repair:
    announcement = REPAIRING if drift and not guard.fighting else ""
    if guard.fighting and now < guard.over_at:
        return Repair(guard, drift, announcement, guard.over_at - now)
    return Repair(replace(guard, fighting=""), drift, announcement)


def summary(changes: Sequence[Change]) -> dict[str, object]:
    """The first few, and how many, for the log."""
    return {"changes": [str(change) for change in changes[:SHOWN_CHANGES]], "count": len(changes)}


def repair_counts(done: Collection[Change], believed: Layout) -> Counter[str]:
    """How many routes, rules, tables and elements were put back. A table that was recreated counts once,
    without its elements.
    """
    rebuilt = Change(Op.ADD, Table()) in done
    return Counter(
        _WORDS[type(change.item)]
        for change in done
        if is_drift(change, believed) and not (rebuilt and isinstance(change.item, Element))
    )


def no_repairs() -> Counter[str]:
    """Every sort of repair at 0, so that a first one is an increase for whoever reads the metric."""
    return Counter(dict.fromkeys((*_WORDS.values(), "device"), 0))


def follow_devices(
    lanes: Iterable[Lane],
    host: HostFeatures,
    installed: AbstractSet[Route],
    added: AbstractSet[Route],
    routed: AbstractSet[int],
) -> tuple[int, frozenset[int]]:
    """How many routes into tunnels came back with their interface, and the lanes whose route is in.

    The kernel takes a route away with its interface. `routed`: lanes whose route was in since they came up,
    so that one of `added` puts it back; `installed`: routes that are in now.
    """
    back, now_routed = 0, set(routed)
    tables = {route.table for route in added}
    for lane in lanes:
        if lane.device is None or not lane.up or (lane.number not in tables and lane.number in routed):
            continue  # nearly all of them, at each change
        routes = set(open_routes(lane, host))
        back += bool(routes & added) and lane.number in routed
        if routes & installed:
            now_routed.add(lane.number)
    return back, frozenset(now_routed)
