"""What a member does because of the orders that hold, and when it is done."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping

from supervisor.core.events import Asked
from supervisor.core.fleet.orders import Demands, FleetOrder, OrderKind, address_of
from supervisor.core.identity.book import Holding
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, TunnelState, Want
from tunnels.base import Reason
from tunnels.networks import IPAddress

Present = Mapping[IPAddress, Holding]


def obeying(
    before: Demands, now: Demands, snapshot: Snapshot, stopped_here: Container[str], until: float
) -> Iterator[Asked]:
    """What the tunnels are asked for. `before`: the demands until now; `stopped_here`: tunnels that this
    member's own operator has stopped, which no lifted order starts; `until`: the moment (monotonic seconds)
    by which a drain that begins now is over.
    """
    if snapshot.draining:
        return  # all of it ends anyway
    for name, (_, state) in snapshot.tunnels.items():
        down = state.want is Want.DOWN
        if name in now.stopped:
            if not down:
                yield Asked(name, reason=Reason.STOPPED)
        elif now.drained:
            if not down and state.drain is None:
                yield Asked(name, reason=Reason.STOPPED, until=until)
        elif name not in stopped_here and (before.hold(name) or _drains_for_nothing(state)):
            yield Asked(name, reason=Reason.STARTED)


def _drains_for_nothing(state: TunnelState) -> bool:
    """It still drains because of an order that was lifted while no daemon ran."""
    return state.drain is not None and state.drain.reason is Reason.STOPPED


def finished(
    orders: Iterable[FleetOrder],
    member: str,
    snapshot: Snapshot,
    denied: Collection[IPAddress],
    present: Present | None = None,
) -> dict[str, str]:
    """The orders that are carried out here, by name, with what there is to add. `denied`: the addresses that
    the kernel lets in no more; `present`: who is known to have which address, None: there is no hub.
    """
    found = {order.id: _done(order, member, snapshot, denied, present) for order in orders}
    return {id: text for id, text in found.items() if text is not None}


def _done(
    order: FleetOrder, member: str, snapshot: Snapshot, denied: Collection[IPAddress], present: Present | None
) -> str | None:
    """None: not yet."""
    match order.kind:
        case OrderKind.STOP:
            if order.subject not in snapshot.tunnels:
                return "has no such tunnel"
            return "" if _is_over(snapshot.tunnels[order.subject][1]) else None
        case OrderKind.DRAIN:
            states = [state for _, state in snapshot.tunnels.values()] if order.subject == member else []
            takes_new = any(state.want is Want.UP and state.drain is None for state in states)
            return None if takes_new else ""
        case OrderKind.END_USER:
            address = address_of(order.subject)
            if address is not None:
                return "" if address in denied else None
            if present is None:
                return "knows no people: hub is not configured"
            return "" if addresses_of(present, [order.subject]) <= set(denied) else None


def addresses_of(present: Present, people: Container[str]) -> set[IPAddress]:
    """The addresses that these people have now."""
    return {address for address, holding in present.items() if holding.person in people}


def _is_over(state: TunnelState) -> bool:
    return state.phase is Phase.STOPPED and state.standby is None
