"""Whatever happens, in whatever order: what must always hold."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import events as ev
from supervisor.core.session.step import step
from supervisor.core.state import Phase, Proof, Reach, TunnelState, Want
from tests.core.moments import moment
from tests.settings import configured
from tunnels.base import Connected, Failed, Question, Reason, Wanted
from tunnels.settings import Login, Probe, Tunnel

TUNNELS = [
    configured(Tunnel, name="t", kind="test", destinations=("10.0.0.0/24",), probe=Probe(targets=targets))
    for targets in ((), ("icmp://10.0.0.1",))
]
TUNNELS.append(replace(TUNNELS[1], **{"login": Login(reconnect_on_change=True)}))
ASKS = [
    Reason.CONFIGURED,
    Reason.STARTED,
    Reason.STOPPED,
    Reason.RESTARTED,
    Reason.RECONFIGURED,
    Reason.SHUTDOWN,
]
sessions = st.integers(0, 1)  # 0: the current one, 1: an earlier one
happenings = st.one_of(
    st.builds(lambda r: lambda n: ev.Asked("t", reason=r), st.sampled_from(ASKS)),
    st.builds(
        lambda r: lambda n: ev.Asked("t", reason=r, until=1e9),
        st.sampled_from([Reason.STOPPED, Reason.SHUTDOWN]),
    ),
    st.builds(lambda left: lambda n: ev.FlowsCounted("t", left=left), st.integers(0, 2)),
    st.just(lambda n: ev.InputsChanged("t")),
    st.just(lambda n: ev.DeviceLost("t")),
    st.just(lambda n: ev.InterfaceRepaired("t", text="t-t was set down")),
    st.just(lambda n: ev.SourceLost("t", n, "192.0.2.5")),
    st.builds(lambda old: lambda n: ev.Spawned("t", n - old, 7), sessions),
    st.builds(
        lambda old, r: lambda n: ev.SpawnFailed("t", n - old, r, "x"), sessions, st.sampled_from(Reason)
    ),
    st.builds(lambda old: lambda n: ev.ClientSaid("t", n - old, Connected()), sessions),
    st.builds(
        lambda old, r: lambda n: ev.ClientSaid("t", n - old, Failed(r, "x")),
        sessions,
        st.sampled_from(Reason),
    ),
    st.builds(lambda old, c: lambda n: ev.Exited("t", n - old, c), sessions, st.integers(0, 255)),
    st.builds(
        lambda old, rtt, proof: lambda n: ev.Probed("t", n - old, rtt, proof),
        sessions,
        st.none() | st.floats(0, 2),
        st.none() | st.sampled_from(Proof),
    ),
    st.builds(lambda reach: lambda n: ev.EndpointSeen("t", reach=reach), st.sampled_from(Reach)),
    st.builds(
        lambda old, mtu: lambda n: ev.PathMtu("t", n - old, mtu), sessions, st.none() | st.integers(576, 9000)
    ),
    st.builds(
        lambda old, wanted: lambda n: ev.ClientSaid("t", n - old, Question(wanted, "x")),
        sessions,
        st.sampled_from(Wanted),
    ),
    st.builds(lambda old: lambda n: ev.Answered("t", n - old), sessions),
    st.builds(lambda old, kept: lambda n: ev.Kept("t", n - old, kept), sessions, st.booleans()),
    st.builds(lambda old, seconds: lambda n: ev.Delayed("t", n - old, seconds), sessions, st.floats(0, 60)),
    st.just(lambda n: ev.UplinkBack("t")),
    st.just(lambda n: ev.Quiet("t")),
    st.just(lambda n: ev.Tick("t", n)),
)


@given(
    st.sampled_from(TUNNELS),
    st.lists(st.tuples(happenings, st.floats(0, 300), st.floats(0, 0.999), st.booleans()), max_size=60),
)
def test_any_sequence_of_events(tunnel: Tunnel, story) -> None:
    state, now, alive = TunnelState(), 0.0, None
    for make, passed, jitter, uplink in story:
        event = make(state.session.number)
        if isinstance(event, ev.Tick):
            if state.deadline is None:
                continue
            now = max(now, state.deadline)  # a Tick comes when the deadline is reached, never before
        else:
            now += passed
        if isinstance(event, ev.Exited | ev.SpawnFailed) and event.session == state.session.number:
            if alive != event.session or (isinstance(event, ev.SpawnFailed) and state.phase is Phase.UP):
                continue  # a client ends at most once, and one that connected was spawned
            alive = None
        before = state
        result = step(moment(tunnel, now, jitter=jitter, uplink=uplink), state, event)
        state, actions = result.tunnel, result.actions

        spawned = [a for a in actions if isinstance(a, ev.Spawn)]
        assert len(spawned) <= 1
        if spawned:
            assert alive is None, "two clients of one tunnel"
            alive = spawned[0].session
            assert alive == state.session.number == before.session.number + 1
        assert all(a.session == alive for a in actions if isinstance(a, ev.Terminate | ev.Kill))
        assert state.running == (alive is not None)
        assert state.session.number >= before.session.number
        assert (state.deadline is None) or state.deadline > now or not isinstance(event, ev.Tick)
        if state.phase in (Phase.STARTING, Phase.STOPPING, Phase.BACKOFF):
            assert state.deadline is not None, "it could stay like this for ever"
        if state.phase in (Phase.STOPPED, Phase.FAILED):
            assert state.deadline is None
        if state.want is Want.DOWN:
            assert state.phase in (Phase.STOPPED, Phase.STOPPING)
            assert state.drain is None
        if state.drain is not None:
            assert state.phase in (Phase.STARTING, Phase.UP, Phase.BACKOFF, Phase.STOPPING), (
                "nothing brings it to its end"
            )
        assert state.retry.attempts >= 0
        assert 0 <= state.retry.refusals <= tunnel.login.max_attempts
