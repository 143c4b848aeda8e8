"""Which hooks follow from which transitions: the latest state is told, and never more than it takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.hooks import MAX_VALUE_CHARS, HookCall, HookEvent, HookQueue, moved, next_call, seen
from supervisor.core.snapshot import Transition
from supervisor.core.state import Health, Phase, Session, TunnelState, up
from tests.settings import configured
from tests.states import tunnel_state
from tunnels.base import Reason
from tunnels.settings import Hooks, Tunnel

TELL = ("/usr/local/bin/tell",)
ALL = Hooks(up=TELL, down=TELL, changed=TELL)
STATES = tuple(
    tunnel_state(phase=phase, health=health, session=Session(1, address="10.0.0.2", device="t-one"))
    for phase in Phase
    for health in Health
)


def tunnel(hooks: Hooks = ALL) -> Tunnel:
    return configured(Tunnel, name="one", kind="test", destinations=("10.0.0.0/24",), hooks=hooks)


def transition(state: TunnelState, text: str = "text") -> Transition:
    return Transition("one", 1, Phase.UP, state.phase, state.health, Reason.NETWORK, text, 0.0, 0.0)


def calls(queue: HookQueue) -> tuple[HookQueue, list[HookCall]]:
    """All that is due."""
    found = []
    while (step := next_call(queue))[1] is not None:
        queue = step[0]
        found.append(step[1])
    return step[0], [call for call in found if call is not None]


@given(st.lists(st.tuples(st.sampled_from(STATES), st.booleans())), st.booleans())
def test_every_change_is_told_in_turn(moments: list[tuple[TunnelState, bool]], told: bool) -> None:
    """Whenever the last hook is over, at most two are due, and then nothing is. `up` and `down` alternate."""
    queue, heard = HookQueue(tunnel(), told, told), [told]
    for state, free in moments:
        queue = moved(queue, tunnel(), state, transition(state))
        if free:
            queue, due = calls(queue)
            events = [call.event for call in due]
            assert events[-1] is HookEvent.CHANGED
            assert len(events) <= 2
            heard += [event is HookEvent.UP for event in events[:-1]]
            assert heard[-1] is up(state)
    assert all(one is not other for one, other in zip(heard, heard[1:], strict=False))


def test_what_is_over_again_is_not_told() -> None:
    """A short interruption while a hook ran, or no place was free: it is up as it was told."""
    on, off = tunnel_state(phase=Phase.UP), tunnel_state(phase=Phase.BACKOFF)
    queue = HookQueue(tunnel(Hooks(up=TELL, down=TELL)), True, True)
    for state in (off, on):
        queue = moved(queue, tunnel(queue.tunnel.hooks), state, transition(state))
    assert calls(queue)[1] == []


def test_down_says_why_it_ended() -> None:
    """Not what was tried since then."""
    queue = HookQueue(tunnel(), True, True)
    for state, text in (
        (tunnel_state(phase=Phase.BACKOFF), "gone"),
        (tunnel_state(phase=Phase.STARTING), "again"),
    ):
        queue = moved(queue, tunnel(), state, transition(state, text))
    _, (down, changed) = calls(queue)
    assert (down.environment["FACILITATOR_TEXT"], changed.environment["FACILITATOR_TEXT"]) == (
        "gone",
        "again",
    )


def test_only_what_is_configured_is_run() -> None:
    """A tunnel that is taken out of the configuration is down."""
    only = tunnel(Hooks(down=TELL))
    queue = seen(HookQueue(only, False), only, tunnel_state(phase=Phase.UP), Reason.CONNECTED, "")
    queue, due = calls(queue)
    assert due == []
    _, (down,) = calls(seen(queue, only, None, Reason.STOPPED, ""))
    assert down.event is HookEvent.DOWN


@given(st.text())
def test_texts_of_strangers(text: str) -> None:
    """One line of bounded length, which execve(2) takes."""
    state = tunnel_state(phase=Phase.BACKOFF)
    _, due = calls(moved(HookQueue(tunnel(), True, True), tunnel(), state, transition(state, text)))
    for call in due:
        said = call.environment["FACILITATOR_TEXT"]
        assert said.isprintable()
        assert len(said) <= MAX_VALUE_CHARS
