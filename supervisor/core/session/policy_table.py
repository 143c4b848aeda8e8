"""The policy of each reason as a table in Markdown, for docs/kinds.md; from `core.session.retry` itself."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.session.retry import (
    CURABLE_SECONDS,
    HOURLY_SECONDS,
    POLICIES,
    SLOWEST_SECONDS,
    SUSPECTED_SECONDS,
    Page,
    Retry,
    RetryPolicy,
)


def policy_table() -> Iterator[str]:
    """One row for each reason that is a failure."""
    yield from ("| reason | next attempt | pages | login spent |", "|---|---|---|---|")
    for reason, policy in POLICIES.items():
        if policy.page is not Page.NO:
            yield f"| `{reason}` | {next_attempt(policy)} | {pages(policy)} | {'yes' if policy.login else 'no'} |"


_PAGES = {
    Page.LATER: "after `alert.after`",
    Page.AT_ONCE: "at once",
    Page.GIVEN_UP: "when `max_attempts` are used up, or after `alert.after`",
}


def pages(policy: RetryPolicy) -> str:
    """When a failure pages, as text."""
    return _PAGES[policy.page]


def next_attempt(policy: RetryPolicy) -> str:
    """When the next attempt follows, as text."""
    if policy.retry is Retry.LOGIN:
        return f"{_ATTEMPTS[policy.retry]}, else none: {policy.harm}; once more when the clock is set, with `login.totp`"
    if policy.retry is Retry.NEVER:
        return f"none: {policy.harm}"
    return f"{_ATTEMPTS[policy.retry]}{'; at once when the clock is set' if policy.clock else ''}"


def _range(seconds: tuple[float, float]) -> str:
    return f"{_minutes(seconds[0])} to {_minutes(seconds[1])} min"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g}"


def _list(seconds: tuple[float, ...], last: str) -> str:
    return f"{', '.join(_minutes(each) for each in seconds)} min, then every {last}"


_GROWING = "growing pauses up to `reconnect.max`"
_ATTEMPTS = {
    Retry.NOW: "as soon as this member holds the lock",
    Retry.BACKOFF: f"{_GROWING}, for ever",
    Retry.EXPIRED: "at once, if the session had lived for a while; else growing pauses",
    Retry.SUSPECT: f"{_GROWING} if the tunnel has worked; else after {_list(SUSPECTED_SECONDS, _range(HOURLY_SECONDS))}",
    Retry.SLOW: f"every {_range(SLOWEST_SECONDS)}",
    Retry.CURABLE: f"after {_list(CURABLE_SECONDS[:-1], _minutes(CURABLE_SECONDS[-1]))} min",
    Retry.LOGIN: "`login.max_attempts` times, `login.pause` apart; then every "
    f"{_range(HOURLY_SECONDS)} if the account was accepted before",
}
