"""What to decide when something happens to a tunnel: one table over phase and event, and the small functions in it.

    state, actions = step(tunnel, state, event, now, jitter)

A pair of phase and event stands in `TABLE` or changes nothing. An event of an earlier session changes nothing. After a Tick
the deadline is gone or later than now. At most one client process exists per tunnel: only `_start` spawns, and only `_ended` leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from supervisor.core import events as ev
from supervisor.core.restart import RETRY, Retry, pause, stable
from supervisor.core.state import Failure, Health, Phase, Session, TunnelState, Want, well
from tunnels.base import Connected, Failed, Reason
from tunnels.settings import Tunnel

ROUNDS = 3              # probe rounds without any answer that make a tunnel unhealthy (reference: any-of targets, 3 rounds)
KILL_INTERVAL = 2.0     # seconds between two SIGKILLs of a tree that does not go

Result = tuple[TunnelState, tuple[ev.Action, ...]]


@dataclass(frozen=True, slots=True)
class Limits:
    """The kind's own deadlines, in seconds."""

    start: float = 60.0
    stop: float = 5.0


@dataclass(frozen=True, slots=True)
class Moment:
    """The circumstances of one step."""

    tunnel: Tunnel
    limits: Limits
    now: float
    jitter: float


def step(tunnel: Tunnel, state: TunnelState, event: ev.Event, now: float, jitter: float, limits: Limits = Limits()) -> Result:
    """The state after the event, and what to do. `now` in monotonic seconds; `jitter` in [0, 1)."""
    if event.session is not None and event.session != state.session.number:
        return state, ()
    handler = TABLE.get((state.phase, type(event)))
    if handler is None:
        return state, ()
    after, actions = handler(Moment(tunnel, limits, now, jitter), state, event)
    return (after if well(tunnel, after) == well(tunnel, state) else replace(after, well_since=now)), actions


# --- asked for ---------------------------------------------------------------------------------------------------------------

_DOWN = (Reason.STOPPED, Reason.SHUTDOWN)


def _ask_idle(m: Moment, state: TunnelState, event: ev.Asked) -> Result:
    """Nothing runs: a wish is fulfilled at once."""
    if event.reason in _DOWN:
        return _rest(m, replace(state, want=Want.DOWN), event.reason)
    return _start(m, replace(state, want=Want.UP, attempts=1, refusals=0), event.reason)


def _ask_running(m: Moment, state: TunnelState, event: ev.Asked) -> Result:
    """A client runs: start is fulfilled already, anything else ends it first."""
    if event.reason in _DOWN:
        return _terminate(m, replace(state, want=Want.DOWN), event.reason)
    if event.reason in (Reason.RESTARTED, Reason.RECONFIGURED):
        return _terminate(m, replace(state, want=Want.UP, attempts=1, refusals=0), event.reason)
    return replace(state, want=Want.UP), ()


def _ask_stopping(m: Moment, state: TunnelState, event: ev.Asked) -> Result:
    """The client ends anyhow; only what follows may change."""
    want = Want.DOWN if event.reason in _DOWN else Want.UP
    return replace(state, want=want, reason=event.reason), ()


def _inputs_changed(m: Moment, state: TunnelState, event: ev.InputsChanged) -> Result:
    """What the tunnel waited for may have come. A transient pause is not cut short: nothing about it has changed."""
    if state.phase is Phase.BACKOFF and state.refusals == 0:
        return state, ()
    return _start(m, replace(state, attempts=1, refusals=0), Reason.INPUTS_CHANGED)


# --- the client ----------------------------------------------------------------------------------------------------------------


def _spawned(m: Moment, state: TunnelState, event: ev.Spawned) -> Result:
    session = replace(state.session, pid=event.pid, id=event.id, device=event.device, port=event.port)
    return replace(state, session=session), ()


def _spawn_failed(m: Moment, state: TunnelState, event: ev.SpawnFailed) -> Result:
    return _ended(m, replace(state, failure=Failure(event.reason, event.text, m.now)), event.reason)


