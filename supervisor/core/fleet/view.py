"""The view of a whole fleet: members, tunnels by member, orders and who follows them. It is what
`facilitator fleet status`, the status page and the metrics show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from supervisor.core.fleet.member_status import MemberStatus, read_status
from supervisor.core.fleet.orders import (
    Acknowledgement,
    FleetOrder,
    OrderKind,
    order_name,
    read_acknowledgement,
)
from supervisor.core.fleet.values import MEMBER_NAME, MOST_MEMBERS
from supervisor.core.humanize import iso
from supervisor.core.views.documents import FleetDocument, FleetMemberEntry, FleetOrderEntry, FleetTunnelEntry

Acknowledgements = Mapping[str, Mapping[str, Acknowledgement]]  # by the name of the order, then by member


@dataclass(frozen=True, slots=True)
class FleetSight:
    """What was last read of a fleet."""

    statuses: Mapping[str, MemberStatus] = field(default_factory=dict)  # of the members that are up
    orders: tuple[FleetOrder, ...] = ()
    acknowledgements: Acknowledgements = field(default_factory=dict)
    silent: Mapping[str, float] = field(default_factory=dict)  # Unix time since which a member is not up
    unknown: Mapping[str, str] = field(default_factory=dict)  # by member: why nothing is known of it
    problems: tuple[str, ...] = ()
    source: str = "none"  # engine, members, none


def read_statuses(found: Mapping[str, str]) -> tuple[dict[str, MemberStatus], dict[str, str]]:
    """The statuses of the members in the engine's values; and why others are not understood."""
    statuses: dict[str, MemberStatus] = {}
    unknown: dict[str, str] = {}
    for name, content in sorted(found.items()):
        if not MEMBER_NAME.fullmatch(name) or len(statuses) + len(unknown) >= MOST_MEMBERS:
            continue
        try:
            statuses[name] = read_status(content)
        except ValueError as error:
            unknown[name] = f"its status is not understood: {error}"
    return statuses, unknown


def read_acknowledgements(found: Mapping[str, str]) -> Acknowledgements:
    """Acknowledgements by the engine's keys `ORDER/MEMBER`. What is not understood is none."""
    read: dict[str, dict[str, Acknowledgement]] = {}
    for key, content in found.items():
        id, _, member = key.rpartition("/")
        try:
            order_name(id)
            if MEMBER_NAME.fullmatch(member):
                read.setdefault(id, {})[member] = read_acknowledgement(content)
        except ValueError:
            continue
    return read


def seen(
    before: Mapping[str, float], up: Iterable[str], known: Iterable[str], now: float
) -> dict[str, float]:
    """Since when each known member is not up; `before`: what this has said until now."""
    up = set(up)
    return {name: before.get(name, now) for name in {*before, *known} - up}


def expected(sight: FleetSight, configured: Iterable[str]) -> list[str]:
    """The members that have to acknowledge an order: those of the configuration, and who else is up."""
    return sorted({*configured, *sight.statuses, *sight.unknown})


def no_such_subject(
    order: FleetOrder, sight: FleetSight, configured: Iterable[str], tunnels: Iterable[str]
) -> str | None:
    """The sentence why nobody could follow this order, because nobody has such a tunnel or name. `tunnels`:
    those of the configuration that is at hand.
    """
    if order.kind is OrderKind.STOP:
        others = (tunnel.name for status in sight.statuses.values() for tunnel in status.tunnels)
        return None if order.subject in {*tunnels, *others} else f"no member has a tunnel {order.subject}"
    known = expected(sight, configured)
    if order.kind is OrderKind.DRAIN and order.subject not in known:
        return f"no such member: {order.subject}; there are {', '.join(known)}"
    return None


def fleet_document(
    fleet: str, member: str | None, configured: Iterable[str], sight: FleetSight
) -> FleetDocument:
    """The answer to `GET /api/v1/fleet`. `member`: the one that answers; `configured`: all that its
    configuration names, itself among them.
    """
    members = expected(sight, configured)
    return {
        "fleet": fleet,
        "member": member,
        "source": sight.source,
        "problems": list(sight.problems),
        "members": [_member(name, sight) for name in members],
        "tunnels": _tunnels(sight.statuses),
        "orders": [order_entry(order, sight, members) for order in sight.orders],
    }


def order_entry(order: FleetOrder, sight: FleetSight, members: Iterable[str]) -> FleetOrderEntry:
    """One order, with what these members say about it."""
    said = {
        name: answer
        for name, answer in sight.acknowledgements.get(order.id, {}).items()
        if answer.given == order.given
    }
    return {
        "id": order.id,
        "kind": order.kind.value,
        "subject": order.subject,
        "by": order.by,
        "why": order.why,
        "given": order.given,
        "acknowledged": [
            {"member": name, "at": answer.at, "done": answer.done, "text": answer.text}
            for name, answer in sorted(said.items())
        ],
        "missing": [name for name in members if name not in said],
    }


def _member(name: str, sight: FleetSight) -> FleetMemberEntry:
    status, since = sight.statuses.get(name), sight.silent.get(name)
    return {
        "name": name,
        "up": status is not None,
        "version": None if status is None else status.version,
        "drained": status is not None and status.drained,
        "silent_since": None if since is None or status is not None else iso(since),
        "problem": sight.unknown.get(name),
    }


def _tunnels(statuses: Mapping[str, MemberStatus]) -> list[FleetTunnelEntry]:
    found: dict[str, FleetTunnelEntry] = {}
    for member, status in sorted(statuses.items()):
        for tunnel in status.tunnels:
            entry = found.setdefault(tunnel.name, {"name": tunnel.name, "members": {}})
            entry["members"][member] = {"standing": tunnel.standing.value, "locked": tunnel.locked}
    return [found[name] for name in sorted(found)]
