"""What staff see of a move between two facilitators: datagrams and TCP streams through it, in numbers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.lab.fleet import MEMBERS, FleetLab, LabMember
from tests.lab.network import DATACENTRE, DATACENTRE_WEB
from tests.lab.traffic import Flood, Streams
from tests.lab.wait import eventually

RATE = 1000  # datagrams a second
STREAMS = 50


@dataclass(slots=True)
class Crossing:
    """Known after the context."""

    lost: int = 0  # datagrams without an echo
    sent: int = 0
    broken: int = 0  # TCP streams
    streams: int = 0
    # Seconds: the longest time from a line of a stream to its answer. Some stream sends in each millisecond,
    # so it is the longest pause, without the rhythm in which each of them sends.
    pause: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.lost} of {self.sent} datagrams lost, {self.broken} of {self.streams} streams broken, "
            f"longest pause {self.pause * 1000:.0f} ms"
        )


@contextlib.contextmanager
def crossing(
    lab: FleetLab, address: IPv4Address = DATACENTRE_WEB, streams: int = STREAMS, rate: int = RATE
) -> Iterator[Crossing]:
    """Traffic of the laptop while something happens to the members."""
    found = Crossing(streams=streams)
    flood = Flood(lab.network["laptop"], (address,), rate)
    held = Streams(lab.network["laptop"], address, streams, 0.05)
    with flood, held:
        yield found
    found.lost, found.sent = flood.sent - flood.echoed, flood.sent
    found.broken, found.pause = held.broken, held.delay


def carrier(lab: FleetLab, destination: object = DATACENTRE) -> LabMember:
    """The member to which the router sends this destination; waits until there is one."""

    def found() -> LabMember | None:
        return next((member for member in MEMBERS if member.address == lab.via(destination)), None)

    return eventually(found, 20, f"the router has a route to {destination}")


def other(member: LabMember) -> LabMember:
    """The member that is not this one."""
    return next(each for each in MEMBERS if each != member)


def moved_within(lab: FleetLab, member: LabMember, destination: object = DATACENTRE) -> float:
    """Seconds from now until the router sends this destination to the member."""
    began = time.monotonic()
    lab.wait_via(member, destination)
    return time.monotonic() - began
