"""Retry and backoff: the policy of each reason for which a session ends. When the next attempt follows, when
somebody is paged, and whether the attempt has spent a login. docs/kinds.md has the same as a table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from supervisor.core.backoff import Backoff
from supervisor.core.state import Health, Phase, Reach, RetryState, SessionState, TunnelState
from tunnels.base import Reason
from tunnels.settings import Reconnect, Tunnel

SLOWEST_SECONDS = (600.0, 1200.0)  # between attempts where each one makes it worse
# after the first and second refused handshake of a tunnel that never worked; then it is no accident
SUSPECTED_SECONDS = (60.0, 300.0)
HOURLY_SECONDS = (3600.0, 5400.0)  # between attempts then: most likely our certificate or key is wrong
# After each attempt in a row that failed for a cause that somebody has to cure; the last entry also for more.
# The first ones are short: a server that is just starting, or a clock that is just being set, cures itself.
CURABLE_SECONDS = (30.0, 60.0, 90.0, 90.0, 300.0, 600.0, 1200.0, 1800.0)
UNASKED_ATTEMPTS = 3  # in a row that nothing answers, before the gateway is asked first
ASKED_SECONDS = 30.0  # between two attempts while the gateway, when asked, does not answer
SHORTEST_LIFE_SECONDS = 5.0  # that a session must live for its end to count as an ordinary time limit


class Retry(enum.Enum):
    """What a reason for an ended session means for the next one."""

    NOW = "now"  # asked for: no pause
    BACKOFF = "backoff"  # transient: tried again, without an end
    EXPIRED = "expired"  # the remote gateway's time limit: no pause after a session that had lived
    # transient if the tunnel has worked before; else most likely our own fault: ever slower, for ever
    SUSPECT = "suspect"
    SLOW = "slow"  # every attempt makes it worse: slowly, for ever
    CURABLE = "curable"  # somebody has to cure it, and an attempt does no harm: slower and slower, for ever
    # A few times. Then hourly if the account was accepted before, else never: it may be locked.
    LOGIN = "login"
    NEVER = (
        "never"  # an attempt does harm: waits for an operator, a changed secret or a changed configuration
    )


class Page(enum.Enum):
    """When a failure for a reason pages."""

    NO = "no"  # it is no failure
    LATER = "later"  # when the tunnel was down for `alert.after`
    AT_ONCE = "at once"  # somebody has to cure it
    GIVEN_UP = "given up"  # when the attempts are used up, or the tunnel was down for `alert.after`


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What one reason means for the next attempt and for the pager."""

    retry: Retry
    page: Page = Page.LATER
    login: bool = False  # an attempt that ends for it has spent a login, which a lockout may count
    clock: bool = False  # this host's wrong clock can be the cause: tried again as soon as that is set
    harm: str = ""  # what one more attempt would do, where there is none


_ASKED = RetryPolicy(Retry.NOW, Page.NO)
_PROGRESS = RetryPolicy(Retry.BACKOFF, Page.NO)
_TRANSIENT = RetryPolicy(Retry.BACKOFF)
_CURABLE = RetryPolicy(Retry.CURABLE, Page.AT_ONCE)
_CLOCK = RetryPolicy(Retry.CURABLE, Page.AT_ONCE, clock=True)

