"""What follows from the identity book: rules by person in the kernel, and addresses that are kept out."""

from __future__ import annotations

from supervisor.app.people.watch import PeopleWatch
from supervisor.core.identity.view import present
from supervisor.core.network.admission import KnownPeople
from supervisor.engine import Engine
from supervisor.kernel.network import KernelNetwork


def follow_people(people: PeopleWatch, network: KernelNetwork, engine: Engine) -> None:
    """From now on, tell kernel and engine whatever the book says."""

    def changed() -> None:
        network.people.know(KnownPeople(present(people.latest()), people.lasts_until))
        engine.deny(people.expelled, by="hub")

    people.changed = changed
