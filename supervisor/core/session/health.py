"""What probe rounds make of a session that goes on: healthy, degraded, or unhealthy for a reason that no
new session would help.

Probed -> machine -> the functions here, which change only the state; what ends or renews a session is the
machine's
"""

from __future__ import annotations

import math
from dataclasses import replace

from supervisor.core.session.liveness import dead_destination, heard
from supervisor.core.session.quality import judged, remembered
from supervisor.core.state import Failure, Health, TunnelState, well
from tunnels.base import Reason
from tunnels.settings import Tunnel


def proven(tunnel: Tunnel, state: TunnelState, rtt: float, now: float) -> TunnelState:
    """After a round that was answered within `rtt` seconds."""
    since = state.healthy_since if state.healthy_since is not None else now
    session = replace(state.session, renewed=False) if state.session.renewed else state.session
    state = replace(heard(state), last_rtt=rtt, healthy_since=since, session=session)
    if state.health is Health.HEALTHY:
        return state
    deadline = min(since + tunnel.reconnect.stable_after, state.reconnect_by or math.inf)
    return replace(state, health=Health.HEALTHY, reason=Reason.HEALTHY, since=now, deadline=deadline)


def rated(tunnel: Tunnel, state: TunnelState, rtt: float | None, now: float) -> TunnelState:
    """How well it works after one more round, as long as it does."""
    if state.health is not Health.HEALTHY:
        return state
    recent = remembered(state.recent, rtt)
    degraded = state.full or judged(tunnel.probe.degraded, recent, state.degraded)
    return _called(replace(state, recent=recent), degraded, now)


def filled(tunnel: Tunnel, state: TunnelState, text: str | None, now: float) -> TunnelState:
    """After its client said that it takes no more connections, or (None) that it does again."""
    state = replace(state, full=text)
    return _called(state, text, now) if well(tunnel, state) else state


def _called(state: TunnelState, degraded: str | None, now: float) -> TunnelState:
    """It works; what is bad about it is this, None: nothing."""
    if degraded == state.degraded:
        return state
    return replace(
        state, degraded=degraded, reason=Reason.DEGRADED if degraded else Reason.HEALTHY, since=now
    )


def nothing_behind(tunnel: Tunnel, state: TunnelState, now: float) -> TunnelState:
    """The tunnel does its part: it stays as it is for whoever reaches something else through it, and until
    the destination is back.
    """
    if state.health is Health.UNHEALTHY and state.reason is Reason.DESTINATION:
        return state
    return _sick(state, Failure(Reason.DESTINATION, dead_destination(tunnel, state), now))


def blind(state: TunnelState, now: float) -> TunnelState:
    """Nothing can be known about the tunnel while the host's own way out is dead; it may well live on."""
    if state.health is Health.UNHEALTHY:
        return state
    return _sick(state, Failure(Reason.UPLINK, "the uplink of this host is dead", now))


def _sick(state: TunnelState, failure: Failure) -> TunnelState:
    return replace(
        state,
        health=Health.UNHEALTHY,
        reason=failure.reason,
        since=failure.at,
        failure=failure,
        healthy_since=None,
        deadline=state.reconnect_by,
        recent=(),
        degraded=None,
    )
