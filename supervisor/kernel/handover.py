"""Gives up a tunnel for another one without a loss: nothing new enters it, what is short ends, the rest is moved, answers are waited for.

    plan -> keep_open() -> plan with the lanes that are being given up -> the kernel -> reached() -> ... -> answered() -> the client ends
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from supervisor.core.layout import Host, open_routes
from supervisor.core.network import Lane, NetworkPlan, given_up, kept_open, taken_over
from supervisor.kernel.conntrack import opened
from supervisor.kernel.flows import ALL_LANES, end, forget
from supervisor.kernel.sysctl import Note

DRAIN = 0.25            # seconds in which short connections end in a tunnel that is given up
ANSWERS = 0.25          # seconds for which it then waits for answers: a long round trip


class Handover:
    """Knows which lanes are being given up. `wake` is called when it is time for the next step."""

    def __init__(self, wake: Callable[[], None], note: Note) -> None:
        self._wake = wake
        self._note = note
        self._reached = NetworkPlan()
        self._due: dict[int, float] = {}        # loop times at which the flows of these lanes are moved
        self._conntrack: socket.socket | None = None    # kept: the kernel takes its time to close one
        self._answers: dict[str, float] = {}    # loop times until which tunnels whose flows were moved may bring answers to them

    @property
    def under_way(self) -> bool:
        """A lane is being given up."""
        return bool(self._due)

    def reached(self, plan: NetworkPlan) -> None:
        """The kernel was told to carry out this plan. Flows of a lane whose address another one has now go on in that one."""
        taken, self._reached = taken_over(self._reached, plan), plan
        if not taken:
            return
        try:
            self._end([lane.number for lane in taken])
        except OSError as error:
            self._note(f"running flows lose a packet, because they cannot be moved: {error}", {})

    async def keep_open(self, plan: NetworkPlan, host: Host) -> NetworkPlan:
        """The plan, with the lanes still open that are being given up; moves the flows of those whose time has come."""
        loop = asyncio.get_running_loop()
        taken = taken_over(self._reached, plan)
        lanes = [lane for lane in given_up(self._reached, plan) if lane not in taken and any(True for _ in open_routes(lane, host))]
        if any(lane.number not in self._due for lane in lanes):
            loop.call_later(DRAIN, self._wake)
        self._due = {lane.number: self._due.get(lane.number, loop.time() + DRAIN) for lane in lanes}
        await self._move([lane for lane in lanes if self._due[lane.number] <= loop.time()])
        return kept_open(plan, [lane for lane in lanes if lane.number in self._due])

    async def _move(self, lanes: list[Lane]) -> None:
        try:
            await forget(lane.number for lane in lanes)
        except OSError as error:
            self._note(f"running flows lose a packet, because they cannot be moved: {error}", {})
        for lane in lanes:
            del self._due[lane.number]
            self._answers[lane.tunnel] = asyncio.get_running_loop().time() + ANSWERS

    def end_all(self) -> None:
        """Forget all flows of ours. OSError when the kernel cannot do that."""
        self._end(ALL_LANES)

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        if self._conntrack is not None:
            self._conntrack.close()
        self._conntrack = None

    def _end(self, lanes: Iterable[int]) -> None:
        if self._conntrack is None:
            self._conntrack = opened()
        end(self._conntrack, lanes)

    async def answered(self, tunnel: str) -> None:
        """Wait until answers to what went through the tunnel have had their time."""
        await asyncio.sleep(max(0.0, self._answers.pop(tunnel, 0.0) - asyncio.get_running_loop().time()))
