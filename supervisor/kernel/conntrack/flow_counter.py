"""Counts the flows of draining lanes: the engine's `FlowCounter`.

Each dump reads all conntrack entries of these lanes, filtered by the kernel. The next dump follows a
notification that a flow changed its state or ended, after a pause in proportion to what the last dump cost;
at the latest after POLL_SECONDS, because nothing notifies us of a flow that falls silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from common.netlink import NetlinkSocket, attributes
from supervisor.core.events import Event, FlowsCounted
from supervisor.core.network.flow_counting import FlowJob, Left, Memory, TrackedFlow, count, prefix
from supervisor.kernel.conntrack import dump as ct
from supervisor.kernel.sysctl import Note

POLL_SECONDS = 5.0  # between two dumps when no notification comes
REST_SECONDS = 0.05  # between two dumps at least
REST_PER_WORK = 20.0  # the pause after a dump, in multiples of its processor time
SETTLED_SECONDS = 2.0  # for the kernel to follow the plan
# CTA_TUPLE_ORIG, CTA_PROTOINFO, CTA_TIMEOUT; CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE
_ORIGINAL, _PROTOCOL_INFO, _TIMEOUT = 1, 4, 7
_TCP_INFO, _TCP_STATE = 1, 1
_ESTABLISHED, _OVER = 3, (7, 8)  # TCP_CONNTRACK_ESTABLISHED; TCP_CONNTRACK_TIME_WAIT and _CLOSE
_ESTABLISHED_TIMEOUT = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
# What the kernel gives an established connection whose packets are not acknowledged, whatever that file says:
# nf_conntrack_tcp_timeout_unacknowledged (Documentation/networking/nf_conntrack-sysctl.rst).
_UNANSWERED_SECONDS = 300.0


class FlowWatch:
    """`post` takes FlowsCounted; `settled` returns when the kernel follows the latest plan, so that
    nothing new enters what is counted.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        settled: Callable[[], Awaitable[None]],
        note: Note,
        contained: Callable[[str], AbstractContextManager[None, bool | None]] = lambda part: (
            contextlib.nullcontext()
        ),
    ) -> None:
        """`contained` takes faults of our own: without the count a tunnel that drains would never end."""
        self._post, self._contained = post, contained
        self._settled = settled
        self._note = note
        self._jobs: Mapping[int, FlowJob] = {}
        self._memory: Memory = {}
        self._task: asyncio.Task[None] | None = None
        self._failed = ""

    def set(self, jobs: Mapping[int, FlowJob]) -> None:
        """The jobs by lane, exactly these. A new one is counted at once."""
        before, self._jobs = self._jobs, dict(jobs)
        if not jobs:
            self._stop()
            self._memory = {}
        elif not jobs.items() <= before.items():
            self._stop()
            self._task = asyncio.create_task(self._watch(), name="flows")

    def close(self) -> None:
        """Count no more."""
        self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = None

    async def _watch(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_SECONDS):
                await self._settled()
        while True:
            with self._contained("flows"):
                await self._count_on()
            await asyncio.sleep(POLL_SECONDS)

    async def _count_on(self) -> None:
        while True:
            try:
                with ct.listening() as hints:  # a new one for each look: what was heard before it is old
                    await asyncio.sleep(max(REST_SECONDS, REST_PER_WORK * await self._look()))
                    await _something(hints, POLL_SECONDS)
            except OSError as error:
                self._complain(error)
                await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> float:
        """Post what is there; the seconds of processor time that it took."""
        jobs, netlink = self._jobs, ct.conntrack_socket()  # here, in the network namespace of this thread
        limits = {lane: job.idle for lane, job in jobs.items()}
        self._memory, left, cost = await asyncio.to_thread(
            _counted, netlink, _longest(), self._memory, limits
        )
        self._failed = ""
        for lane in jobs.keys() & self._jobs.keys():
            self._post(
                FlowsCounted(
                    jobs[lane].tunnel,
                    jobs[lane].session,
                    lane=lane,
                    left=left[lane].flows,
                    idle=left[lane].idle,
                )
            )
        return cost

    def _complain(self, error: OSError) -> None:
        if str(error) != self._failed:
            self._failed = str(error)
            self._note(f"cannot count the flows that are left: {error}", {})


async def _something(netlink: NetlinkSocket, within: float) -> None:
    """Return when anything is heard, at the latest after so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await asyncio.get_running_loop().sock_recv(netlink.socket, 1)


def _counted(
    netlink: NetlinkSocket, longest: float | None, memory: Memory, limits: Mapping[int, float]
) -> tuple[Memory, Mapping[int, Left], float]:
    """One look, in a thread of its own, and what it cost: a busy machine makes it late, not dear."""
    began = time.thread_time()
    with netlink:
        found = [read(body, time.monotonic(), longest) for body in ct.entries(netlink, *prefix(limits))]
        memory, left = count(memory, found, limits, time.monotonic())
    return memory, left, time.thread_time() - began


def read(body: bytes, now: float, longest: float | None) -> TrackedFlow:
    """An entry as the kernel tells it; `longest`: seconds that it keeps an established connection without
    a packet, where known.
    """
    values = dict(attributes(body[ct.HEADER_BYTES :]))
    state = _tcp_state(values.get(_PROTOCOL_INFO, b""))
    left = float(_number(values.get(_TIMEOUT)))
    silent = (
        max(0.0, longest - left)
        if longest is not None and state == _ESTABLISHED and left > _UNANSWERED_SECONDS
        else 0.0
    )
    return TrackedFlow(
        _number(values.get(ct.MARK)), values.get(_ORIGINAL, b""), state in _OVER, now, now + left, silent
    )


def _tcp_state(packed: bytes) -> int | None:
    """None: not TCP."""
    known = dict(attributes(dict(attributes(packed)).get(_TCP_INFO, b"")))
    return known[_TCP_STATE][0] if _TCP_STATE in known else None


def _number(packed: bytes | None) -> int:
    return 0 if packed is None else int(struct.unpack(">I", packed)[0])


def _longest() -> float | None:
    try:
        return float(_ESTABLISHED_TIMEOUT.read_text())
    except (OSError, ValueError):
        return None
