"""What follows from the identity book: rules by person in the kernel, and addresses that are kept out."""

from __future__ import annotations

from typing import Protocol

from supervisor.app.fleet.membership import Membership
from supervisor.app.people.watch import PeopleWatch
from supervisor.core.identity.view import present
from supervisor.core.network.admission import KnownPeople
from supervisor.engine import Engine
from supervisor.kernel.network import KernelNetwork


class KnowsPeople(Protocol):
    """Goes by who has which address."""

    def know(self, people: KnownPeople) -> None:
        """From now on."""


def follow_people(
    people: PeopleWatch,
    network: KernelNetwork,
    engine: Engine,
    fleet: Membership | None = None,
    names: KnowsPeople | None = None,
) -> None:
    """From now on, tell kernel, engine, fleet and name service whatever the book says. Before the book says
    anything, orders of the fleet keep addresses out.
    """
    if fleet is not None:
        engine.deny(fleet.denied)

    def changed() -> None:
        known = KnownPeople(present(people.latest()), people.lasts_until)
        network.people.know(known)
        if names is not None:
            names.know(known)
        engine.deny(people.expelled, by="hub")
        if fleet is not None:
            fleet.people_changed()

    people.changed = changed
