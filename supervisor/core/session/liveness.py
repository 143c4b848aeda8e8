"""Which part of the way is dead: what missed probe rounds mean, and the one word that says it.

    Probed -> machine -> `missed`, `blamed` -> reason and health of the tunnel's state -> `dead_leg` ->
    status, log, metric, incident

An answer of a target proves the whole way. Without one, what else came out of the tunnel tells a dead
destination from a dead tunnel: the one is not helped by a new session, and whoever uses another host behind
the tunnel would only lose his.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from supervisor.core.state import Health, Leg, Phase, Proof, Reach, TunnelState, Uplink, Want, well
from tunnels.base import Reason
from tunnels.settings import Tunnel

ROUNDS = (
    3  # probe rounds without any answer after which something is dead (reference: any-of targets, 3 rounds)
)
SILENT = ROUNDS - 1  # of these, the last ones in which nothing came out of the tunnel: then it is dead
STALE = 2 * ROUNDS  # the same where the destination was known to be dead and the tunnel to work
# rounds (some five minutes) for which packets that are no answer to ours save a tunnel; then it is tried
# anew, once
HEARSAY = 150

LOCAL = frozenset(
    {
        Reason.LOCAL,
        Reason.CLIENT_CONFIG,
        Reason.MISSING_INPUT,
        Reason.SECRET,
        Reason.MISSING_BINARY,
        Reason.MISSING_RIGHT,
        Reason.KILLED,
        Reason.UPLINK,
    }
)  # what the far side has no part in
_UNREACHED = frozenset(
    {Reason.NETWORK, Reason.DNS}
)  # the client itself says that it did not get as far as the gateway
_IN_UP: Mapping[Reason, Leg] = MappingProxyType(
    {Reason.UPLINK: Leg.UPLINK, Reason.DESTINATION: Leg.DESTINATION}
)

SENTENCES: Mapping[Leg, str] = MappingProxyType(
    {
        Leg.UPLINK: "this host's own way out",
        Leg.ENDPOINT: "between this host and the far side's gateway, or the gateway itself",
        Leg.TUNNEL: "the session with the far side, whose gateway is not known to be dead",
        Leg.DESTINATION: "behind the tunnel, which itself carries packets",
    }
)


def missed(state: TunnelState, proof: Proof | None) -> TunnelState:
    """After one more round in which no target answered."""
    return replace(
        state,
        misses=state.misses + 1,
        silence=state.silence + 1 if proof is None else 0,
        unheard=0 if proof is Proof.ANSWERED else state.unheard + 1,
    )


def heard(state: TunnelState) -> TunnelState:
    """After a round that was answered."""
    return replace(state, misses=0, silence=0, unheard=0, doubted=False)


def blamed(state: TunnelState) -> Leg | None:
    """What the rounds so far show to be dead, destination or tunnel; None: it is too early to say, or
    nothing has changed.
    """
    if state.misses < ROUNDS:
        return None
    if state.silence == 0:
        return Leg.TUNNEL if state.unheard >= HEARSAY and not state.doubted else Leg.DESTINATION
    return Leg.TUNNEL if state.silence >= _patience(state) else None


def _patience(state: TunnelState) -> int:
    """Rounds of silence that end a session: a client that was told to reconnect in place has the time for
    that.
    """
    if state.health is Health.UNHEALTHY and state.reason is Reason.DESTINATION:
        return STALE
    return ROUNDS if state.session.renewed else SILENT


def dead_destination(tunnel: Tunnel, state: TunnelState) -> str:
    """The sentence about a destination that is dead behind a tunnel that works."""
    shows = "packets come out of it" if state.unheard else "its far end answers"
    return f"the tunnel works ({shows}), but nothing behind it answers: {', '.join(tunnel.probe.targets)}"


def dead_leg(tunnel: Tunnel, state: TunnelState, uplink: Uplink) -> Leg | None:
    """The part of the way that is known to be dead; None: none is, or nobody can say which, or it is this
    host that fails.
    """
    if state.want is Want.DOWN or well(tunnel, state):
        return None
    if not uplink.alive:
        return Leg.UPLINK
    if state.phase is Phase.UP:
        return _of_session(state)
    reason = state.reason if state.failure is None else state.failure.reason
    if reason is Reason.UPLINK:
        return Leg.UPLINK
    if state.failure is None or reason in LOCAL:
        return None
    return Leg.ENDPOINT if state.endpoint is Reach.SILENT or _unreached(reason, state) else Leg.TUNNEL


def _of_session(state: TunnelState) -> Leg | None:
    if state.health is not Health.UNHEALTHY:
        return None  # connected a moment ago: no probe has said anything yet
    leg = _IN_UP.get(state.reason, Leg.TUNNEL)
    return Leg.ENDPOINT if leg is Leg.TUNNEL and state.endpoint is Reach.SILENT else leg


def _unreached(reason: Reason, state: TunnelState) -> bool:
    return reason in _UNREACHED and state.endpoint is not Reach.ANSWERS
