"""Retry and backoff: the policy of each reason, and the pause before the next attempt."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from supervisor.core.backoff import Backoff
from supervisor.core.state import Health, Reach, RetryState, SessionState
from tunnels.base import Reason
from tunnels.settings import Reconnect, Tunnel

SLOWEST_SECONDS = (600.0, 1200.0)  # between attempts where each one makes it worse
# after the first and second refused handshake of a tunnel that never worked; then it is no accident
SUSPECTED_SECONDS = (60.0, 300.0)
HOURLY_SECONDS = (3600.0, 5400.0)  # between attempts then: most likely our certificate or key is wrong
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
    LOGIN = "login"  # a few times, then never: an account may be locked
    NEVER = "never"  # waits for an operator, a changed secret or a changed configuration


RETRY: Mapping[Reason, Retry] = MappingProxyType(
    {
        Reason.CONFIGURED: Retry.NOW,
        Reason.STARTED: Retry.NOW,
        Reason.STOPPED: Retry.NOW,
        Reason.RESTARTED: Retry.NOW,
        Reason.RECONFIGURED: Retry.NOW,
        Reason.INPUTS_CHANGED: Retry.NOW,
        Reason.PLANNED: Retry.NOW,
        Reason.SHUTDOWN: Retry.NOW,
        Reason.RETRY: Retry.BACKOFF,
        Reason.CONNECTED: Retry.BACKOFF,
        Reason.HEALTHY: Retry.BACKOFF,
        Reason.DEGRADED: Retry.BACKOFF,
        Reason.EXITED: Retry.BACKOFF,
        Reason.KILLED: Retry.BACKOFF,
        Reason.START_TIMEOUT: Retry.BACKOFF,
        Reason.UNHEALTHY: Retry.BACKOFF,
        Reason.DESTINATION: Retry.BACKOFF,
        Reason.DEVICE_LOST: Retry.BACKOFF,
        Reason.NETWORK: Retry.BACKOFF,
        Reason.DNS: Retry.BACKOFF,
        Reason.PEER_TIMEOUT: Retry.BACKOFF,
        Reason.PEER_CLOSED: Retry.BACKOFF,
        Reason.HANDSHAKE: Retry.SUSPECT,
        Reason.UPLINK: Retry.BACKOFF,
        Reason.LOCAL: Retry.BACKOFF,
        Reason.SESSION_EXPIRED: Retry.EXPIRED,
        Reason.PROTOCOL: Retry.BACKOFF,
        Reason.FAR_END_FULL: Retry.BACKOFF,
        Reason.BANNED: Retry.SLOW,
        Reason.ADDRESS_CONFLICT: Retry.SLOW,
        Reason.AUTH: Retry.LOGIN,
        Reason.CHALLENGE: Retry.NEVER,
        Reason.KICKED: Retry.NEVER,
        Reason.CERTIFICATE: Retry.NEVER,
        Reason.OUR_CERTIFICATE: Retry.NEVER,
        Reason.KEY: Retry.NEVER,
        Reason.CLIENT_CONFIG: Retry.NEVER,
        Reason.MISSING_INPUT: Retry.NEVER,
        Reason.SECRET: Retry.NEVER,
        Reason.MISSING_BINARY: Retry.NEVER,
        Reason.MISSING_RIGHT: Retry.NEVER,
    }
)


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
    match RETRY[session.reason]:
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
        case Retry.LOGIN if retry.refusals < tunnel.login.max_attempts:
            wait = tunnel.login.pause * retry.refusals
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
