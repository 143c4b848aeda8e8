"""Policy routing: the `ip rule`s that lead packets with a lane's fwmark to its routing table. A part of
`core.network.layout`.

Every packet walks the list of rules, those without a mark too, at some nanoseconds each, up to four times for
a packet and its answer. Few lanes need one rule each and no more. Of many, packets jump over those that
cannot be meant:

     99        an answer out of a tunnel that our packet filter let through (RETURN_FLAG): on to 176
    100        without a mark: on to 173
    101        a mark of a group: on to the group
    102 - 172  the groups: one rule for each lane
    173        nothing
    174        from this host itself: on to 176
    175        by interface: what comes out of a tunnel
    176        nothing: behind it come everybody else's

A jump (`goto`) only saves time. Where somebody deleted it, the packet walks the other rules and finds the
same lane; and no jump leaves the range of our priorities, so foreign rules and the main table are consulted
as usual.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

PRIORITY = 173  # the last of our rules for lanes
RETURN_PRIORITY = 175  # of the rules for what comes out of tunnels
RETURN_FLAG = 1 << 29  # mark of a packet out of a tunnel that belongs to a flow of that very lane
RETURN_TABLE = 173_000  # says "look on" for staff, and "unreachable" for everything else
NO_MASK = 0xFFFF_FFFF
FEW_LANES = 16  # lanes for which jumps would cost more than they save
_GROUP = 4  # bits: marks that differ only there are a group
_UNMARKED, _GROUPS, _FIRST_GROUP = 100, 101, 102
_SPREAD = PRIORITY - _FIRST_GROUP  # places for groups: what is further on shares one


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule of ours: packets with this mark look into this table. `kind` is the kernel's word:
    lookup, goto, nop, ...
    """

    version: int
    mark: int
    table: int
    priority: int = PRIORITY
    mask: int = NO_MASK
    kind: str = "lookup"
    target: int = 0  # the priority at which a goto goes on
    device: str | None = None  # only packets that came in by it

    def __str__(self) -> str:
        family = "" if self.version == 4 else " -6"
        mask = "" if self.mask == NO_MASK and self.mark else f"/{self.mask:#x}"
        mark = f" fwmark {self.mark}{mask}" if self.mask else ""
        mark += "" if self.device is None else f" iif {self.device}"
        where = {"lookup": f" {self.table}", "goto": f" {self.target}"}.get(self.kind, "")
        priority = "" if self.priority == PRIORITY else f" priority {self.priority}"
        return f"rule{family}{mark} {self.kind}{where}{priority}"


@functools.lru_cache(maxsize=4)
def returning(devices: tuple[str, ...], versions: tuple[int, ...]) -> frozenset[Rule]:
    """The rules by which packets from these tunnels' interfaces are routed to staff and nowhere else, even
    without our packet filter.
    """
    by_interface = (
        Rule(version, 0, RETURN_TABLE, RETURN_PRIORITY, 0, device=device)
        for version in versions
        for device in devices
    )
    jumps = (jump for version in versions for jump in _around_interfaces(version))
    return frozenset(by_interface) | frozenset(jumps if len(devices) > FEW_LANES else ())


def _around_interfaces(version: int) -> Iterator[Rule]:
    """Packets that need none of the rules by interface. Without the packet filter nothing has the mark."""
    end = RETURN_PRIORITY + 1
    yield Rule(version, RETURN_FLAG, 0, _UNMARKED - 1, RETURN_FLAG, "goto", end)
    yield Rule(version, 0, 0, RETURN_PRIORITY - 1, 0, "goto", end, "lo")
    yield Rule(version, 0, 0, end, 0, "nop")


@functools.lru_cache(maxsize=4)
def leading(lanes: tuple[int, ...], versions: tuple[int, ...]) -> frozenset[Rule]:
    """The rules that lead packets with each of these fwmarks to the routing table of that number."""
    return frozenset(
        rule
        for version in versions
        for rule in (_one_by_one if len(lanes) <= FEW_LANES else _in_groups)(lanes, version)
    )


def _one_by_one(lanes: tuple[int, ...], version: int) -> Iterator[Rule]:
    return (Rule(version, lane, lane) for lane in lanes)


def _in_groups(lanes: tuple[int, ...], version: int) -> Iterator[Rule]:
    yield Rule(version, 0, 0, _UNMARKED, kind="goto", target=PRIORITY)
    for group in {lane >> _GROUP for lane in lanes}:
        yield Rule(version, group << _GROUP, 0, _GROUPS, NO_MASK >> _GROUP << _GROUP, "goto", _place(group))
    yield from (Rule(version, lane, lane, _place(lane >> _GROUP)) for lane in lanes)
    yield Rule(version, 0, 0, PRIORITY, 0, "nop")


def _place(group: int) -> int:
    """The priority of a group's rules, the same as long as it exists."""
    return _FIRST_GROUP + group % _SPREAD
