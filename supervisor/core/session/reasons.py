"""Which reasons of a transition stand for a failure, and not for a request or for progress."""

from __future__ import annotations

from supervisor.core.session.retry import POLICIES, Page

_NO_FAILURE = frozenset({reason.value for reason, policy in POLICIES.items() if policy.page is Page.NO})


def is_failure(reason: str) -> bool:
    """True also for a reason of another version, which is not known here."""
    return reason not in _NO_FAILURE
