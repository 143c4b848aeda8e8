"""Rules between the parts of `fleet:`, and between them and the tunnels."""

from __future__ import annotations

from collections.abc import Iterator

from common.configuration.locations import find, find_key
from common.configuration.problems import Report
from common.configuration.yaml_document import Group
from supervisor.config.fleet import FleetSettings
from supervisor.config.model import Facilitator
from tunnels.settings import Tunnel

Where = tuple[str | int, ...]
MOST_MEMBERS = 50  # as supervisor.core.fleet.values has it, which this package does not know


def check_fleet(
    root: Group, fleet: FleetSettings | None, facilitator: Facilitator, tunnels: list[Tunnel], report: Report
) -> None:
    """Report all violations. `tunnels`: the valid ones."""
    for where, text in _faults(fleet, facilitator, tunnels):
        report.error(find_key(root, where).position, where, text)
    if fleet is not None and not fleet.members and _written(root, ("fleet", "handover")):
        where = ("fleet", "handover")
        report.warning(find(root, where).position, where, "without members nothing is handed over")


def _written(root: Group, where: Where) -> bool:
    return find_key(root, where).where == where


def _faults(
    fleet: FleetSettings | None, facilitator: Facilitator, tunnels: list[Tunnel]
) -> Iterator[tuple[Where, str]]:
    if fleet is None or fleet.lock is None:
        for tunnel in tunnels:
            if tunnel.exclusive:
                yield (
                    ("tunnels", tunnel.name, "exclusive"),
                    "needs a lock that all members ask; add fleet.lock.etcd or fleet.lock.consul",
                )
    if fleet is None:
        return
    if fleet.announce.aws is not None and fleet.lock is None:
        yield (
            ("fleet", "announce", "aws"),
            "needs a lock, so that one member alone writes the routes; add fleet.lock",
        )
    if facilitator.name is None and (fleet.members or fleet.lock is not None):
        yield ("fleet",), "members are distinguished by facilitator.name; set it"
    yield from _members(fleet, facilitator)


def _members(fleet: FleetSettings, facilitator: Facilitator) -> Iterator[tuple[Where, str]]:
    owners: dict[object, str] = {}
    for name, member in fleet.members.items():
        owner = owners.setdefault(member.address, name)
        if owner != name:
            yield ("fleet", "members", name, "address"), f"{member.address} is also that of {owner}"
    others = [name for name in fleet.members if name != facilitator.name]
    if len(others) > MOST_MEMBERS - 1:
        yield ("fleet", "members"), f"{len(others) + 1} members; a fleet has at most {MOST_MEMBERS}"
