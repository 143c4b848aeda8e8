"""The circumstances of one step, beside state and event: a part of `core.session.machine` and
`core.session.handover`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnels.settings import Tunnel


@dataclass(frozen=True, slots=True)
class KindLimits:
    """The kind's own deadlines, in seconds."""

    start: float = 60.0
    stop: float = 5.0
    renews: bool = False  # its client can reconnect in place
    renews_login: bool = False  # and begins a session anew with that
    pairs: bool = True  # two clients of one tunnel can run beside each other
    endless: bool = False  # its sessions have no end that one could come before


@dataclass(frozen=True, slots=True)
class StepContext:
    """The circumstances of one step. Moments are monotonic seconds. Nothing has a default: nothing can be
    forgotten.
    """

    tunnel: Tunnel
    limits: KindLimits
    now: float
    jitter: float  # in [0, 1)
    turn: float  # before this moment no client may start
    uplink: bool  # without it nothing is started and no session is given up
    doubted: bool  # while the uplink is in doubt no probe is judged
    zone: float  # seconds that turn a monotonic moment into local time
