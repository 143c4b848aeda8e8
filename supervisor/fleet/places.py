"""Where a fleet keeps what its members share, in the lock engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from supervisor.fleet.lock_service import StoredValue


@dataclass(frozen=True, slots=True)
class FleetPlaces:
    """The keys of one fleet."""

    fleet: str  # its name

    @property
    def nodes(self) -> str:
        """Below it: the status of each member, by its name."""
        return f"facilitator/{self.fleet}/nodes/"

    @property
    def orders(self) -> str:
        """Below it: the orders that hold, by their names."""
        return f"facilitator/{self.fleet}/orders/"

    @property
    def routes(self) -> str:
        """Below it: the locks of the cloud's routes, by network."""
        return f"facilitator/{self.fleet}/routes/"

    @property
    def acknowledgements(self) -> str:
        """Below it: what members say about orders, by the names of order and member."""
        return f"facilitator/{self.fleet}/acks/"


def below(prefix: str, found: Iterable[StoredValue]) -> Mapping[str, str]:
    """The values by what stands behind the prefix in their keys."""
    return {each.key.removeprefix(prefix): each.value for each in found if each.key.startswith(prefix)}
