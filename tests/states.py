"""States of tunnels by their plain facts: where each one is stored (tunnel, session, retry...) is left to the
types. `tunnel_state(phase=Phase.UP, misses=2)`, `but(state, phase=Phase.BACKOFF)`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from supervisor.core.state import Idle, Liveness, Phase, RetryState, Session, SessionState, TunnelState

RUNNING = (Phase.STARTING, Phase.UP, Phase.STOPPING)
LIVENESS, SESSION, RETRY, IDLE, TUNNEL = (
    frozenset(field.name for field in fields(kind))
    for kind in (Liveness, SessionState, RetryState, Idle, TunnelState)
)


def session_state(session: Session = Session(0), **facts: Any) -> SessionState:  # noqa: B008 - a value
    """A session in one of a tunnel's slots."""
    liveness = {name: facts.pop(name) for name in LIVENESS & facts.keys()}
    return SessionState(session, **{"liveness": Liveness(**liveness), **facts})


def tunnel_state(**facts: Any) -> TunnelState:
    """A tunnel. Facts that a session and a tunnel can have (such as `failure`) are the active session's, if
    there is one.
    """
    phase, session = facts.pop("phase", Phase.STOPPED), facts.pop("session", Session(0))
    facts.setdefault("next_number", session.number + 1)
    active = phase in RUNNING
    slot: dict[str, Any] = {}
    if active:
        own = {name: facts.pop(name) for name in ((SESSION - {"drain"}) | LIVENESS) & facts.keys()}
        slot["active"] = session_state(session, phase=phase, **own)
    else:
        own = {name: facts.pop(name) for name in IDLE & facts.keys()}
        slot |= {"idle": Idle(phase, **own), "last": session}
    retry = {name: facts.pop(name) for name in RETRY & facts.keys()}
    for name in (SESSION | LIVENESS) & facts.keys() - TUNNEL:
        del facts[name]  # of a session that is over
    return TunnelState(**{"retry": RetryState(**retry), **slot, **facts})


def but(state: TunnelState, **facts: Any) -> TunnelState:
    """The same tunnel with other facts."""
    return tunnel_state(**{**facts_of(state), **facts})


def facts_of(state: TunnelState) -> dict[str, Any]:
    """The facts that `tunnel_state` makes this state from."""
    facts = {name: getattr(state, name) for name in TUNNEL - {"active", "idle", "last", "retry"}}
    facts |= {name: getattr(state.retry, name) for name in RETRY}
    facts |= {"phase": state.phase, "session": state.session, "reason": state.reason, "since": state.since}
    facts["deadline"] = state.deadline
    if state.active is not None:
        facts |= {name: getattr(state.active, name) for name in SESSION - {"drain", "liveness"}}
        facts |= {name: getattr(state.active.liveness, name) for name in LIVENESS}
    return facts
