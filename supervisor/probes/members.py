"""Whether the other members of the fleet can be reached through their lanes: echo requests, which a member's
kernel answers, also while its daemon is dead.

A request takes the very way of the connections that are handed over (by the lane's mark); the answer comes
back without it, as the customers' answers do. Connections that wait for a member that is gone must be reset
before their third retransmission, 1.4 s after its death: so silence of GONE_SECONDS is the verdict, and once
an answer is late the requests come quickly, so that a few lost ones decide nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from supervisor.core.events import Event, MemberChanged
from supervisor.core.network.plan import MemberLane, NetworkPlan
from supervisor.probes.targets import ECHO_REPLY, ECHO_REQUEST, ProbePath, bound_socket
from supervisor.ticks import until_tick

PAUSE_SECONDS = 0.4  # between two requests
LATE_SECONDS = 0.5  # after the last request that was answered: from then on they come quickly
QUICK_SECONDS = 0.1  # between two of those
GONE_SECONDS = 1.0  # after the last request that was answered: it is gone
LEAST_UNANSWERED = 3  # requests before that verdict: this host may have stood still itself
BACK_ANSWERS = 3  # in a row, after which it is there again
IDLE_SECONDS = 1.0  # between two looks whether there is a member to be asked
_REMEMBERED = 32  # requests whose answer may still come
_DISCARD = 9  # port, RFC 863: nothing is sent there


class MemberWatch:
    """Posts MemberChanged. Only members to which connections would be handed over are asked; one that nothing
    is known of counts as there.
    """

    def __init__(self, plan: Callable[[], NetworkPlan], post: Callable[[Event], None]) -> None:
        self._plan, self._post = plan, post
        self._followed: NetworkPlan | None = None
        self._asked: dict[MemberLane, EchoLane] = {}

    async def run(self) -> None:
        """Ask, for ever. In the namespace in which it begins."""
        try:
            while True:
                if (plan := self._plan()) is not self._followed:
                    self._followed = plan
                    self._follow(_needed(plan))
                loop = asyncio.get_running_loop()
                due = min((each.turn(loop.time()) for each in self._asked.values()), default=None)
                if due is None:
                    await until_tick(IDLE_SECONDS)
                else:
                    await asyncio.sleep(max(0.0, due - loop.time()))
        finally:
            self._follow(())

    def _follow(self, lanes: Iterable[MemberLane]) -> None:
        wanted = {(lane.member, lane.number, lane.address): lane for lane in lanes}
        known = {(lane.member, lane.number, lane.address): lane for lane in self._asked}
        for way in known.keys() - wanted.keys():
            self._asked.pop(known[way]).close()
        for way in wanted.keys() - known.keys():
            lane = wanted[way]
            self._asked[lane] = EchoLane(lane, self._post)


class EchoLane:
    """The echo requests to one member. Times are those of the loop."""

    def __init__(self, lane: MemberLane, post: Callable[[Event], None]) -> None:
        self._lane, self._post = lane, post
        self._socket: socket.socket | None = None
        self._resources = contextlib.ExitStack()
        now = asyncio.get_running_loop().time()
        self._answered = now  # when the newest request was sent that was answered
        self._sent: dict[int, float] = {}  # unanswered, by sequence number: when they were sent
        self._number = 0
        self._next = now
        self._alive = True
        self._back = 0  # answers in a row while it counts as gone

    def turn(self, now: float) -> float:
        """Do what is due; when it must be called again."""
        if now >= self._next:
            self._send(now)
            late = self._alive and now - self._answered > LATE_SECONDS - QUICK_SECONDS
            self._next = now + (QUICK_SECONDS if late else PAUSE_SECONDS)
        silent = now - self._answered >= GONE_SECONDS and len(self._sent) >= LEAST_UNANSWERED
        if self._alive and silent:
            self._judge(alive=False)
        over = self._answered + GONE_SECONDS
        return min(self._next, over) if self._alive and over > now else self._next

    def close(self) -> None:
        """Ask no more; nothing is known of it then."""
        self._shut()
        if not self._alive:
            self._judge(alive=True)

    def _shut(self) -> None:
        self._resources.close()
        self._socket = None

    def _send(self, now: float) -> None:
        self._number = self._number % 0xFFFF + 1
        self._sent[self._number] = now
        while len(self._sent) > _REMEMBERED:
            del self._sent[next(iter(self._sent))]
        try:
            sock = self._socket or self._opened()
            sock.send(struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, self._number))
        except OSError:  # there is no way at the moment: unanswered
            self._shut()

    def _opened(self) -> socket.socket:
        """A socket whose source is the address of this host towards the member, not one of another subnet."""
        host = str(self._lane.address)
        protocol = socket.IPPROTO_ICMP if self._lane.address.version == 4 else socket.IPPROTO_ICMPV6
        path = ProbePath(None, self._lane.number)
        source = str(self._lane.local or _source(host))
        made = self._resources.enter_context(bound_socket(host, socket.SOCK_DGRAM, protocol, path))
        made.bind((source, 0))
        made.connect((host, 0))
        loop = asyncio.get_running_loop()
        loop.add_reader(made, self._read, made)
        self._resources.callback(loop.remove_reader, made)
        self._socket = made
        return made

    def _read(self, sock: socket.socket) -> None:
        try:
            answer = sock.recv(256)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error: unanswered
            return
        if len(answer) < 8 or answer[0] != ECHO_REPLY[sock.family]:
            return
        sent = self._sent.pop(struct.unpack_from("!H", answer, 6)[0], None)
        if sent is None:
            return
        self._answered = max(self._answered, sent)
        self._sent = {number: at for number, at in self._sent.items() if at > sent}
        self._back += 1
        if not self._alive and self._back >= BACK_ANSWERS:
            self._judge(alive=True)

    def _judge(self, *, alive: bool) -> None:
        self._alive, self._back = alive, 0
        self._post(MemberChanged("", member=self._lane.member, alive=alive))


def _needed(plan: NetworkPlan) -> list[MemberLane]:
    """The lanes by which something is handed over."""
    needed = {each.lane for each in plan.handed_over}
    return [lane for lane in plan.members if lane.number in needed]


def _source(host: str) -> str:
    """The address that this host would use towards another one."""
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        asked.connect((host, _DISCARD))
        return str(asked.getsockname()[0])
