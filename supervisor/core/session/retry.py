"""When a tunnel is tried again: the policy of each reason and the pause before an attempt."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from supervisor.core.backoff import Backoff
from supervisor.core.state import Health, TunnelState
from tunnels.base import Reason
from tunnels.settings import Reconnect, Tunnel

SLOWEST = (600.0, 1200.0)  # seconds between attempts where each one makes it worse
SUSPECTED = (
    60.0,
    300.0,
)  # seconds after the first and second refused handshake of a tunnel that never worked; then it is no accident
HOURLY = (3600.0, 5400.0)  # seconds between attempts then: most likely our certificate or key is wrong
SHORTEST_LIFE = (
    5.0  # seconds that a session must have lived for its end to count as the far side's ordinary time limit
)


class Retry(enum.Enum):
    """What a reason for an ended session means for the next one."""

    NOW = "now"  # asked for: no pause
    BACKOFF = "backoff"  # transient: again and again, for ever
    EXPIRED = "expired"  # the far side's time limit: no pause after a session that had lived
    # transient if the tunnel has worked before; else most likely our own fault: ever slower, for ever
    SUSPECT = "suspect"
    SLOW = "slow"  # every attempt makes it worse: slowly, for ever
    LOGIN = "login"  # a few times, then never: an account may be locked
    NEVER = "never"  # waits for a human, a changed secret or a changed configuration


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
        Reason.MISSING_BINARY: Retry.NEVER,
        Reason.MISSING_RIGHT: Retry.NEVER,
    }
)


def stable(tunnel: Tunnel, state: TunnelState, now: float) -> bool:
    """Was this session well for long enough to forget the failures before it? Without probes, being
    connected counts as health.
    """
    well = state.healthy_since if tunnel.probe.targets else state.session.connected
    return (
        well is not None
        and state.health is not Health.UNHEALTHY
        and now - well >= tunnel.reconnect.stable_after
    )


def backoff(reconnect: Reconnect, attempts: int, jitter: float) -> float:
    """Seconds to wait: none for the first retry after a stable session, then exponential backoff with full
    jitter from `reconnect.first` up to `reconnect.max`. `jitter` lies in [0, 1).
    """
    if attempts == 0:
        return 0.0
    return Backoff(reconnect.first, reconnect.first, reconnect.max).pause(attempts, jitter)


def pause(tunnel: Tunnel, state: TunnelState, reason: Reason, now: float, jitter: float) -> float | None:
    """Seconds before the next attempt after a session that ended for `reason`; None: it takes a human or a
    change.
    """
    wait: float | None = None
    match RETRY[reason]:
        case Retry.NOW:
            wait = 0.0
        case Retry.BACKOFF:
            wait = backoff(tunnel.reconnect, state.attempts, jitter)
        case Retry.EXPIRED:
            lived = state.session.resumed or (
                state.session.connected is not None and now - state.session.connected >= SHORTEST_LIFE
            )
            wait = 0.0 if lived else backoff(tunnel.reconnect, state.attempts, jitter)
        case Retry.SUSPECT:
            wait = (
                backoff(tunnel.reconnect, state.attempts, jitter)
                if state.proven
                else _suspected(state.suspicions, jitter)
            )
        case Retry.SLOW:
            wait = _between(SLOWEST, jitter)
        case Retry.LOGIN:
            wait = tunnel.login.pause * state.refusals if state.refusals < tunnel.login.max_attempts else None
        case Retry.NEVER:
            wait = None
    return wait


def _suspected(suspicions: int, jitter: float) -> float:
    return SUSPECTED[suspicions - 1] if suspicions <= len(SUSPECTED) else _between(HOURLY, jitter)


def _between(bounds: tuple[float, float], jitter: float) -> float:
    shortest, longest = bounds
    return shortest + jitter * (longest - shortest)
