"""The escalation ladder: what did not help is not tried again.

in place (`core.session.machine`) -> resume: a new client continues the session -> login -> login at the next
server
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.session.retry import POLICIES, Retry
from supervisor.core.state import Health, RecoveryStep, RetryState, SessionState
from tunnels.base import Reason

# after these the session may still live at the remote gateway
_RESUMABLE = frozenset(
    {
        Reason.DEVICE_LOST,
        Reason.DNS,
        Reason.EXITED,
        Reason.KILLED,
        Reason.LOCAL,
        Reason.NETWORK,
        Reason.PEER_CLOSED,
        Reason.PEER_TIMEOUT,
        Reason.START_TIMEOUT,
        Reason.UNHEALTHY,
    }
)
# after these another server may do better
_ELSEWHERE = frozenset(
    {
        Reason.DNS,
        Reason.EXITED,
        Reason.FAR_END_FULL,
        Reason.HANDSHAKE,
        Reason.NETWORK,
        Reason.PEER_CLOSED,
        Reason.PEER_TIMEOUT,
        Reason.START_TIMEOUT,
        Reason.UNHEALTHY,
    }
)


def escalate(retry: RetryState, session: SessionState) -> RetryState:
    """How the next attempt is made after this session, which ended for its `reason`."""
    facts, reason = session.session, session.reason
    if POLICIES[reason].retry is Retry.NOW:
        return retry
    connected = facts.connected is not None and reason is not Reason.UNHEALTHY
    worked = connected or session.health is Health.HEALTHY
    unasked = reason in (Reason.NETWORK, Reason.DNS)  # whether the session still lives was never asked
    if retry.resumable and reason in _RESUMABLE and (worked or unasked or not facts.resumed):
        return replace(retry, recovery=RecoveryStep.RESUME)
    if worked or facts.resumed or reason not in _ELSEWHERE:
        return replace(retry, resumable=False, recovery=RecoveryStep.LOGIN)
    return replace(retry, resumable=False, recovery=RecoveryStep.NEXT_REMOTE, remote=retry.remote + 1)
