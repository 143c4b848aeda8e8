"""The circumstances of a step, where a test does not care about all of them."""

from __future__ import annotations

from typing import Any

from supervisor.core.moment import Limits, Moment
from tunnels.settings import Tunnel

_USUAL = {"limits": Limits(), "jitter": 0.5, "turn": 0.0, "uplink": True, "doubted": False, "zone": 0.0}


def moment(tunnel: Tunnel, now: float, **circumstances: Any) -> Moment:
    """Now, with an uplink, and nothing in the way; but for these circumstances."""
    return Moment(**{**_USUAL, **circumstances}, tunnel=tunnel, now=now)
