"""What a step of a tunnel has changed: the record of it, and whether anything that goes out depends on it."""

from __future__ import annotations

from supervisor.core.state import Leg, Phase, Transition, TunnelState


def moved(before: TunnelState, after: TunnelState) -> bool:
    """While a session is up, its reasons are those of its health; elsewhere they are only wishes that
    wait.
    """
    return (before.phase, before.health, before.session.number) != (
        after.phase,
        after.health,
        after.session.number,
    ) or (after.phase is Phase.UP and before.reason is not after.reason)


def public(state: TunnelState) -> tuple[object, ...]:
    """What outputs depend on beside transitions."""
    drain = None if state.drain is None else (state.drain.reason, state.drain.until, state.drain.left)
    return (
        state.session,
        state.want,
        state.asking,
        state.endpoint,
        drain,
        state.outdated,
        state.proven,
        state.known,
        state.planned,
        state.single,
    )


def transition(name: str, before: TunnelState, after: TunnelState, now: float, leg: Leg | None) -> Transition:
    """The record of the step; `leg`: the part of the way that is dead afterwards, as far as that is known."""
    failure = after.failure if after.failure is not None and after.failure is not before.failure else None
    text = failure.text if failure is not None else after.degraded or ""
    renewed, begun = (
        after.session.renewed and not before.session.renewed,
        after.session.number != before.session.number,
    )
    rung = after.rung if renewed or begun else None
    number, lasted = after.session.number, now - before.since
    ended = before.session.number if before.running and (begun or not after.running) else None
    return Transition(
        name,
        number,
        before.phase,
        after.phase,
        after.health,
        after.reason,
        text,
        now,
        lasted,
        rung,
        leg,
        ended,
    )
