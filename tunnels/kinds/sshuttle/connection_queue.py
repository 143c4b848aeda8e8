"""New connections while the remote end is silent: they wait here, and those whose clients still wait go first
when it is heard again.

sshuttle itself would send them all, in the order in which they came: after a silence of twenty seconds a
client that has just come would wait for hundreds whose clients have given up.

    accept -> ConnectionQueue.offer -> carried at once, or held -> any frame of the remote end -> carried
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

SILENT_SECONDS = 1.0  # without any frame: the remote end is asked; as long again without an answer: silent
BATCH = 16  # connections of clients that have given up, which follow each sign of life
_CLOSE, _CLOSE_WAIT = 7, 8  # states of a connection (tcp_states.h): reset; its client sends nothing more


class _Queued(NamedTuple):
    connection: socket.socket
    carry: Callable[[], object]
    probe: bool  # of the daemon


class ConnectionQueue:
    """Those of one worker. Moments are seconds of `clock`."""

    def __init__(self, ask: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        """`ask`: send something that the remote end answers."""
        self._ask, self._clock = ask, clock
        self._held: list[_Queued] = []
        self._heard_at = clock()
        self._asked_at: float | None = None  # None: everything that it was asked is answered

    def offer(self, connection: socket.socket, carry: Callable[[], object], probe: bool = False) -> None:
        """Carry this connection now, or as soon as the remote end is heard again. A `probe` of the daemon
        that has given up is not carried any more: in a long silence there are many, which no limit counts.
        """
        now = self._clock()
        if self._asked_at is None and now - self._heard_at > SILENT_SECONDS:
            self._ask_now(now)
        if self._asked_at is not None and now - self._asked_at > SILENT_SECONDS:
            if probe:
                self._drop_probes()
            self._held.append(_Queued(connection, carry, probe))
        else:
            carry()

    def heard(self) -> None:
        """A frame of the remote end has come."""
        self._heard_at, self._asked_at = self._clock(), None
        if not self._held:
            return
        living: list[_Queued] = []
        others: list[_Queued] = []
        for each in self._held:
            (others if _given_up(each.connection) else living).append(each)
        self._held = others[BATCH:]
        for each in (*living, *others[:BATCH]):
            each.carry()
        if self._held:
            self._ask_now(self._heard_at)

    def _drop_probes(self) -> None:
        over = [each for each in self._held if each.probe and _given_up(each.connection)]
        for each in over:
            each.connection.close()
        self._held = [each for each in self._held if each not in over]

    def _ask_now(self, now: float) -> None:
        self._asked_at = now
        self._ask()


def _given_up(connection: socket.socket) -> bool:
    """The client has closed its end, or at least its half, while it waited."""
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_CLOSE, _CLOSE_WAIT)
    return True
