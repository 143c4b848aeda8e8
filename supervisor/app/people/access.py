"""What follows from the identity book: rules by person in the kernel, and addresses that are kept out."""

from __future__ import annotations

from supervisor.app.fleet.membership import Membership
from supervisor.app.people.watch import PeopleWatch
from supervisor.core.identity.view import present
from supervisor.core.network.admission import KnownPeople
from supervisor.engine import Engine
from supervisor.kernel.network import KernelNetwork


def follow_people(
    people: PeopleWatch, network: KernelNetwork, engine: Engine, fleet: Membership | None
) -> None:
    """From now on, tell kernel, engine and fleet whatever the book says."""

    def changed() -> None:
        network.people.know(KnownPeople(present(people.latest()), people.lasts_until))
        engine.deny(people.expelled, by="hub")
        if fleet is not None:
            fleet.people_changed()

    people.changed = changed
