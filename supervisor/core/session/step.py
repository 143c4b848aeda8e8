"""One step of a tunnel: the only entry into `core.session`'s state machines, for the engine, the simulator
and the tests.

    step(context, state, event) -> Step(tunnel, actions, ended)
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.session.context import Step, StepContext
from supervisor.core.session.handover import about_standby, active_step, reconnect_due, settled, standby_step
from supervisor.core.session.lifetime import due, lengthened
from supervisor.core.session.machine import TABLE
from supervisor.core.session.silence import silence_followed
from supervisor.core.session.tunnel_machine import IDLE, RUNNING
from supervisor.core.state import Known, Phase, TunnelState, sound, well

# The pairs of phase and event that can change something. All others are ignored.
HANDLED = frozenset(
    {
        *IDLE,
        *TABLE,
        (Phase.UP, ev.Probed),
        *((phase, ev.ReconnectDue) for phase in Phase),
        *((phase, event) for phase in (Phase.STARTING, Phase.UP, Phase.STOPPING) for event in RUNNING),
    }
)


def step(c: StepContext, state: TunnelState, event: ev.Event) -> Step:
    """The state after the event, the orders to clients, and the sessions that are over."""
    if event.session is not None and event.session not in {each.number for each in state.slots}:
        return Step(state)  # of an earlier session
    if isinstance(event, ev.ReconnectDue):
        result = reconnect_due(c, state, event)
    elif (standby := about_standby(state, event)) is not None:
        result = standby_step(c, state, standby, event)
    else:
        result = active_step(c, state, event)
    if isinstance(event, ev.Probed | ev.EndpointSeen | ev.Tick):
        result = silence_followed(c, result)
    result = settled(c, state, result)
    after = result.tunnel
    if (known := _learned(c, state, result)) is not after.known:
        after = replace(after, known=known)
    if well(c.tunnel, after) != well(c.tunnel, state):
        after = replace(after, well_since=c.now)
    if sound(c.tunnel, after) != sound(c.tunnel, state):
        after = replace(after, sound_since=c.now, chosen_since=None)
    if after.chosen_since is not None and after.drain is not None:
        after = replace(after, chosen_since=None)
    after = _planned(c, state, after)
    return result if after is result.tunnel else replace(result, tunnel=after)


def _learned(c: StepContext, before: TunnelState, step: Step) -> Known:
    """What is known of the remote gateway once the sessions that are not connected any more have taught how
    long one lasts.
    """
    known, reasons = step.tunnel.known, {each.session.number: each.reason for each in step.ended}
    now = {each.session.number: each for each in step.tunnel.sessions}
    for was in before.sessions:
        number, connected = was.session.number, was.session.connected
        if was.phase is not Phase.UP or connected is None:
            continue
        session = now.get(number)
        if session is None:
            known = lengthened(known, c.now - connected, reasons[number], before.endpoint, was.health)
        elif session.phase is not Phase.UP:
            known = lengthened(known, c.now - connected, session.reason, before.endpoint, was.health)
    return known


def _planned(c: StepContext, before: TunnelState, after: TunnelState) -> TunnelState:
    """The state with the moment of the next planned reconnect, unless this step has chosen it."""
    chosen = after.planned is not None and after.planned != before.planned
    if chosen or _basis(after) == _basis(before):
        return after
    return replace(
        after, planned=None if c.kind.unlimited_session else due(c.tunnel, after, c.jitter, c.utc_offset)
    )


def _basis(state: TunnelState) -> tuple[object, ...]:
    """What the moment of the next planned reconnect depends on."""
    session = state.session
    return session.number, session.connected, session.expires, state.phase, state.known, state.drain is None
