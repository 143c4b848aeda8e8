"""The index of deadlines says what a look at every tunnel would say."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.session.deadlines import Deadlines, reached
from supervisor.core.state import Drain, Idle, Phase, Session, SessionState, TunnelState
from tunnels.base import Reason

MOMENTS = st.none() | st.integers(0, 9).map(float)


@st.composite
def drains(draw: st.DrawFn) -> Drain | None:
    until = draw(MOMENTS)
    return None if until is None else Drain(Reason.STOPPED, until)


@st.composite
def states(draw: st.DrawFn) -> TunnelState:
    state = TunnelState(
        idle=Idle(Phase.BACKOFF, deadline=draw(MOMENTS)), drain=draw(drains()), planned=draw(MOMENTS)
    )
    if draw(st.booleans()):
        state = replace(state, active=SessionState(Session(1), deadline=draw(MOMENTS)))
    if draw(st.booleans()):
        standby = SessionState(Session(2, slot=1), deadline=draw(MOMENTS), drain=draw(drains()))
        state = replace(state, standby=standby)
    return state


CHANGES = st.lists(st.tuples(st.sampled_from("abcd"), st.none() | states()), max_size=30)


@given(CHANGES, st.sets(st.sampled_from("abcd")))
def test_the_index_is_what_a_look_at_every_tunnel_says(
    changes: list[tuple[str, TunnelState | None]], postponed: set[str]
) -> None:
    index, tunnels = Deadlines(), dict[str, TunnelState]()
    for name, state in changes:
        index = index.after(name, state)
        tunnels.pop(name, None)
        if state is not None:
            tunnels[name] = state
        for now in range(-1, 10):
            due = {name for name, each in tunnels.items() if list(reached(name, each, now))}
            assert index.due(now) == due, "a tunnel is woken if and only if an event follows"
        later = [
            now for now in range(10) if any(name in index.due(now) for name in tunnels.keys() - postponed)
        ]
        assert index.next(postponed) == min(later, default=None)
        assert index.next() == min(index.moments.values(), default=None)


def test_a_change_of_something_else_leaves_the_index_as_it_is() -> None:
    state = TunnelState(planned=5.0)
    index = Deadlines().after("a", state)
    assert index.after("a", replace(state, reconnects=1)) is index