POLICIES: Mapping[Reason, RetryPolicy] = MappingProxyType(
    {
        Reason.CONFIGURED: _ASKED,
        Reason.STARTED: _ASKED,
        Reason.STOPPED: _ASKED,
        Reason.RESTARTED: _ASKED,
        Reason.RECONFIGURED: _ASKED,
        Reason.INPUTS_CHANGED: _ASKED,
        Reason.CLOCK_SET: _ASKED,
        Reason.PLANNED: _ASKED,
        Reason.SHUTDOWN: _ASKED,
        Reason.LOCK: RetryPolicy(Retry.NOW),
        Reason.RETRY: _PROGRESS,
        Reason.CONNECTED: _PROGRESS,
        Reason.HEALTHY: _PROGRESS,
        Reason.DEGRADED: _PROGRESS,
        Reason.EXITED: _TRANSIENT,
        Reason.KILLED: _TRANSIENT,
        Reason.START_TIMEOUT: _TRANSIENT,
        Reason.UNHEALTHY: _TRANSIENT,
        Reason.DESTINATION: _TRANSIENT,
        Reason.DEVICE_LOST: _TRANSIENT,
        Reason.NETWORK: _TRANSIENT,
        Reason.DNS: _TRANSIENT,
        Reason.PEER_TIMEOUT: _TRANSIENT,
        Reason.PEER_CLOSED: _TRANSIENT,
        Reason.HANDSHAKE: RetryPolicy(Retry.SUSPECT, clock=True),
        Reason.UPLINK: _TRANSIENT,
        Reason.LOCAL: _TRANSIENT,
        Reason.SESSION_EXPIRED: RetryPolicy(Retry.EXPIRED),
        Reason.PROTOCOL: _TRANSIENT,
        Reason.FAR_END_FULL: RetryPolicy(Retry.BACKOFF, login=True),
        Reason.BANNED: RetryPolicy(Retry.SLOW),
        Reason.ADDRESS_CONFLICT: RetryPolicy(Retry.SLOW, login=True),
        Reason.AUTH: RetryPolicy(
            Retry.LOGIN,
            Page.GIVEN_UP,
            login=True,
            clock=True,
            harm="one more refused login may lock the account",
        ),
        Reason.CHALLENGE: RetryPolicy(
            Retry.NEVER,
            Page.AT_ONCE,
            login=True,
            harm="each attempt asks a person again, and a question that nobody answers may count as a refused login",
        ),
        Reason.KICKED: RetryPolicy(
            Retry.NEVER,
            Page.AT_ONCE,
            login=True,
            harm="an administrator there has ended the session for good, and may lock out who comes back unasked",
        ),
        Reason.CERTIFICATE: _CLOCK,
        Reason.OUR_CERTIFICATE: _CLOCK,
        Reason.KEY: _CURABLE,
        Reason.CLIENT_CONFIG: _CURABLE,
        Reason.MISSING_INPUT: _CURABLE,
        Reason.SECRET: _CURABLE,
        Reason.MISSING_BINARY: _CURABLE,
        Reason.MISSING_RIGHT: _CURABLE,
    }
)

# Attempts in a row that failed for these are counted (`RetryState.suspicions`).
COUNTED = frozenset({Retry.SUSPECT, Retry.CURABLE})


def login_left(tunnel: Tunnel, retry: RetryState) -> bool:
    """Whether the account may be tried by itself, as far as refused logins are concerned."""
    return retry.refusals < tunnel.login.max_attempts or retry.proven


def needs_person(tunnel: Tunnel, state: TunnelState, since: float) -> bool:
    """Whether a tunnel that is not well, and has been down since that moment, can be helped by a person only,
    as far as is known.
    """
    if state.phase is Phase.FAILED or state.asking is not None:
        return True
    failure = state.failure
    if failure is None or failure.at < since or state.phase is Phase.UP:
        return False
    page = POLICIES[failure.reason].page
    spent = state.retry.refusals >= tunnel.login.max_attempts
    return page is Page.AT_ONCE or (page is Page.GIVEN_UP and spent)


def not_retried(state: TunnelState) -> str | None:
    """Why a tunnel that has failed is not tried again by itself, as one sentence; None: it is."""
    if state.phase is not Phase.FAILED:
        return None
    harm = POLICIES[state.reason].harm
    return f"{harm}; it begins when a secret or the configuration is corrected, or with: facilitator start"


# Ends of an attempt that most likely nothing has answered.
_NO_ANSWER = frozenset(
    {Reason.NETWORK, Reason.DNS, Reason.START_TIMEOUT, Reason.PEER_TIMEOUT, Reason.UNHEALTHY}
)


