"""The protocol's own sign of life: what tells a dead tunnel from a filter behind it that swallows both the
probes and the answers of the tunnel's first hop.

    a missed round -> `AskSignOfLife` -> the client's `SignOfLife` -> `noted` -> evidence of the next rounds

A gateway that has nothing to send sends its keepalive, or answers that of the client. The client is asked
only while probes go unanswered. Some clients cannot say it but end by themselves without it: of those it
counts that they run on.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.session.context import StepContext
from supervisor.core.session.liveness import BOTH_WAYS
from supervisor.core.state import Proof, ProtocolSigns, SessionState
from tunnels.base import SignOfLife

_GRAIN_SECONDS = 1.0  # clients count whole seconds


def noted(c: StepContext, session: SessionState, said: SignOfLife) -> SessionState:
    """After the client was asked. What it says first only begins the count: that may be old."""
    liveness = session.liveness
    if liveness.missed_since is None:
        return session
    before = liveness.signs
    until = None if before is None else before.until
    if said.seen and before is not None:
        until = c.now + said.within + _margin(c)
    return replace(session, liveness=replace(liveness, signs=ProtocolSigns(said.within, said.answers, until)))


def shown(c: StepContext, session: SessionState, seen: Proof | None) -> Proof | None:
    """The evidence of a missed round: what was `seen` in the tunnel, or what the protocol shows."""
    if seen in BOTH_WAYS:
        return seen
    return _of_protocol(c, session) or seen


def _of_protocol(c: StepContext, session: SessionState) -> Proof | None:
    liveness = session.liveness
    signs, ends_within = liveness.signs, c.kind.ends_within(c.tunnel)
    if signs is not None and signs.until is not None and c.now < signs.until:
        return Proof.AGREED if signs.answers else Proof.PROTOCOL
    if ends_within is None or liveness.missed_since is None or not c.heard:
        return None  # a client that tries to reconnect to a silent gateway runs on, too
    return Proof.PROTOCOL if c.now >= _heard(session) + ends_within + _GRAIN_SECONDS else None


def undecided(c: StepContext, session: SessionState) -> bool:
    """The protocol may still show that the gateway lives, although no probe was answered."""
    liveness, ends_within = session.liveness, c.kind.ends_within(c.tunnel)
    if liveness.missed_since is None:
        return False
    moments = [] if ends_within is None else [_heard(session) + ends_within]
    if (signs := liveness.signs) is not None and signs.within:
        moments.append((liveness.missed_since if signs.answers else _heard(session)) + signs.within)
    return bool(moments) and c.now < max(moments) + _margin(c)


def _heard(session: SessionState) -> float:
    """When the gateway was last heard: by an answered round, or else before the first missed one."""
    liveness = session.liveness
    answered = None if session.session.renewed else liveness.answered_at
    return answered or liveness.missed_since or 0.0


def _margin(c: StepContext) -> float:
    """Seconds until a sign that has come is known: the client is asked once in a round."""
    return 2 * c.tunnel.probe.timeout + _GRAIN_SECONDS
