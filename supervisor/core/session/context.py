"""What a step needs to know beside the state of its tunnel and the event; and what comes out of a step."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.events import Action
from supervisor.core.state import SessionEnded, TunnelState
from tunnels.base import AnyKind
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
    heard: bool  # the remote gateway, when it is asked, is not silent, nor was it a moment ago
    utc_offset: float  # seconds that turn a monotonic moment into local time


@dataclass(frozen=True, slots=True)
class Step:
    """What comes of one event: the tunnel's state, orders to its clients, and the sessions that are over."""

    tunnel: TunnelState
    actions: tuple[Action, ...] = ()
    ended: tuple[SessionEnded, ...] = ()
