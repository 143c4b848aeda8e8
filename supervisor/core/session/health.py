"""What probe rounds make of a session that goes on: healthy, degraded, or unhealthy for a reason that no new
session would help.

The functions here change only the session's state; ending or renewing it is up to `core.session.machine`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from supervisor.core.session.liveness import dead_destination, forgotten
from supervisor.core.session.quality import judged, remembered
from supervisor.core.state import Failure, Health, Proof, SessionState, well
from tunnels.base import Reason
from tunnels.settings import Tunnel


def proven(tunnel: Tunnel, session: SessionState, rtt: float | None, now: float) -> SessionState:
    """After a round that was answered within `rtt` seconds; None: users' packets came back, but no probe ever
    did.
    """
    known = session.liveness
    since = known.healthy_since if known.healthy_since is not None else now
    liveness = replace(
        forgotten(known), gave_up_on_hearsay=False, last_rtt=rtt, healthy_since=since, answered_at=now
    )
    facts = replace(session.session, renewed=False) if session.session.renewed else session.session
    session = replace(session, liveness=liveness, session=facts)
    if session.health is Health.HEALTHY:
        return session
    deadline = min(since + tunnel.reconnect.stable_after, session.reconnect_by or math.inf)
    return replace(session, health=Health.HEALTHY, reason=Reason.HEALTHY, since=now, deadline=deadline)


def rated(tunnel: Tunnel, session: SessionState, rtt: float | None, now: float) -> SessionState:
    """How well it works after one more round, as long as it does."""
    if session.health is not Health.HEALTHY:
        return session
    liveness = session.liveness
    recent = remembered(liveness.recent, rtt)
    degraded = liveness.full or judged(tunnel.probe.degraded, recent, liveness.degraded)
    return _degraded(replace(session, liveness=replace(liveness, recent=recent)), degraded, now)


def filled(tunnel: Tunnel, session: SessionState, text: str | None, now: float) -> SessionState:
    """After its client said that it takes no more connections, or (None) that it does again."""
    session = replace(session, liveness=replace(session.liveness, full=text))
    return _degraded(session, text, now) if well(tunnel, session) else session


def _degraded(session: SessionState, degraded: str | None, now: float) -> SessionState:
    """It works; `degraded` says what is bad about it, None: nothing."""
    if degraded == session.liveness.degraded:
        return session
    return replace(
        session,
        liveness=replace(session.liveness, degraded=degraded),
        reason=Reason.DEGRADED if degraded else Reason.HEALTHY,
        since=now,
    )


def nothing_behind(tunnel: Tunnel, session: SessionState, evidence: Proof, now: float) -> SessionState:
    """The tunnel does its part, as the `evidence` shows: it is kept as it is for other hosts behind it, and
    until the destination is back.
    """
    if session.health is Health.UNHEALTHY and session.reason is Reason.DESTINATION:
        return session
    return _sick(session, Failure(Reason.DESTINATION, dead_destination(tunnel, evidence), now))


def silent(session: SessionState, now: float) -> SessionState:
    """Nothing passes through the tunnel. The session is kept all the same: packets that reach nobody harm
    nobody, and the first one that gets through is the recovery.
    """
    if session.health is Health.UNHEALTHY and session.reason is Reason.UNHEALTHY:
        return session
    text = f"no probe target answered in {session.liveness.misses} rounds"
    return _sick(session, Failure(Reason.UNHEALTHY, text, now))


def blind(session: SessionState, now: float) -> SessionState:
    """Nothing can be known about the tunnel while the host's own uplink is dead; it may well live on."""
    if session.health is Health.UNHEALTHY:
        return session
    return _sick(session, Failure(Reason.UPLINK, "the uplink of this host is dead", now))


def halted(session: SessionState, now: float) -> SessionState:
    """Nothing passes while its client waits for an answer to a question of the remote gateway."""
    session = replace(session, liveness=forgotten(session.liveness))
    if session.health is Health.UNHEALTHY:
        return session
    asking = session.asking
    what = "the one-time password" if asking is None else f"an answer: {asking.question.text}"
    text = f"the remote gateway requires a new login, and no packets pass while the client waits for {what}"
    halted = _sick(session, Failure(Reason.CHALLENGE, text, now))
    return replace(halted, deadline=session.deadline)


def _sick(session: SessionState, failure: Failure) -> SessionState:
    return replace(
        session,
        health=Health.UNHEALTHY,
        reason=failure.reason,
        since=failure.at,
        failure=failure,
        deadline=session.reconnect_by,
        liveness=replace(session.liveness, healthy_since=None, recent=(), degraded=None),
    )
