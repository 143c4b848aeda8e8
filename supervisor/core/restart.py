"""When a tunnel is tried again: the policy of each reason and the pause before an attempt."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from supervisor.core.state import Health, TunnelState
from tunnels.base import Reason
from tunnels.settings import Reconnect, Tunnel

LOGIN_PAUSE = 5.0       # seconds before the second login; the n-th waits n-1 times as long


class Retry(enum.Enum):
    """What a reason for an ended session means for the next one."""

    NOW = "now"             # asked for: no pause
    BACKOFF = "backoff"     # transient: again and again, for ever
    LOGIN = "login"         # a few times, then never: an account may be locked
    NEVER = "never"         # waits for a human, a changed secret or a changed configuration


RETRY: Mapping[Reason, Retry] = MappingProxyType({
    Reason.CONFIGURED: Retry.NOW,
    Reason.STARTED: Retry.NOW,
    Reason.STOPPED: Retry.NOW,
    Reason.RESTARTED: Retry.NOW,
    Reason.RECONFIGURED: Retry.NOW,
    Reason.INPUTS_CHANGED: Retry.NOW,
    Reason.SHUTDOWN: Retry.NOW,
    Reason.RETRY: Retry.BACKOFF,
    Reason.CONNECTED: Retry.BACKOFF,
    Reason.HEALTHY: Retry.BACKOFF,
    Reason.EXITED: Retry.BACKOFF,
    Reason.KILLED: Retry.BACKOFF,
    Reason.START_TIMEOUT: Retry.BACKOFF,
    Reason.UNHEALTHY: Retry.BACKOFF,
    Reason.DEVICE_LOST: Retry.BACKOFF,
    Reason.NETWORK: Retry.BACKOFF,
    Reason.DNS: Retry.BACKOFF,
    Reason.PEER_TIMEOUT: Retry.BACKOFF,
    Reason.PEER_CLOSED: Retry.BACKOFF,
    Reason.HANDSHAKE: Retry.BACKOFF,
    Reason.LOCAL: Retry.BACKOFF,
    Reason.SESSION_EXPIRED: Retry.BACKOFF,
    Reason.FAR_END_FULL: Retry.BACKOFF,
    Reason.BANNED: Retry.BACKOFF,
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
})


def stable(tunnel: Tunnel, state: TunnelState, now: float) -> bool:
    """Was this session well for long enough to forget the failures before it? Without probes, being connected counts as health."""
    well = state.healthy_since if tunnel.probe.targets else state.session.connected
    return well is not None and state.health is not Health.UNHEALTHY and now - well >= tunnel.reconnect.stable_after


def backoff(reconnect: Reconnect, attempts: int, jitter: float) -> float:
    """Seconds to wait: none for the first retry after a stable session, then full jitter from `first` up to a doubling, capped ceiling.

    `jitter` lies in [0, 1). The ceiling doubles with each attempt, so that tunnels that fell together do not knock together
    (exponential backoff with full jitter, AWS Architecture Blog 2015).
    """
    if attempts == 0:
        return 0.0
    ceiling = min(reconnect.max, reconnect.first * 2.0 ** min(attempts - 1, 62))
    return reconnect.first + jitter * (ceiling - reconnect.first)


def pause(tunnel: Tunnel, state: TunnelState, reason: Reason, jitter: float) -> float | None:
    """Seconds before the next attempt after a session that ended for `reason`; None: it takes a human or a change."""
    match RETRY[reason]:
        case Retry.NOW:
            return 0.0
        case Retry.BACKOFF:
            return backoff(tunnel.reconnect, state.attempts, jitter)
        case Retry.LOGIN:
            return LOGIN_PAUSE * state.refusals if state.refusals < tunnel.login.max_attempts else None
        case Retry.NEVER:
            return None
