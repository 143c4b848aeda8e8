"""Make-before-break for running flows when destinations move from one working tunnel to another: no new flow
enters the old lane, short ones end, the others are moved, and late answers are waited for before the old
client stops.

    plan -> keep_open() -> plan with the old lanes still open -> the kernel -> reached() -> answered() -> the
    client stops
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from common.netlink import NetlinkSocket
from supervisor.core.network.layout import HostFeatures, Layout
from supervisor.core.network.plan import Lane, NetworkPlan
from supervisor.core.network.running_flows import (
    given_up,
    kept_open,
    left_behind,
    left_over,
    overshadowed,
    taken_over,
    to_forget,
)
from supervisor.core.network.wanted import lanes_of, open_routes
from supervisor.kernel.conntrack.dump import conntrack_socket
from supervisor.kernel.conntrack.flow_moves import ALL_LANES, end, forget
from supervisor.kernel.sysctl import Note
from tunnels.networks import IPAddress

DRAIN_SECONDS = 0.25  # in which short connections end in a tunnel that is given up
ANSWERS_SECONDS = 0.25  # for which it then waits for answers: a long round trip


class TunnelSwitch:
    """`wake` is called when it is time for the next step."""

    def __init__(self, wake: Callable[[], None], note: Note) -> None:
        self._wake = wake
        self._note = note
        self._reached: NetworkPlan | None = None
        self._inherited: frozenset[int] = frozenset()  # lanes of an earlier daemon
        self._addresses: dict[int, tuple[IPAddress, ...]] = {}  # that each lane had when it was last up
        self._behind: set[int] = set()  # lanes with flows to destinations that another lane may carry now
        self._due: dict[int, float] = {}  # loop times at which the flows of these lanes are moved
        self._conntrack: NetlinkSocket | None = None  # kept: the kernel takes its time to close one
        # Loop times until which tunnels whose flows were moved may bring answers to them.
        self._answers: dict[str, float] = {}

    @property
    def under_way(self) -> bool:
        """A lane is kept open until its flows are moved."""
        return bool(self._due)

    def inherit(self, left: Layout) -> None:
        """Take over the lanes of an earlier daemon, and the flows in them."""
        self._inherited = lanes_of(left.elements)

    def reached(self, plan: NetworkPlan) -> None:
        """The kernel carries out this plan now. conntrack forgets the flows that cannot go on as they are:
        they restart with their next packet.

        Before the first plan little is known: open lanes are as an earlier daemon left them, flows included.
        """
        before, self._reached = self._reached, plan
        self._behind |= overshadowed(plan) if before is None else left_behind(before, plan)
        lanes = (
            left_over(self._inherited, plan)
            if before is None
            else to_forget(before, plan, self._addresses, self._behind)
        )
        self._behind.difference_update(lanes)
        self._addresses |= {lane.number: lane.addresses for lane in plan.lanes if lane.up}
        if not lanes:
            return
        try:
            self._end(lanes)
        except OSError as error:
            self._note(f"running flows lose a packet, because they cannot be moved: {error}", {})

    async def keep_open(self, plan: NetworkPlan, host: HostFeatures) -> NetworkPlan:
        """The plan with the old lanes still open; moves the flows of those that were open for
        DRAIN_SECONDS.
        """
        loop = asyncio.get_running_loop()
        before = self._reached or NetworkPlan()
        taken = taken_over(before, plan)
        lanes = [
            lane
            for lane in given_up(before, plan)
            if lane not in taken and any(True for _ in open_routes(lane, host))
        ]
        if any(lane.number not in self._due for lane in lanes):
            loop.call_later(DRAIN_SECONDS, self._wake)
        self._due = {lane.number: self._due.get(lane.number, loop.time() + DRAIN_SECONDS) for lane in lanes}
        await self._move([lane for lane in lanes if self._due[lane.number] <= loop.time()])
        return kept_open(plan, [lane for lane in lanes if lane.number in self._due])

    async def _move(self, lanes: list[Lane]) -> None:
        try:
            await forget(lane.number for lane in lanes)
        except OSError as error:
            self._note(f"running flows lose a packet, because they cannot be moved: {error}", {})
        for lane in lanes:
            del self._due[lane.number]
            self._answers[lane.tunnel] = asyncio.get_running_loop().time() + ANSWERS_SECONDS

    def end_all(self) -> None:
        """Make conntrack forget all flows of ours. OSError when the kernel cannot do that."""
        self._end(ALL_LANES, flagged=True)

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        if self._conntrack is not None:
            self._conntrack.close()
        self._conntrack = None

    def _end(self, lanes: Iterable[int], flagged: bool = False) -> None:
        if self._conntrack is None:
            self._conntrack = conntrack_socket()
        end(self._conntrack, lanes, flagged)

    async def answered(self, tunnel: str) -> None:
        """Wait until late answers to what went through the tunnel had ANSWERS_SECONDS."""
        await asyncio.sleep(max(0.0, self._answers.pop(tunnel, 0.0) - asyncio.get_running_loop().time()))
