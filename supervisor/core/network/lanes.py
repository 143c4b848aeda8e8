"""The numbers of lanes: lane = fwmark = ct mark = routing table. Each tunnel has two, one for each slot."""

from __future__ import annotations

from tunnels.networks import MOST_TUNNELS

FIRST_LANE = 173_001  # marks and tables from here on are ours
NEXT_SLOT = 1_000  # between the lanes of a tunnel's two slots
LAST_LANE = FIRST_LANE + NEXT_SLOT + MOST_TUNNELS - 1
# Lanes to the other members of the fleet (`core.network.second_hop`), in a range of their own.
NOBODY = 175_000  # what no member can carry on: no lane leads there, and its connections are reset
FIRST_MEMBER, LAST_MEMBER = NOBODY + 1, NOBODY + 999
# Bit in a ct mark beside the lane: a flow of this host itself (probes), or late answers of one that was
# moved.
HOST_FLAG = 1 << 30
# Connections through a proxy that one source may hold; the nftables rules know these numbers only.
SHARES = (480, 960, 1920, 3840, 7680)


def share_set(share: int) -> str:
    """The name of the set of ports with this share."""
    return f"share{share}"


def share_of(connections: int) -> int:
    """The largest of SHARES that is not more than this; 0: no limit."""
    return max((share for share in SHARES if share <= connections), default=0)


def lane_of(first: int, slot: int) -> int:
    """The lane of a tunnel's slot; `first`: that of its first one."""
    return first + slot * NEXT_SLOT


def slot_of(lane: int) -> int:
    """Which of its tunnel's slots the lane belongs to."""
    return (lane - FIRST_LANE) // NEXT_SLOT


def both_slots(lane: int) -> tuple[int, int]:
    """The lanes of both slots of the tunnel that this lane belongs to, in their order."""
    first = lane - slot_of(lane) * NEXT_SLOT
    return first, lane_of(first, 1)
