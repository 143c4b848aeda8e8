"""Which destinations are announced to routers, with which metric: a function of the snapshot and of what was
announced before.

    snapshot, who carries what -> announce -> Announcements -> routes in a table that a BGP speaker reads

The metric says how well a destination works here, and routers compare it (BGP: MED) between the members of
the fleet: the lowest one carries. No member needs to know of another. P is `preference`, 100 by default:

| metric | the tunnel that carries the destination here |
|---|---|
| 90 (P - 10, if that is less) | works, and routers send new flows of staff here: it carries |
| P | works |
| P + 100 | works since less than `SETTLED_SECONDS`, or a round of its probes is overdue: it stands by |
| 5000 | takes no new flows and is about to end |
| 9000 | does not work: whoever has nothing better rejects the packets by ICMP |
| none | was stopped |

So nothing is taken back: a member that recovers says P, one that carries meanwhile says 90. One that was cut
off for too short a time to notice it says 90, too, until it hears that the other one does
(`events.CarriedElsewhere`). That a tunnel
which came back is not trusted for some seconds costs nothing where nobody else has the destination: the
router then has no better route, and the first flow that comes shows that it is needed here. And where it
works nowhere, everybody says 9000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from supervisor.core.network.compose import Announcing
from supervisor.core.network.failover import Carriers, DestinationIndex, Rivals, directory
from supervisor.core.network.lanes import lane_of
from supervisor.core.network.plan import Announced, NetworkPlan, Offer
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, TunnelState, Want, sound, well
from tunnels.settings import Tunnel

SETTLED_SECONDS = (
    10.0  # that a tunnel must have worked without a doubt, before it is announced as one that works
)
CARRYING_METRIC = 90  # at most: less than that of any member that only could carry
STANDBY_PENALTY = 100  # added to the preference of what works and is not trusted yet, or not any more
DRAINING_METRIC = 5000
LAST_METRIC = 9000
NOTICE_SECONDS = 1.0  # from the announcement that a tunnel takes no new flows to its planned end


class GroupOffer(NamedTuple):
    """How the destinations that the same tunnels reach are announced."""

    tunnel: str  # that carries them
    lane: int
    offer: Offer
    metric: int
    since: float  # monotonic seconds at which they got this metric


@dataclass(frozen=True, slots=True)
class Announcements:
    """What is announced now."""

    routes: tuple[Announced, ...] = ()  # one and the same object while nothing changes
    standings: Mapping[Rivals, GroupOffer] = field(default_factory=dict)
    due: float | None = None  # the monotonic moment at which it changes without any event
    directory: DestinationIndex | None = None  # that it was made from


def with_announcements(
    plan: NetworkPlan, announcing: Announcing | None, announcements: Announcements
) -> NetworkPlan:
    """The plan in which they are announced."""
    if announcing is None:
        return plan
    return replace(plan, announced=announcements.routes, announced_in=announcing.table)


def announce(
    announcing: Announcing | None,
    snapshot: Snapshot,
    carriers: Carriers,
    lanes: Mapping[str, int],
    before: Announcements,
) -> Announcements:
    """What is announced for this snapshot; `announcing`: None if nothing is, `carriers`: who carries which
    destination, `lanes`: of each tunnel's first slot, `before`: what was announced until now.
    """
    if announcing is None:
        return Announcements()
    known = directory([tunnel for tunnel, _ in snapshot.tunnels.values()], carriers)
    standings: dict[Rivals, GroupOffer] = {}
    moments: list[float] = []
    for network, ranked in known.ranked.items():
        if ranked in standings:
            continue
        name = carriers.get(network, ranked[0])
        tunnel, state = snapshot.tunnels[name]
        earlier = before.standings.get(ranked)
        judged = _judged(tunnel, state, snapshot.now, earlier)
        if judged is None:
            continue
        lane = lane_of(lanes[name], state.session.slot)
        preference = announcing.preference
        standings[ranked] = _standing(judged, earlier, name, lane, preference, snapshot.now)
        if judged.due is not None:
            moments.append(judged.due)
    due = min(moments, default=None)
    if known is before.directory and standings == before.standings:
        return before if due == before.due else _with_due(before, due)
    return Announcements(tuple(_routes(known, standings)), standings, due, known)


def _with_due(before: Announcements, due: float | None) -> Announcements:
    return Announcements(before.routes, before.standings, due, before.directory)


def _routes(known: DestinationIndex, standings: Mapping[Rivals, GroupOffer]) -> Iterator[Announced]:
    for network, ranked in known.ranked.items():
        standing = standings.get(ranked)
        if standing is not None:
            name, lane, offer, metric, since = standing
            yield Announced(network, name, lane, metric, since, offer)


class _Judged(NamedTuple):
    offer: Offer
    since: float  # monotonic seconds, as the tunnel's state tells; after that, what was announced before does
    due: float | None = None  # the moment at which it changes without any event


def _judged(tunnel: Tunnel, state: TunnelState, now: float, before: GroupOffer | None) -> _Judged | None:
    """None: it is not announced."""
    if state.want is Want.DOWN or (state.phase is Phase.STOPPED and state.drain is None):
        return None
    if not well(tunnel, state):
        return _Judged(Offer.LAST, state.well_since)
    return _Judged(Offer.DRAINS, now) if state.drain is not None else _works(tunnel, state, now, before)


def _works(tunnel: Tunnel, state: TunnelState, now: float, before: GroupOffer | None) -> _Judged:
    if not sound(tunnel, state):
        return _Judged(Offer.STANDS_BY, state.sound_since)
    settled = state.sound_since + SETTLED_SECONDS
    kept = before is not None and before.offer is Offer.CARRIES and now >= settled
    if state.chosen_since is not None or kept:
        return _Judged(Offer.CARRIES, state.chosen_since or now)
    if now < settled:
        return _Judged(Offer.STANDS_BY, state.sound_since, settled)
    return _Judged(Offer.WORKS, settled)


def _standing(
    judged: _Judged, before: GroupOffer | None, name: str, lane: int, preference: int, now: float
) -> GroupOffer:
    metric, offer = metric_of(judged.offer, preference), judged.offer
    if before is None:
        return GroupOffer(name, lane, offer, metric, min(now, judged.since))
    return GroupOffer(name, lane, offer, metric, before.since if before.metric == metric else now)


def metric_of(offer: Offer, preference: int) -> int:
    """The metric that tells routers so."""
    match offer:
        case Offer.CARRIES:
            return max(1, min(CARRYING_METRIC, preference - 10))
        case Offer.WORKS:
            return preference
        case Offer.STANDS_BY:
            return preference + STANDBY_PENALTY
        case Offer.DRAINS:
            return DRAINING_METRIC
        case Offer.LAST:
            return LAST_METRIC


def works(announced: Announced) -> bool:
    """It works here, and new flows are welcome."""
    return announced.offer not in (Offer.DRAINS, Offer.LAST)


MEANINGS: Mapping[Offer, str] = {
    Offer.CARRIES: "it works, and routers send new flows here",
    Offer.WORKS: "it works here",
    Offer.STANDS_BY: "it works here, but is not trusted yet, or is doubted",
    Offer.DRAINS: "it takes no new flows",
    Offer.LAST: "it does not work here",
}


def undecided(announced: Sequence[Announced], snapshot: Snapshot) -> frozenset[str]:
    """The tunnels that work and of which it is not known whether routers send new flows here."""
    names = {each.tunnel for each in announced if works(each)}
    states = ((name, *snapshot.tunnels[name]) for name in names if name in snapshot.tunnels)
    return frozenset(
        [name for name, tunnel, state in states if state.chosen_since is None and sound(tunnel, state)]
    )


def metrics_by_destination(plan: NetworkPlan) -> Mapping[str, int] | None:
    """The metric of each destination, 0: it is not announced; None: nothing ever is."""
    if plan.announced_in is None:
        return None
    return {str(each.network): 0 for each in plan.carries} | {
        str(each.network): each.metric for each in plan.announced
    }
