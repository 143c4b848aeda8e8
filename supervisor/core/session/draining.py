"""The beginning of a drain: a tunnel that is asked to end goes on until its flows are over."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.session.context import Step, StepContext
from supervisor.core.state import Drain, Phase, SessionState, TunnelState


def with_notice(c: StepContext, state: TunnelState, active: SessionState, event: ev.Asked) -> ev.Asked:
    """The order to end, at once or (where routers may still send new flows here) after a moment in which they
    turn away.
    """
    told = state.drain is not None and state.drain.not_before <= c.now
    if event.until is not None or told or not c.notice or active.phase is not Phase.UP:
        return event
    return replace(event, until=c.now + c.notice)


def drained(c: StepContext, state: TunnelState, event: ev.Asked) -> Step:
    """It goes on as it is, reconnects included, until its flows are over."""
    assert event.until is not None
    told = c.now + c.notice if state.drain is None else state.drain.not_before
    return Step(replace(state, drain=Drain(event.reason, event.until, not_before=told if c.notice else 0.0)))


def flows_left(state: TunnelState, event: ev.FlowsCounted) -> Step:
    """It waits for so many flows."""
    if state.drain is None:
        return Step(state)
    return Step(replace(state, drain=replace(state.drain, left=event.left, idle=event.idle)))
