"""Orders to all members of a fleet. An order is a level: it holds until it is removed, also for a member that
boots later or cannot reach the lock engine.

    orders/KIND.SUBJECT -> reading(...) -> FleetOrder -> demands(orders, member) -> what this member must do
                                                      -> acks/KIND.SUBJECT/MEMBER
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from supervisor.core.fleet.values import MEMBER_NAME, PERSON_NAME, TUNNEL_NAME, ForeignObject, people_text
from tunnels.networks import IPAddress

MOST_ORDERS = 500  # that can hold at one moment
ORDER_CHARACTERS = 4_096  # of one order, or of one acknowledgement


class OrderKind(enum.StrEnum):
    """What is ordered."""

    STOP = "stop"  # a tunnel is down on every member
    DRAIN = "drain"  # a member takes no new flows; those that run go on there
    END_USER = "end-user"  # the flows of a staff address or of a person end, and they are let in nowhere


@dataclass(frozen=True, slots=True)
class FleetOrder:
    """One order. Its kind and subject are its name: the same order twice is one order."""

    kind: OrderKind
    subject: str  # name of a tunnel or of a member; an address or the name of a person
    by: str = ""  # who has given it
    why: str = ""
    given: float = 0.0  # Unix time in seconds: tells an order from a later one of the same name

    @property
    def id(self) -> str:
        """Its name in the engine."""
        return f"{self.kind}.{self.subject}"

    @property
    def content(self) -> str:
        """Its value in the engine."""
        value = {"format": 1, "by": self.by, "why": self.why, "given": self.given}
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class OrderReading:
    """What the engine's values mean."""

    orders: tuple[FleetOrder, ...] = ()
    problems: tuple[str, ...] = ()  # values that are not understood, a sentence each


