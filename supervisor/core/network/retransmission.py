"""Which TCP connections to remote gateways are helped to send again soon after a silence.

TCP sends what is not acknowledged again after pauses that double (RFC 6298): after 20 s of silence it may
take another 20 s until it notices that the path is back. RFC 6069 (TCP-LCD; Linux does it) takes one doubling
back for each ICMP message that says that the segment's destination cannot be reached. So while a connection
is silent, the kernel gives such answers to each of its retransmissions, which pass all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunnels.networks import IPAddress

SILENT_RETRANSMISSIONS = 2  # of the same segment, not answered: the doubling has begun
FEW = 20  # silent connections, of which each sends five segments a second: that is no load
SHORT_SECONDS = 30.0  # of a silence in which so do more (the pauses of TCP itself: 0.2 s and a round trip)
# Of those, later on: a longer one is the last before they are short again. A session that is silent for
# `session.silence.RETURN_SECONDS` after the return of its gateway is taken for lost.
LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class TcpConnection:
    """A TCP connection of this host."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int


@dataclass(frozen=True, slots=True)
class RetransmissionTimer:
    """What the kernel says of a connection's retransmissions."""

    retransmissions: int  # of the oldest segment that is not acknowledged; 0: all is well
    pause: float  # seconds from the last one to the next


@dataclass(frozen=True, slots=True)
class Helped:
    """The silent connections and what is done about them. Moments are seconds of one clock."""

    since: Mapping[TcpConnection, float]  # when each was first seen to be silent
    connections: frozenset[TcpConnection] = frozenset()  # whose retransmissions are answered now


NOBODY = Helped({})


def helped(before: Helped, timers: Mapping[TcpConnection, RetransmissionTimer], now: float) -> Helped:
    """The same after one more look at the timers of all connections to gateways. TCP itself gives up after a
    quarter of an hour.
    """
    silent = {
        connection: timer
        for connection, timer in timers.items()
        if timer.retransmissions >= SILENT_RETRANSMISSIONS
        or (connection in before.since and timer.retransmissions)
    }
    since = {connection: before.since.get(connection, now) for connection in silent}
    chosen = (
        connection
        for connection, timer in silent.items()
        if len(silent) <= FEW
        or now - since[connection] < SHORT_SECONDS
        or timer.pause > LONGEST_PAUSE_SECONDS
    )
    return Helped(since, frozenset(chosen))