def _said(m: Moment, state: TunnelState, event: ev.ClientSaid) -> Result:
    if isinstance(event.what, Connected):
        return _connected(m, state, event.what)
    if not isinstance(event.what, Failed):
        return state, ()
    return _terminate(m, replace(state, failure=Failure(event.what.reason, event.what.text, m.now)), event.what.reason)


def _said_while_stopping(m: Moment, state: TunnelState, event: ev.ClientSaid) -> Result:
    """Last words of a client whose end was not asked for may explain it better than we could."""
    if not isinstance(event.what, Failed) or state.reason not in (Reason.START_TIMEOUT, Reason.UNHEALTHY, Reason.DEVICE_LOST):
        return state, ()
    return replace(state, reason=event.what.reason, failure=Failure(event.what.reason, event.what.text, m.now)), ()


def _connected(m: Moment, state: TunnelState, what: Connected) -> Result:
    session = replace(state.session, address=what.address, peer=what.peer, pushed=what.routes, connected=state.session.connected or m.now)
    if state.phase is Phase.UP:
        return replace(state, session=session), ()
    up = replace(state, session=session, refusals=0, deadline=m.now + m.tunnel.reconnect.stable_after)
    return _enter(m, up, Phase.UP, Reason.CONNECTED), ()


def _exited(m: Moment, state: TunnelState, event: ev.Exited) -> Result:
    reason = Reason.EXITED if event.signal is None else Reason.KILLED
    text = f"client ended by signal {event.signal}" if event.signal is not None else f"client exited with code {event.code}"
    return _ended(m, replace(state, failure=Failure(reason, text, m.now)), reason)


def _exited_stopping(m: Moment, state: TunnelState, event: ev.Exited) -> Result:
    if state.want is Want.DOWN:
        return _rest(m, state, state.reason)
    if state.reason is Reason.DEVICE_LOST:  # a device goes with its process: how that ended explains it better
        return _exited(m, state, event)
    return _ended(m, state, state.reason)


def _never_spawned(m: Moment, state: TunnelState, event: ev.SpawnFailed) -> Result:
    return _exited_stopping(m, state, ev.Exited(event.tunnel, event.session))


def _device_lost(m: Moment, state: TunnelState, event: ev.DeviceLost) -> Result:
    text = f"device {state.session.device} vanished"
    return _terminate(m, replace(state, failure=Failure(Reason.DEVICE_LOST, text, m.now)), Reason.DEVICE_LOST)


def _probed(m: Moment, state: TunnelState, event: ev.Probed) -> Result:
    """One answer proves the path; ROUNDS misses in a row disprove it, and the session is given up."""
    if event.rtt is not None:
        since = state.healthy_since if state.healthy_since is not None else m.now
        state = replace(state, misses=0, last_rtt=event.rtt, healthy_since=since)
        if state.health is Health.HEALTHY:
            return state, ()
        deadline = since + m.tunnel.reconnect.stable_after
        return replace(state, health=Health.HEALTHY, reason=Reason.HEALTHY, since=m.now, deadline=deadline), ()
    state = replace(state, misses=state.misses + 1)
    if state.misses < ROUNDS:
        return state, ()
    text = f"no probe target answered in {state.misses} rounds"
    sick = replace(state, health=Health.UNHEALTHY, failure=Failure(Reason.UNHEALTHY, text, m.now))
    return _terminate(m, sick, Reason.UNHEALTHY)


def _path_mtu(m: Moment, state: TunnelState, event: ev.PathMtu) -> Result:
    return replace(state, session=replace(state.session, path_mtu=event.mtu)), ()


# --- deadlines -----------------------------------------------------------------------------------------------------------------


def _start_deadline(m: Moment, state: TunnelState, event: ev.Tick) -> Result:
    text = f"not connected {m.limits.start:g} s after its start"
    return _terminate(m, replace(state, failure=Failure(Reason.START_TIMEOUT, text, m.now)), Reason.START_TIMEOUT)


def _stable_deadline(m: Moment, state: TunnelState, event: ev.Tick) -> Result:
    attempts = 0 if stable(m.tunnel, state, m.now) else state.attempts
    return replace(state, deadline=None, attempts=attempts), ()


def _stop_deadline(m: Moment, state: TunnelState, event: ev.Tick) -> Result:
    return replace(state, deadline=m.now + KILL_INTERVAL), (ev.Kill(m.tunnel.name, state.session.number),)


