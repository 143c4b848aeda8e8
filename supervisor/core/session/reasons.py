"""Which reasons of a transition stand for a failure, and not for a request or for progress."""

from __future__ import annotations

from supervisor.core.session.retry import POLICIES, Page, Retry

_ORDERS = frozenset(
    reason.value
    for reason, policy in POLICIES.items()
    if policy.retry is Retry.NOW and policy.page is Page.NO
)
_NO_FAILURE = frozenset(reason.value for reason, policy in POLICIES.items() if policy.page is Page.NO)
_CURED_BY_SOMEBODY = frozenset(
    reason.value for reason, policy in POLICIES.items() if policy.page in (Page.AT_ONCE, Page.GIVEN_UP)
)


def is_ordered(reason: str) -> bool:
    """Somebody asked for it: an operator, a reload, a plan."""
    return reason in _ORDERS


def must_be_cured(reason: str) -> bool:
    """Somebody has to cure a failure for this reason; waiting does not help."""
    return reason in _CURED_BY_SOMEBODY


def is_failure(reason: str) -> bool:
    """True also for a reason of another version, which is not known here."""
    return reason not in _NO_FAILURE