def stable(tunnel: Tunnel, session: SessionState, now: float) -> bool:
    """Whether this session was well for long enough to forget the failures before it. Without probes, being
    connected counts as health.
    """
    probed = bool(tunnel.probe.targets)
    well = session.liveness.healthy_since if probed else session.session.connected
    return (
        well is not None
        and session.health is not Health.UNHEALTHY
        and now - well >= tunnel.reconnect.stable_after
    )


def backoff(reconnect: Reconnect, attempts: int, jitter: float) -> float:
    """Seconds to wait: none for the first retry after a stable session, then exponential backoff with full
    jitter from `reconnect.first` up to `reconnect.max`. `jitter` lies in [0, 1).
    """
    if attempts == 0:
        return 0.0
    return Backoff(reconnect.first, reconnect.first, reconnect.max).pause(attempts, jitter)


def pause(
    tunnel: Tunnel, retry: RetryState, session: SessionState, now: float, jitter: float
) -> float | None:
    """Seconds before the next attempt after this session, which ended for its `reason`; None: it takes an
    operator or a change.
    """
    transient = backoff(tunnel.reconnect, retry.attempts, jitter)
    wait: float | None = None
    match POLICIES[session.reason].retry:
        case Retry.NOW:
            wait = 0.0
        case Retry.BACKOFF:
            wait = transient
        case Retry.EXPIRED:
            wait = 0.0 if _lived(session, now) else transient
        case Retry.SUSPECT:
            wait = transient if retry.proven else _suspected(retry.suspicions, jitter)
        case Retry.SLOW:
            wait = _between(SLOWEST_SECONDS, jitter)
        case Retry.CURABLE:
            wait = CURABLE_SECONDS[min(retry.suspicions, len(CURABLE_SECONDS)) - 1]
        case Retry.LOGIN if retry.refusals < tunnel.login.max_attempts:
            wait = tunnel.login.pause * retry.refusals
        case Retry.LOGIN if retry.proven:
            wait = _between(HOURLY_SECONDS, jitter)
        case Retry.LOGIN | Retry.NEVER:
            wait = None
    return wait


def unreached(session: SessionState, endpoint: Reach) -> bool:
    """Whether no packet of the remote gateway has answered this session's attempt to connect: it harms nobody
    and may be repeated soon.
    """
    if endpoint is Reach.ANSWERS or session.reason not in _NO_ANSWER:
        return False
    never_connected = session.session.connected is None and session.reason in (Reason.NETWORK, Reason.DNS)
    return never_connected or endpoint is Reach.SILENT


def unreached_pause(reconnect: Reconnect, attempts: int, endpoint: Reach, jitter: float) -> float:
    """Seconds before the next attempt after so many in a row that nothing has answered.

    A gateway that is known to answer is asked itself meanwhile (`app.watchers.endpoints`), which ends the
    pause. Then a client is started only now and then, in case the gateway has moved or its answers are
    filtered.
    """
    longest = min(reconnect.unreachable, reconnect.max)
    if endpoint is Reach.SILENT and attempts > UNASKED_ATTEMPTS:
        longest = max(longest, min(ASKED_SECONDS, reconnect.max))
    return longest * (1.0 + jitter) / 2


def _lived(session: SessionState, now: float) -> bool:
    facts = session.session
    connected = facts.connected is not None and now - facts.connected >= SHORTEST_LIFE_SECONDS
    return facts.resumed or connected


def _suspected(suspicions: int, jitter: float) -> float:
    first = suspicions <= len(SUSPECTED_SECONDS)
    return SUSPECTED_SECONDS[suspicions - 1] if first else _between(HOURLY_SECONDS, jitter)


def _between(bounds: tuple[float, float], jitter: float) -> float:
    shortest, longest = bounds
    return shortest + jitter * (longest - shortest)


def accepted(retry: RetryState) -> RetryState:
    """After the remote gateway has accepted a session with these inputs."""
    return replace(retry, refusals=0, login_after=0.0, proven=True)


def from_nothing(retry: RetryState) -> RetryState:
    """Earlier failures do not count any more, and nothing of an earlier session is used again."""
    return replace(
        retry, attempts=1, refusals=0, suspicions=0, login_after=0.0, resumable=False, recovery=None
    )
