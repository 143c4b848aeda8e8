"""The short status that each member publishes in the lock engine, and what others read in it.

snapshot -> member_status(...) -> nodes/MEMBER -> read_status(...) -> core.fleet.view
"""

from __future__ import annotations

import enum
import json
from collections.abc import Container
from dataclasses import dataclass

from supervisor.core.fleet.values import TUNNEL_NAME, ForeignObject
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Health, Phase, TunnelState, Want, well
from tunnels.networks import MOST_TUNNELS
from tunnels.settings import Tunnel

STATUS_CHARACTERS = 512 * 1024  # of one status; etcd refuses a value of more than 1.5 MB
DOCUMENT_CHARACTERS = 8 * 1024 * 1024  # of the document of a member's HTTP server


class MemberStanding(enum.StrEnum):
    """What a tunnel is to the fleet on one member."""

    CARRIES = "carries"  # it works, and traffic of the fleet comes here
    READY = "ready"  # it works, and another member carries
    DRAINS = "drains"  # it takes no new flows; those that run go on
    DOWN = "down"  # it is wanted and does not work
    WAITS = "waits"  # another member holds the lock of its account
    STOPPED = "stopped"  # it is not wanted here


@dataclass(frozen=True, slots=True)
class MemberTunnel:
    """One tunnel on one member."""

    name: str
    standing: MemberStanding
    locked: bool = False  # this member holds the lock of its account


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """All that a member tells the others about itself."""

    version: str = ""
    drained: bool = False  # it takes no new flows
    tunnels: tuple[MemberTunnel, ...] = ()

    @property
    def content(self) -> str:
        """The value in the engine."""
        tunnels = [
            {"name": each.name, "standing": each.standing.value, "locked": each.locked}
            for each in self.tunnels
        ]
        value = {"format": 1, "version": self.version, "drained": self.drained, "tunnels": tunnels}
        return json.dumps(value, separators=(",", ":"))


def member_status(
    version: str, snapshot: Snapshot, carrying: Container[str], *, drained: bool
) -> MemberStatus:
    """The status of this member. `carrying`: tunnels by which traffic of the fleet leaves here."""
    tunnels = []
    for name, (tunnel, state) in sorted(snapshot.tunnels.items()):
        lock, standing = snapshot.locks.get(name), standing_of(tunnel, state, name in carrying)
        if standing is MemberStanding.DOWN and lock is not None and lock.holder is not None:
            standing = MemberStanding.WAITS
        tunnels.append(MemberTunnel(name, standing, lock is not None and lock.held))
    return MemberStatus(version, drained or snapshot.draining, tuple(tunnels))


def standing_of(tunnel: Tunnel, state: TunnelState, carries: bool) -> MemberStanding:
    """What this tunnel is to the fleet; `carries`: traffic comes here."""
    if state.want is Want.DOWN:
        return MemberStanding.STOPPED
    if state.drain is not None:
        return MemberStanding.DRAINS
    if not well(tunnel, state):
        return MemberStanding.DOWN
    return MemberStanding.CARRIES if carries else MemberStanding.READY


def read_status(content: str) -> MemberStatus:
    """The status in a value of the engine. ValueError says what is wrong."""
    found = ForeignObject.read(content, STATUS_CHARACTERS)
    tunnels = tuple(map(_tunnel, found.objects("tunnels", MOST_TUNNELS)))
    return MemberStatus(found.text("version")[:40], found.flag("drained"), tunnels)


def read_status_document(content: str) -> MemberStatus:
    """The status in the answer of a member's HTTP server to `/api/v1/status`. ValueError says what is wrong.

    Which member carries a destination cannot be seen in it, nor who holds a lock.
    """
    found = ForeignObject.read(content, DOCUMENT_CHARACTERS)
    tunnels = tuple(map(_tunnel_in_document, found.objects("tunnels", MOST_TUNNELS)))
    return MemberStatus(found.text("version")[:40], found.flag("draining"), tunnels)


def _tunnel_in_document(found: ForeignObject) -> MemberTunnel:
    works = found.text("phase") == Phase.UP and found.text("health") != Health.UNHEALTHY
    standing = MemberStanding.READY if works else MemberStanding.DOWN
    if found.text("want") == Want.DOWN:
        standing = MemberStanding.STOPPED
    elif found.keys.get("drain") is not None:
        standing = MemberStanding.DRAINS
    return MemberTunnel(found.text("name", TUNNEL_NAME), standing)


def _tunnel(found: ForeignObject) -> MemberTunnel:
    word = found.text("standing")
    # a later version may know more words: whatever they mean, the tunnel is not known to work
    standing = MemberStanding(word) if word in set(MemberStanding) else MemberStanding.DOWN
    return MemberTunnel(found.text("name", TUNNEL_NAME), standing, found.flag("locked"))
