"""What a step needs to know beside the state of its tunnel and the event; and what comes out of a step."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.events import Action
from supervisor.core.lock_view import LockView
from supervisor.core.state import SessionEnded, TunnelState
from tunnels.base import AnyKind, Reason
from tunnels.settings import Tunnel


@dataclass(frozen=True, slots=True)
class StepContext:
    """The circumstances of one step. Nothing has a default, so that no caller can forget one."""

    tunnel: Tunnel
    kind: AnyKind
    now: float  # monotonic seconds
    jitter: float  # in [0, 1)
    turn: float  # monotonic seconds: before this moment no client may start (`core.session.pacing`)
    retry_turn: float  # monotonic seconds: before this moment no attempt may be repeated
    uplink: bool  # whether this host's way out works; without it nothing is started or given up
    doubted: bool  # the uplink may be dead: no missed probe is judged until that is known
    lock: (
        LockView | None
    )  # of an exclusive tunnel's account: without it no client starts; None: it needs none
    heard: bool  # the remote gateway, when it is asked, is not silent, nor was it a moment ago
    utc_offset: float  # seconds that turn a monotonic moment into local time
    # Seconds from the announcement that a tunnel takes no new flows to its planned end; 0: nobody is told.
    notice: float

    @property
    def hindrance(self) -> Reason | None:
        """Why no client may start, whatever its tunnel wants: this host has no way out (UPLINK), or not the
        lock of the tunnel's account (LOCK).
        """
        if not self.uplink:
            return Reason.UPLINK
        return Reason.LOCK if self.lock is not None and not self.lock.held else None


@dataclass(frozen=True, slots=True)
class Step:
    """What comes of one event: the tunnel's state, orders to its clients, and the sessions that are over."""

    tunnel: TunnelState
    actions: tuple[Action, ...] = ()
    ended: tuple[SessionEnded, ...] = ()