@dataclass(frozen=True, slots=True)
class Demands:
    """What one member must do under all orders that hold."""

    stopped: frozenset[str] = frozenset()  # names of tunnels
    drained: bool = False
    denied: tuple[IPAddress, ...] = ()  # whose flows end, and who are let in nowhere
    people: frozenset[str] = frozenset()  # the same for wherever these are, as the hub says

    def hold(self, tunnel: str) -> bool:
        """The tunnel may not be started on this member."""
        return self.drained or tunnel in self.stopped


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What a member says about an order that it follows."""

    given: float  # of the order that it is about
    at: float  # Unix time in seconds at which the member had taken it over
    done: bool = False  # what it demands is so, not only under way
    text: str = ""  # what there is to add

    @property
    def content(self) -> str:
        """Its value in the engine."""
        value = {"format": 1, "given": self.given, "at": self.at, "done": self.done, "text": self.text}
        return json.dumps(value, ensure_ascii=False)


NO_DEMANDS = Demands()
_PROBLEM_CHARACTERS = 400  # of the sentence about one
_MOST_PROBLEMS = 5  # that are told one by one


def order_name(id: str) -> tuple[OrderKind, str]:
    """The kind and the subject in the name of an order. ValueError says what is wrong."""
    word, _, subject = id.partition(".")
    if word not in set(OrderKind):
        raise ValueError(f"there is no order {word[:40]!r}; there are {', '.join(OrderKind)}")
    kind = OrderKind(word)
    return kind, checked_subject(kind, subject)


def address_of(subject: str) -> IPAddress | None:
    """The address that an order is about; None: it is about a person."""
    try:
        return ip_address(subject)
    except ValueError:
        return None


def checked_subject(kind: OrderKind, subject: str) -> str:
    """The subject as an order of this kind writes it. ValueError says what is wrong."""
    if kind is OrderKind.END_USER:
        address = address_of(subject)
        if address is None and not PERSON_NAME.fullmatch(subject):
            raise ValueError(f"{subject[:80]!r} is neither an address nor the name of a person")
        if getattr(address, "scope_id", None) is not None:
            raise ValueError(f"{subject[:80]!r} has a zone; staff addresses have none")
        return subject if address is None else str(address)
    pattern, what = (TUNNEL_NAME, "tunnel") if kind is OrderKind.STOP else (MEMBER_NAME, "member")
    if not pattern.fullmatch(subject):
        raise ValueError(f"{subject[:80]!r} is not a name of a {what}")
    return subject


def new_order(word: str, subject: str, by: str, why: str, given: float) -> FleetOrder:
    """An order that somebody gives now. ValueError says what is wrong."""
    kind, subject = order_name(f"{word}.{subject}")
    return FleetOrder(kind, subject, people_text(by), people_text(why), given)


def read_order(id: str, content: str) -> FleetOrder:
    """The order in a value of the engine. ValueError says what is wrong."""
    kind, subject = order_name(id)
    if f"{kind}.{subject}" != id:
        raise ValueError(f"its name should be {kind}.{subject}")
    found = ForeignObject.read(content, ORDER_CHARACTERS)
    return FleetOrder(kind, subject, found.text("by"), found.text("why"), found.moment("given"))


def read_acknowledgement(content: str) -> Acknowledgement:
    """The acknowledgement in a value of the engine. ValueError says what is wrong."""
    found = ForeignObject.read(content, ORDER_CHARACTERS)
    return Acknowledgement(found.moment("given"), found.moment("at"), found.flag("done"), found.text("text"))


def reading(before: Iterable[FleetOrder], found: Mapping[str, str]) -> OrderReading:
    """The orders that hold, by their names and values in the engine.

    What is not understood is no order, but one that held before and whose value is damaged now goes on: only
    its removal lifts it. More than MOST_ORDERS: those that held before stay, nothing is added.
    """
    known = {order.id: order for order in before}
    if len(found) > MOST_ORDERS:
        text = f"the lock engine has {len(found)} orders, at most {MOST_ORDERS} are followed: none was added"
        return OrderReading(tuple(known[id] for id in sorted(known) if id in found), (text,))
    orders, problems = [], []
    for id, content in sorted(found.items()):
        try:
            orders.append(read_order(id, content))
        except ValueError as error:
            problems.append(f"the order {id[:100]!r} is not understood: {error}"[:_PROBLEM_CHARACTERS])
            orders += [known[id]] if id in known else []
    more = len(problems) - _MOST_PROBLEMS
    told = problems[:_MOST_PROBLEMS] + ([f"so are {more} more"] if more > 0 else [])
    return OrderReading(tuple(orders), tuple(told))


def demands(orders: Iterable[FleetOrder], member: str) -> Demands:
    """What this member must do."""
    orders = tuple(orders)
    users = {order.subject: address_of(order.subject) for order in orders if order.kind is OrderKind.END_USER}
    addresses = (address for address in users.values() if address is not None)
    return Demands(
        frozenset(order.subject for order in orders if order.kind is OrderKind.STOP),
        any(order.kind is OrderKind.DRAIN and order.subject == member for order in orders),
        tuple(sorted(addresses, key=lambda address: (address.version, int(address)))),
        frozenset(name for name, address in users.items() if address is None),
    )


def holding(orders: Iterable[FleetOrder], member: str, tunnel: str) -> FleetOrder | None:
    """The order because of which a tunnel may not be started on this member."""
    return next(
        (
            order
            for order in orders
            if (order.kind, order.subject) in ((OrderKind.STOP, tunnel), (OrderKind.DRAIN, member))
        ),
        None,
    )


def acknowledged(
    orders: Iterable[FleetOrder], said: Mapping[str, Acknowledgement], finished: Mapping[str, str], now: float
) -> dict[str, Acknowledgement]:
    """What a member has to say about each order, by its name; it says nothing about one that is lifted.

    `said`: what it has said until now; `finished`: the orders that are done, with what there is to add;
    `now`: Unix time in seconds.
    """
    answers = {}
    for order in orders:
        before = said.get(order.id)
        at = before.at if before is not None and before.given == order.given else now
        answers[order.id] = Acknowledgement(order.given, at, order.id in finished, finished.get(order.id, ""))
    return answers
