"""Which hooks of a tunnel (`hooks:` in the configuration) are run after a transition, and what they are told.

A queue holds the latest state and no history: while one hook runs, whatever happens becomes at most one
further `up` or `down` (none, if the tunnel is again as the last hook was told) and one `changed`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from supervisor.core.snapshot import Transition
from supervisor.core.state import TunnelState, up
from tunnels.base import Reason
from tunnels.settings import Tunnel

MAX_VALUE_CHARS = 500  # of one environment variable


class HookEvent(enum.StrEnum):
    """What a hook is run for."""

    UP = "up"  # the tunnel has come up
    DOWN = "down"  # it is not up any more, or is unhealthy
    CHANGED = "changed"  # any transition


@dataclass(frozen=True, slots=True)
class HookCall:
    """One hook to run."""

    tunnel: str
    event: HookEvent
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    timeout: float  # seconds


@dataclass(frozen=True, slots=True)
class HookQueue:
    """What the hooks of one tunnel are to be told."""

    tunnel: Tunnel
    told: bool  # what the last `up` or `down` said
    up: bool = False  # what is
    changed: bool = False  # there was a transition since the last `changed`
    facts: Mapping[str, str] = field(default_factory=dict)  # environment variables about the latest state
    end: Mapping[str, str] = field(default_factory=dict)  # the same when it was not up any more


def seen(queue: HookQueue, tunnel: Tunnel, state: TunnelState | None, reason: Reason, text: str) -> HookQueue:
    """The queue after a look at the tunnel; `state` None: it is not configured any more."""
    return _with(queue, tunnel, state, _facts(tunnel, state, reason, text))


def moved(queue: HookQueue, tunnel: Tunnel, state: TunnelState | None, transition: Transition) -> HookQueue:
    """The queue after a transition."""
    leg = "" if transition.leg is None else transition.leg.value
    facts = _facts(tunnel, state, transition.reason, transition.text) | {"FACILITATOR_SEGMENT": leg}
    return _with(replace(queue, changed=True), tunnel, state, facts)


def _with(queue: HookQueue, tunnel: Tunnel, state: TunnelState | None, facts: Mapping[str, str]) -> HookQueue:
    is_up = state is not None and up(state)
    ends = not is_up and (queue.up or not queue.end)
    return replace(queue, tunnel=tunnel, up=is_up, facts=facts, end=facts if ends else queue.end)


def next_call(queue: HookQueue) -> tuple[HookQueue, HookCall | None]:
    """The next hook to run, and what is left; None: there is nothing to be told."""
    hooks = queue.tunnel.hooks
    if queue.up != queue.told:
        queue = replace(queue, told=queue.up)
        if queue.up and hooks.up is not None:
            return queue, _call(queue, HookEvent.UP, hooks.up, queue.facts)
        if not queue.up and hooks.down is not None:
            return queue, _call(queue, HookEvent.DOWN, hooks.down, queue.end)
    if queue.changed:
        queue = replace(queue, changed=False)
        if hooks.changed is not None:
            return queue, _call(queue, HookEvent.CHANGED, hooks.changed, queue.facts)
    return queue, None


def _call(queue: HookQueue, event: HookEvent, argv: tuple[str, ...], facts: Mapping[str, str]) -> HookCall:
    told = {**facts, "FACILITATOR_EVENT": event.value}
    return HookCall(queue.tunnel.name, event, argv, told, queue.tunnel.hooks.timeout)


def _facts(tunnel: Tunnel, state: TunnelState | None, reason: Reason, text: str) -> dict[str, str]:
    """The documented variables: nothing secret. Texts come from strangers, and no shell reads them."""
    session = None if state is None else state.session
    facts = {
        "FACILITATOR_TUNNEL": tunnel.name,
        "FACILITATOR_KIND": tunnel.kind,
        "FACILITATOR_PHASE": "stopped" if state is None else state.phase.value,
        "FACILITATOR_HEALTH": "unknown" if state is None else state.health.value,
        "FACILITATOR_REASON": reason.value,
        "FACILITATOR_TEXT": text,
        "FACILITATOR_SEGMENT": "",
        "FACILITATOR_SESSION": "" if session is None else session.id,
        "FACILITATOR_ADDRESS": "" if session is None else session.address or "",
        "FACILITATOR_ADDRESS6": "" if session is None else session.address6 or "",
        "FACILITATOR_INTERFACE": "" if session is None else session.device or "",
    }
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value: str) -> str:
    """One line without control characters, of bounded length."""
    return "".join(each if each.isprintable() else " " for each in value)[:MAX_VALUE_CHARS]
