"""What is done about a session through which nothing passes any more.

It is not ended because it is silent: most silences are the network's, and when that is back the session goes
on by itself. While the remote gateway does not answer either, no login could succeed, so nothing is tried.
Once it answers and the session does not, the session is lost: another one logs in beside it where the gateway
allows two, the client reconnects in place where it can, and else the session ends.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.session.context import Step, StepContext
from supervisor.core.session.handover import begin_standby, withdrawn
from supervisor.core.session.liveness import blamed
from supervisor.core.session.machine import SessionStep, given_up, renewed
from supervisor.core.session.protocol_signs import undecided
from supervisor.core.state import (
    Health,
    Leg,
    Phase,
    Reach,
    RecoveryStep,
    Second,
    SessionState,
    TunnelState,
    well,
)
from tunnels.base import Reason

# Once the gateway answers again, the session has this long to show that it lives. TCP repeats a lost SYN
# after a second; an echo request is repeated by the next round only.
RETURN_SECONDS = 2.0


def silence_followed(c: StepContext, step: Step) -> Step:
    """The step with what is done about silent sessions in it."""
    state = step.tunnel
    if state.standby is not None and _silent(state.standby):
        step = _standby_given_up(c, step, state.standby)
    active = step.tunnel.active
    if active is None:
        return step
    if active.recovery is RecoveryStep.LOGIN and active.phase is Phase.UP and well(c.tunnel, active):
        return _recovered(c, step, active)
    if not _silent(active) or c.doubted or not c.uplink:
        return step
    if (moment := _judged_at(c, step.tunnel)) is not None:
        return replace(step, tunnel=replace(step.tunnel, active=_looked_at(active, moment)))
    return step if _waits(c, step.tunnel, active) else _lost(c, step, active)


def _silent(session: SessionState) -> bool:
    sick = session.health is Health.UNHEALTHY and session.reason is Reason.UNHEALTHY
    return session.phase is Phase.UP and sick and blamed(session) is Leg.TUNNEL


def _waits(c: StepContext, state: TunnelState, active: SessionState) -> bool:
    """A login would reach nobody, or the session may still show that it lives."""
    if state.endpoint is Reach.SILENT:
        return True
    return not state.endpoint_returned and undecided(c, active)


def _judged_at(c: StepContext, state: TunnelState) -> float | None:
    """The moment until which a gateway that answers again leaves a silent session time to show that it lives;
    None: it is over, or there is none.
    """
    moment = state.endpoint_since + _return_seconds(c)
    return moment if state.endpoint is Reach.ANSWERS and c.now < moment else None


def _looked_at(session: SessionState, moment: float) -> SessionState:
    """The session, about which this is asked again then, whether or not a probe's round ends before."""
    deadline = moment if session.deadline is None else min(moment, session.deadline)
    return replace(session, deadline=deadline)


def _return_seconds(c: StepContext) -> float:
    echo = any(target.startswith("icmp:") for target in c.tunnel.probe.targets)
    return max(RETURN_SECONDS, c.tunnel.probe.timeout) if echo else RETURN_SECONDS


def _lost(c: StepContext, step: Step, active: SessionState) -> Step:
    """The gateway answers, or never does so; the session is silent."""
    state = step.tunnel
    if state.coming:
        return step
    beside = c.lock is None and c.kind.allows_parallel(c.tunnel) and state.known.second is Second.ALLOWED
    if beside and state.drain is None and not state.retry.refusals:
        tried = active.recovery is RecoveryStep.LOGIN or state.standby is not None
        return step if tried else _beside(c, step, active)  # the next attempt is planned
    if c.kind.renew and not state.spare and not active.session.renewed:
        return _with_active(step, renewed(c, active))
    return _with_active(step, given_up(c, active))


def _beside(c: StepContext, step: Step, active: SessionState) -> Step:
    """Another session logs in; whichever of the two works first is used."""
    begun = begin_standby(c, step.tunnel, active)
    if begun.tunnel.standby is None:  # it is not this tunnel's turn: the next silent round asks again
        return replace(step, tunnel=replace(begun.tunnel, planned=step.tunnel.planned))
    logging_in = replace(begun.tunnel, active=replace(active, recovery=RecoveryStep.LOGIN))
    return replace(step, tunnel=logging_in, actions=step.actions + begun.actions)


def _recovered(c: StepContext, step: Step, active: SessionState) -> Step:
    """The old session answers again: the login beside it was not needed."""
    state = replace(step.tunnel, active=replace(active, recovery=None))
    if not state.coming or state.standby is None:
        return replace(step, tunnel=state)
    gone = withdrawn(c, state.standby, Reason.PLANNED)
    return replace(step, tunnel=replace(state, standby=gone.session), actions=step.actions + gone.actions)


def _standby_given_up(c: StepContext, step: Step, standby: SessionState) -> Step:
    gone = given_up(c, standby)
    return replace(
        step, tunnel=replace(step.tunnel, standby=gone.session), actions=step.actions + gone.actions
    )


def _with_active(step: Step, stepped: SessionStep) -> Step:
    tunnel = replace(step.tunnel, active=stepped.session)
    return replace(step, tunnel=tunnel, actions=step.actions + stepped.actions)
