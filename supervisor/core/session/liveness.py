"""Which part of the way is dead: what unanswered probe rounds mean, and the one word that says it.

    Probed -> machine -> `missed`, `blamed` -> reason and health of the session -> `dead_leg` -> status, log,
    metric, incident

An answer of a probe target proves the whole way. Without one, packets that come out of the tunnel tell a dead
destination from a dead tunnel. A dead destination is not helped by a new session, which would only interrupt
those who use other hosts behind the tunnel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from supervisor.core.snapshot import Uplink
from supervisor.core.state import (
    Health,
    Leg,
    Liveness,
    Phase,
    Proof,
    Reach,
    SessionState,
    TunnelState,
    Want,
    well,
)
from tunnels.base import Reason
from tunnels.settings import Tunnel

ROUNDS = 3  # probe rounds in a row without any answer after which something is dead
SILENT_ROUNDS = ROUNDS - 1  # of these, the last ones in which nothing came out of a dead tunnel
STALE_ROUNDS = 2 * ROUNDS  # the same where the destination was known to be dead and the tunnel to work
# After this many rounds (about 5 min) with inbound packets but no reply to us, restart the session once.
UNPROVEN_ROUNDS = 150

BOTH_WAYS = (Proof.ANSWERED, Proof.AGREED)
_SHOWN: Mapping[Proof, str] = MappingProxyType(
    {
        Proof.ANSWERED: "its remote end answers",
        Proof.RECEIVED: "packets come out of it",
        Proof.PROTOCOL: "the gateway's own packets come",
        Proof.REPEATED: "a target answers now and then",
        Proof.TRAFFIC: "packets come back to staff",
        Proof.AGREED: "the gateway answers the client's own packets",
    }
)

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
)  # causes on this host: the remote gateway has no part in them
_UNREACHED = frozenset({Reason.NETWORK, Reason.DNS})  # the client says that it did not reach the gateway
_IN_UP: Mapping[Reason, Leg] = MappingProxyType(
    {Reason.UPLINK: Leg.UPLINK, Reason.DESTINATION: Leg.DESTINATION}
)

SENTENCES: Mapping[Leg, str] = MappingProxyType(
    {
        Leg.UPLINK: "this host's own way out",
        Leg.ENDPOINT: "between this host and the remote gateway, or the gateway itself",
        Leg.TUNNEL: "the session with the remote gateway, which is not known to be dead",
        Leg.DESTINATION: "behind the tunnel, which itself carries packets",
    }
)


def missed(liveness: Liveness, evidence: Proof | None, now: float) -> Liveness:
    """After one more round in which no target answered; `evidence` that packets pass all the same."""
    return replace(
        liveness,
        misses=liveness.misses + 1,
        missed_since=now if liveness.missed_since is None else liveness.missed_since,
        rounds_without_traffic=liveness.rounds_without_traffic + 1 if evidence is None else 0,
        rounds_without_reply=0 if evidence in BOTH_WAYS else liveness.rounds_without_reply + 1,
    )


def forgotten(liveness: Liveness) -> Liveness:
    """The missed rounds do not count any more."""
    return replace(
        liveness,
        misses=0,
        rounds_without_traffic=0,
        rounds_without_reply=0,
        missed_since=None,
        signs=None,
        suspected=None,
    )


def blamed(session: SessionState) -> Leg | None:
    """What the rounds so far show to be dead, destination or tunnel; None: it is too early to say, or
    nothing has changed.
    """
    liveness = session.liveness
    if liveness.misses < ROUNDS:
        return None
    if liveness.rounds_without_traffic == 0:
        unproven = liveness.rounds_without_reply >= UNPROVEN_ROUNDS and not liveness.gave_up_on_hearsay
        return Leg.TUNNEL if unproven else Leg.DESTINATION
    return Leg.TUNNEL if liveness.rounds_without_traffic >= _silent_rounds(session) else None


def _silent_rounds(session: SessionState) -> int:
    """Rounds of silence that end a session. A client that was told to reconnect in place gets some more."""
    if session.health is Health.UNHEALTHY and session.reason is Reason.DESTINATION:
        return STALE_ROUNDS
    return ROUNDS if session.session.renewed else SILENT_ROUNDS


def dead_destination(tunnel: Tunnel, evidence: Proof) -> str:
    """The sentence about a destination that is dead behind a tunnel that works."""
    silent = ", ".join(tunnel.probe.targets)
    return f"the tunnel works ({_SHOWN[evidence]}), but nothing behind it answers: {silent}"


def dead_leg(tunnel: Tunnel, state: TunnelState, uplink: Uplink) -> Leg | None:
    """The part of the way that is known to be dead; None: none is, nobody can say which, or this host is
    at fault.
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
