"""Which reasons of a transition stand for a failure, and not for a request or for progress."""

from __future__ import annotations

from supervisor.core.session.retry import RETRY, Retry
from tunnels.base import Reason

_PROGRESS = (Reason.RETRY, Reason.CONNECTED, Reason.HEALTHY, Reason.DEGRADED)
_NO_FAILURE = frozenset({*(reason.value for reason in RETRY if RETRY[reason] is Retry.NOW), *_PROGRESS})


def is_failure(reason: str) -> bool:
    """True also for a reason of another version, which is not known here."""
    return reason not in _NO_FAILURE
