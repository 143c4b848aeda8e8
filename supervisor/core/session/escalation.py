"""How far the next attempt goes: from rung to rung, because what did not help is not tried again.

in place (the machine's `_renew`) -> resume: a new client continues the session -> login -> login at the next
server
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.session.retry import RETRY, Retry
from supervisor.core.state import Health, Rung, TunnelState
from tunnels.base import Reason

# after these the session may still live at the far side
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
# after these another server of the far side may do better
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


def climb(state: TunnelState, reason: Reason) -> TunnelState:
    """The state with the rung of the next attempt, after a session that ended for `reason`."""
    if RETRY[reason] is Retry.NOW:
        return state
    worked = (
        state.session.connected is not None and reason is not Reason.UNHEALTHY
    ) or state.health is Health.HEALTHY
    unheard = reason in (
        Reason.NETWORK,
        Reason.DNS,
    )  # the far side was never asked whether the session still lives
    if state.kept and reason in _RESUMABLE and (worked or unheard or not state.session.resumed):
        return replace(state, rung=Rung.RESUME)
    if worked or state.session.resumed or reason not in _ELSEWHERE:
        return replace(state, kept=False, rung=Rung.LOGIN)
    return replace(state, kept=False, rung=Rung.NEXT_REMOTE, remote=state.remote + 1)
