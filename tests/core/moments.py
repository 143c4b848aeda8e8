"""The circumstances of a step, where a test does not care about all of them."""

from __future__ import annotations

from typing import Any

from supervisor.core.session.context import StepContext
from tests.fakes import KIND
from tunnels.settings import Tunnel

_USUAL = {
    "kind": KIND,
    "jitter": 0.5,
    "turn": 0.0,
    "retry_turn": 0.0,
    "uplink": True,
    "doubted": False,
    "lock": None,
    "heard": True,
    "utc_offset": 0.0,
    "notice": 0.0,
}


def moment(tunnel: Tunnel, now: float, **circumstances: Any) -> StepContext:
    """Now, with an uplink, and nothing in the way; but for these circumstances."""
    return StepContext(**{**_USUAL, **circumstances}, tunnel=tunnel, now=now)