def _backoff_deadline(m: Moment, state: TunnelState, event: ev.Tick) -> Result:
    return _start(m, state, Reason.RETRY)


# --- where it leads ------------------------------------------------------------------------------------------------------------


def _enter(m: Moment, state: TunnelState, phase: Phase, reason: Reason) -> TunnelState:
    return replace(state, phase=phase, reason=reason, since=m.now)


def _start(m: Moment, state: TunnelState, reason: Reason) -> Result:
    number = state.session.number + 1
    session = Session(number, started=m.now, path_mtu=state.session.path_mtu)   # most likely it is the same path again
    fresh = replace(
        state, session=session, health=Health.UNKNOWN, misses=0, healthy_since=None, last_rtt=None,
        deadline=m.now + m.limits.start, reconnects=state.reconnects + (RETRY[reason] is not Retry.NOW),
    )
    return _enter(m, fresh, Phase.STARTING, reason), (ev.Spawn(m.tunnel.name, number),)


def _terminate(m: Moment, state: TunnelState, reason: Reason) -> Result:
    ending = replace(state, deadline=m.now + m.limits.stop)
    return _enter(m, ending, Phase.STOPPING, reason), (ev.Terminate(m.tunnel.name, state.session.number),)


def _rest(m: Moment, state: TunnelState, reason: Reason) -> Result:
    return _enter(m, replace(state, health=Health.UNKNOWN, deadline=None), Phase.STOPPED, reason), ()


def _ended(m: Moment, state: TunnelState, reason: Reason) -> Result:
    """No client runs any more, though the tunnel is wanted."""
    state = replace(
        state,
        attempts=0 if stable(m.tunnel, state, m.now) else state.attempts,
        refusals=state.refusals + 1 if reason is Reason.AUTH else state.refusals,
    )
    wait = pause(m.tunnel, state, reason, m.jitter)
    state = replace(state, attempts=state.attempts + 1, health=Health.UNKNOWN, healthy_since=None)
    if wait is None:
        return _enter(m, replace(state, deadline=None), Phase.FAILED, reason), ()
    if wait <= 0.0:
        return _start(m, state, reason)
    return _enter(m, replace(state, deadline=m.now + wait), Phase.BACKOFF, reason), ()


Handler = Callable[[Moment, TunnelState, Any], Result]

TABLE: Mapping[tuple[Phase, type[ev.Event]], Handler] = MappingProxyType({
    (Phase.STOPPED, ev.Asked): _ask_idle,
    (Phase.STARTING, ev.Asked): _ask_running,
    (Phase.STARTING, ev.Spawned): _spawned,
    (Phase.STARTING, ev.SpawnFailed): _spawn_failed,
    (Phase.STARTING, ev.ClientSaid): _said,
    (Phase.STARTING, ev.Exited): _exited,
    (Phase.STARTING, ev.Tick): _start_deadline,
    (Phase.UP, ev.Asked): _ask_running,
    (Phase.UP, ev.ClientSaid): _said,
    (Phase.UP, ev.Exited): _exited,
    (Phase.UP, ev.DeviceLost): _device_lost,
    (Phase.UP, ev.Probed): _probed,
    (Phase.UP, ev.PathMtu): _path_mtu,
    (Phase.UP, ev.Tick): _stable_deadline,
    (Phase.BACKOFF, ev.Asked): _ask_idle,
    (Phase.BACKOFF, ev.InputsChanged): _inputs_changed,
    (Phase.BACKOFF, ev.Tick): _backoff_deadline,
    (Phase.STOPPING, ev.Asked): _ask_stopping,
    (Phase.STOPPING, ev.ClientSaid): _said_while_stopping,
    (Phase.STOPPING, ev.Spawned): _spawned,
    (Phase.STOPPING, ev.SpawnFailed): _never_spawned,
    (Phase.STOPPING, ev.Exited): _exited_stopping,
    (Phase.STOPPING, ev.Tick): _stop_deadline,
    (Phase.FAILED, ev.Asked): _ask_idle,
    (Phase.FAILED, ev.InputsChanged): _inputs_changed,
})
