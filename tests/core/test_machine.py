"""The table: every pair of phase and event, and one named test for each number of the policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core import events as ev
from supervisor.core.session.liveness import ROUNDS
from supervisor.core.session.machine import KILL_INTERVAL_SECONDS
from supervisor.core.session.retry import CURABLE_SECONDS, POLICIES, Page, Retry, backoff, not_retried
from supervisor.core.session.step import HANDLED, step
from supervisor.core.state import Failure, Health, Phase, Reach, Session, TunnelState, Want
from tests.core.moments import moment
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Connected, Failed, Reason
from tunnels.settings import Login, Probe, Reconnect, Tunnel

TUNNEL = configured(
    Tunnel,
    name="acme",
    kind="test",
    destinations=("10.77.0.0/24",),
    probe=Probe(targets=("icmp://10.77.0.1",)),
)
ABOUT_ALL = (ev.Noticed, ev.UplinkChanged, ev.UplinkDoubted)  # which no step of a tunnel ever sees
EVENTS = tuple(  # a class with slots is made anew from one without, which Python still knows
    [
        event
        for event in ev.Event.__subclasses__()
        if vars(ev)[event.__name__] is event and event not in ABOUT_ALL
    ]
)


def run(
    state: TunnelState, *events: ev.Event, now: float = 100.0, jitter: float = 0.5, tunnel: Tunnel = TUNNEL
):
    actions: tuple[ev.Action, ...] = ()
    for event in events:
        result = step(moment(tunnel, now, jitter=jitter), state, event)
        state, actions = result.tunnel, result.actions
    return state, actions


def started(now: float = 0.0) -> TunnelState:
    return run(TunnelState(), ev.Asked("acme", reason=Reason.CONFIGURED), now=now)[0]


def up(now: float = 0.0) -> TunnelState:
    return run(
        started(now),
        ev.Spawned("acme", 1, 42, "id", "t-acme"),
        ev.ClientSaid("acme", 1, Connected("10.78.0.2")),
        now=now,
    )[0]


def healthy(now: float = 0.0) -> TunnelState:
    return run(up(now), ev.Probed("acme", 1, 0.01), now=now)[0]


# What each pair leads to; what is not named here must leave the state as it is.
EXPECTED = {
    (Phase.STOPPED, ev.Asked): Phase.STARTING,
    (Phase.STARTING, ev.SpawnFailed): Phase.BACKOFF,
    (Phase.STARTING, ev.ClientSaid): Phase.UP,
    (Phase.STARTING, ev.Exited): Phase.BACKOFF,
    (Phase.STARTING, ev.Tick): Phase.STOPPING,
    (Phase.UP, ev.Exited): Phase.BACKOFF,
    (Phase.STARTING, ev.LockChanged): Phase.STOPPING,
    (Phase.UP, ev.LockChanged): Phase.STOPPING,
    (Phase.UP, ev.DeviceLost): Phase.STOPPING,
    (Phase.UP, ev.SourceLost): Phase.STOPPING,
    (Phase.STARTING, ev.AddressConflict): Phase.STOPPING,
    (Phase.UP, ev.AddressConflict): Phase.STOPPING,
    (Phase.BACKOFF, ev.Asked): Phase.STARTING,
    (Phase.BACKOFF, ev.InputsChanged): Phase.STARTING,
    (Phase.BACKOFF, ev.Tick): Phase.STARTING,
    (Phase.STOPPING, ev.SpawnFailed): Phase.BACKOFF,
    (Phase.STOPPING, ev.Exited): Phase.BACKOFF,
    (Phase.FAILED, ev.Asked): Phase.STARTING,
    (Phase.FAILED, ev.InputsChanged): Phase.STARTING,
}


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.__name__)
@pytest.mark.parametrize("phase", list(Phase))
def test_every_pair_of_phase_and_event(phase: Phase, event: type[ev.Event]) -> None:
    before = tunnel_state(phase=phase, session=Session(1), reason=Reason.UNHEALTHY)
    after, _ = run(before, event("acme"))
    assert after.phase is EXPECTED.get((phase, event), phase)
    if (phase, event) not in HANDLED:
        assert after == before


@pytest.mark.parametrize("event", [e for e in EVENTS if e is not ev.Asked], ids=lambda e: e.__name__)
@pytest.mark.parametrize("phase", list(Phase))
def test_an_event_of_an_earlier_session_changes_nothing(phase: Phase, event: type[ev.Event]) -> None:
    before = tunnel_state(phase=phase, session=Session(2))
    assert run(before, event("acme", 1)) == (before, ())


@pytest.mark.parametrize("phase", list(Phase))
def test_after_a_tick_the_deadline_is_gone_or_later(phase: Phase) -> None:
    after, _ = run(
        tunnel_state(phase=phase, session=Session(1), deadline=100.0), ev.Tick("acme", 1), now=100.0
    )
    assert (phase, ev.Tick) not in HANDLED or after.deadline is None or after.deadline > 100.0


def test_every_reason_has_a_policy() -> None:
    assert set(POLICIES) == set(Reason)


def test_start_spawns_the_next_session_with_a_deadline() -> None:
    state, actions = run(TunnelState(), ev.Asked("acme", reason=Reason.CONFIGURED), now=7.0)
    assert (state.phase, state.session.number, state.deadline, actions) == (
        Phase.STARTING,
        1,
        67.0,
        (ev.Spawn("acme", 1),),
    )


def test_a_client_that_does_not_come_up_is_stopped_at_the_deadline() -> None:
    state, actions = run(started(), ev.Tick("acme", 1), now=60.0)
    assert (state.phase, state.reason, actions) == (
        Phase.STOPPING,
        Reason.START_TIMEOUT,
        (ev.Terminate("acme", 1, leave=True),),
    )


def test_a_client_that_ignores_sigterm_is_killed_again_and_again() -> None:
    state, _ = run(up(), ev.Asked("acme", reason=Reason.STOPPED), now=10.0)
    assert state.deadline == 15.0
    state, actions = run(state, ev.Tick("acme", 1), now=15.0)
    assert (actions, state.deadline) == ((ev.Kill("acme", 1),), 15.0 + KILL_INTERVAL_SECONDS)
    state, actions = run(state, ev.Tick("acme", 1), now=17.0)
    assert actions == (ev.Kill("acme", 1),)


def test_stop_ends_in_stopped_and_start_is_needed() -> None:
    state, _ = run(up(), ev.Asked("acme", reason=Reason.STOPPED), ev.Exited("acme", 1, 0))
    assert (state.phase, state.want, state.reason, state.deadline) == (
        Phase.STOPPED,
        Want.DOWN,
        Reason.STOPPED,
        None,
    )
    assert run(state, ev.InputsChanged("acme"))[0] == state
    assert run(state, ev.Asked("acme", reason=Reason.STARTED))[0].phase is Phase.STARTING


def test_start_while_stopping_starts_after_the_old_client_is_gone() -> None:
    state, _ = run(up(), ev.Asked("acme", reason=Reason.STOPPED), ev.Asked("acme", reason=Reason.STARTED))
    assert state.phase is Phase.STOPPING
    state, actions = run(state, ev.Exited("acme", 1, 0))
    assert (state.phase, actions) == (Phase.STARTING, (ev.Spawn("acme", 2),))


def test_restart_reconnects_without_a_pause() -> None:
    state, actions = run(up(), ev.Asked("acme", reason=Reason.RESTARTED))
    assert actions == (ev.Terminate("acme", 1, leave=True),)
    state, actions = run(state, ev.Exited("acme", 1, 0))
    assert (state.phase, state.reason, actions) == (Phase.STARTING, Reason.RESTARTED, (ev.Spawn("acme", 2),))


def test_one_answer_is_health_and_three_rounds_without_one_are_not() -> None:
    state = healthy()
    assert (state.health, state.phase) == (Health.HEALTHY, Phase.UP)
    for _ in range(ROUNDS - 1):
        state, actions = run(state, ev.Probed("acme", 1, None))
        assert (state.health, actions) == (Health.HEALTHY, ())
    assert run(state, ev.Probed("acme", 1, 0.01))[0].liveness.misses == 0
    state, actions = run(state, ev.Probed("acme", 1, None))
    assert (state.phase, state.health, state.reason) == (Phase.STOPPING, Health.UNHEALTHY, Reason.UNHEALTHY)
    assert actions == (ev.Terminate("acme", 1, leave=True),)


def test_first_retry_after_a_stable_session_is_immediate() -> None:
    state, actions = run(healthy(), ev.Exited("acme", 1, None, 9), now=60.0)
    assert (state.phase, state.reason, actions) == (Phase.STARTING, Reason.KILLED, (ev.Spawn("acme", 2),))


def test_a_session_that_was_not_healthy_for_stable_after_waits() -> None:
    state, actions = run(healthy(), ev.Exited("acme", 1, None, 9), now=59.0)
    assert (state.phase, actions) == (Phase.BACKOFF, ())


def test_being_connected_is_not_being_stable_where_probes_are_configured() -> None:
    assert run(up(), ev.Exited("acme", 1, 1), now=600.0)[0].phase is Phase.BACKOFF


def test_failures_are_forgotten_only_after_stable_after_of_health() -> None:
    state = but(healthy(), attempts=5)
    assert state.deadline == 60.0
    assert run(state, ev.Tick("acme", 1), now=59.0)[0].retry.attempts == 5
    assert run(state, ev.Tick("acme", 1), now=60.0)[0].retry.attempts == 0


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"),
    [
        (0, 0.9, 0.0),
        (1, 0.9, 1.0),
        (2, 0.0, 1.0),
        (2, 0.5, 1.5),
        (4, 0.999999, 8.0),
        (8, 1.0, 120.0),
        (10**6, 0.5, 60.5),
    ],
)
def test_backoff_is_full_jitter_between_first_and_a_doubling_capped_ceiling(
    attempts: int, jitter: float, seconds: float
) -> None:
    assert backoff(configured(Reconnect, first="1s", max="2m"), attempts, jitter) == pytest.approx(
        seconds, abs=1e-4
    )


def test_transient_causes_are_tried_for_ever() -> None:
    state = started()
    for _ in range(1000):
        state, _ = run(state, ev.Exited("acme", state.session.number, 1))
        assert state.phase is Phase.BACKOFF
        state, _ = run(state, ev.Tick("acme", state.session.number))
        assert state.phase is Phase.STARTING


def test_what_another_attempt_would_make_worse_waits_for_a_human_or_a_change() -> None:
    permanent = [r for r, policy in POLICIES.items() if policy.retry is Retry.NEVER]
    assert permanent == [Reason.CHALLENGE, Reason.KICKED]
    for reason in permanent:
        state, _ = run(started(), ev.ClientSaid("acme", 1, Failed(reason, "no")), ev.Exited("acme", 1, 0))
        assert (state.phase, state.reason, state.deadline) == (Phase.FAILED, reason, None)


@pytest.mark.parametrize("reason", [r for r, policy in POLICIES.items() if policy.retry is Retry.CURABLE])
def test_what_somebody_has_to_cure_is_tried_ever_more_slowly_for_ever(reason: Reason) -> None:
    state, pauses = started(), []
    for _ in range(len(CURABLE_SECONDS) + 1):
        number = state.session.number
        state, _ = run(
            state, ev.ClientSaid("acme", number, Failed(reason, "no")), ev.Exited("acme", number, 0)
        )
        assert (state.phase, state.reason, not_retried(state)) == (Phase.BACKOFF, reason, None)
        pauses.append(state.deadline - 100.0)
        state, _ = run(state, ev.Tick("acme", number), now=state.deadline)
    assert pauses == [*CURABLE_SECONDS, CURABLE_SECONDS[-1]]
    assert CURABLE_SECONDS[-4:] == (300.0, 600.0, 1200.0, 1800.0)


def test_where_there_is_no_other_attempt_it_would_do_harm_and_a_person_is_paged() -> None:
    """Only these reasons can lead to FAILED, and `status` says of each why."""
    last = {r for r, policy in POLICIES.items() if policy.retry in (Retry.NEVER, Retry.LOGIN)}
    assert last == {r for r, policy in POLICIES.items() if policy.harm}
    for reason in last:
        assert POLICIES[reason].login
        assert POLICIES[reason].page in (Page.AT_ONCE, Page.GIVEN_UP)
        sentence = not_retried(tunnel_state(phase=Phase.FAILED, reason=reason))
        assert sentence is not None
        assert sentence.startswith(POLICIES[reason].harm)


def test_a_gateway_that_is_back_after_a_silence_is_tried_at_once_by_what_waits_for_a_cure() -> None:
    refused = (ev.ClientSaid("acme", 1, Failed(Reason.KEY, "refused")), ev.Exited("acme", 1, 0))
    waiting, _ = run(started(), *refused)
    silent, answers = (
        ev.EndpointSeen("acme", reach=Reach.SILENT),
        ev.EndpointSeen("acme", reach=Reach.ANSWERS),
    )
    waiting, _ = run(waiting, silent, now=101.0)
    assert run(waiting, answers, now=102.0)[0].phase is Phase.BACKOFF
    assert run(waiting, answers, now=131.0)[0].phase is Phase.STARTING
    transient, _ = run(started(), ev.Exited("acme", 1, 1), silent)
    assert run(transient, answers, now=131.0)[0].phase is Phase.BACKOFF


def test_a_wrong_password_is_tried_max_attempts_times_and_wakes_on_a_changed_secret() -> None:
    tunnel = replace(TUNNEL, **{"login": Login(max_attempts=3)})
    state, now, pauses = started(), 100.0, []
    while state.phase is not Phase.FAILED:
        number = state.session.number
        refused = ev.ClientSaid("acme", number, Failed(Reason.AUTH, "bad"))
        state, _ = run(state, refused, ev.Exited("acme", number, 0), now=now, tunnel=tunnel)
        if state.phase is Phase.BACKOFF:
            pauses.append(state.deadline - now)
            now = state.deadline
            state, _ = run(state, ev.Tick("acme", number), now=now, tunnel=tunnel)
    assert (state.session.number, pauses) == (3, [60.0, 120.0])
    state, actions = run(state, ev.InputsChanged("acme"), now=now, tunnel=tunnel)
    assert (state.phase, state.retry.refusals, actions) == (Phase.STARTING, 0, (ev.Spawn("acme", 4),))


def test_changed_inputs_do_not_cut_the_transient_pause_of_a_tunnel_that_has_worked_short() -> None:
    state, _ = run(up(), ev.Exited("acme", 1, 1))
    assert run(state, ev.InputsChanged("acme")) == (but(state, proven=False), ())


def test_one_that_never_worked_tries_changed_inputs_at_once() -> None:
    state, _ = run(started(), ev.Exited("acme", 1, 1))
    assert run(state, ev.InputsChanged("acme"))[0].phase is Phase.STARTING


def test_the_end_of_the_process_explains_a_vanished_device() -> None:
    state, _ = run(up(), ev.DeviceLost("acme"), ev.Exited("acme", 1, None, 9))
    assert state.reason is Reason.KILLED


def test_last_words_explain_a_vanished_device() -> None:
    """A client that ends by itself closes its device first, says why, and exits: the kernel is the
    quickest to tell.
    """
    last_words = ev.ClientSaid("acme", 1, Failed(Reason.PEER_CLOSED, "the server ended the session"))
    state, _ = run(healthy(), ev.DeviceLost("acme"), last_words, ev.Exited("acme", 1, 0))
    assert (state.reason, state.failure.text) == (Reason.PEER_CLOSED, "the server ended the session")


def test_last_words_explain_a_timeout() -> None:
    last_words = ev.ClientSaid("acme", 1, Failed(Reason.DNS, "no such name"))
    state, _ = run(started(), ev.Tick("acme", 1), last_words, ev.Exited("acme", 1, 1), now=60.0)
    assert (state.phase, state.reason) == (Phase.BACKOFF, Reason.DNS)


def test_well_since_moves_only_when_being_well_changes() -> None:
    state = healthy(10.0)
    assert state.well_since == 10.0
    assert run(state, ev.Probed("acme", 1, None), now=20.0)[0].well_since == 10.0
    assert run(state, ev.Exited("acme", 1, 1), now=30.0)[0].well_since == 30.0


def test_a_client_that_connects_while_nothing_passes_was_never_well() -> None:
    state = up(10.0)
    for _ in range(ROUNDS):
        state, _ = run(state, ev.Probed("acme", 1, None), now=20.0)
    assert state.well_since == 0.0


@pytest.mark.parametrize(
    ("said", "state", "phase", "wait"),
    [
        (Reason.EXITED, {"attempts": 1}, Phase.BACKOFF, 1.0),
        (Reason.AUTH, {"refusals": 1}, Phase.BACKOFF, 120.0),
        (Reason.AUTH, {"refusals": 2}, Phase.FAILED, None),
        (Reason.BANNED, {}, Phase.BACKOFF, 900.0),
        (Reason.HANDSHAKE, {}, Phase.BACKOFF, 60.0),
        (Reason.HANDSHAKE, {"suspicions": 2}, Phase.BACKOFF, 4500.0),
        (Reason.HANDSHAKE, {"proven": True}, Phase.BACKOFF, 1.0),
        (Reason.AUTH, {"refusals": 2, "proven": True}, Phase.BACKOFF, 4500.0),
        (Reason.MISSING_BINARY, {}, Phase.BACKOFF, 30.0),
        (Reason.MISSING_BINARY, {"suspicions": 20}, Phase.BACKOFF, 1800.0),
        (Reason.KICKED, {}, Phase.FAILED, None),
    ],
)
def test_pause_of_each_policy(
    said: Reason, state: dict[str, object], phase: Phase, wait: float | None
) -> None:
    failed = (ev.ClientSaid("acme", 1, Failed(said, "no")), ev.Exited("acme", 1, 0))
    after, _ = run(but(started(), **state), *failed, now=100.0)
    assert (after.phase, after.deadline) == (phase, None if wait is None else 100.0 + wait)


def test_a_path_mtu_is_kept_until_the_next_session_has_its_own() -> None:
    state, _ = run(healthy(), ev.PathMtu("acme", 1, 1300))
    assert state.session.path_mtu == 1300
    state, _ = run(state, ev.Asked("acme", reason=Reason.RESTARTED), ev.Exited("acme", 1, 0))
    assert (state.session.number, state.session.path_mtu) == (2, 1300)
    connected = (ev.Spawned("acme", 2, 43, "id", "t-acme"), ev.ClientSaid("acme", 2, Connected("10.78.0.2")))
    state, _ = run(state, *connected, ev.PathMtu("acme", 1, 1400))
    assert state.session.path_mtu == 1300
    assert run(state, ev.PathMtu("acme", 2, None))[0].session.path_mtu is None


def test_what_was_put_right_at_an_interface_is_kept_and_the_session_goes_on() -> None:
    before = healthy()
    event = ev.InterfaceRepaired("acme", device="t-acme", text="t-acme was set down; it is as it was")
    result = step(moment(TUNNEL, 100.0), before, event)
    assert result.actions == ()
    after = result.tunnel
    assert (after.phase, after.health, after.session.number) == (Phase.UP, before.health, 1)
    assert after.failure == Failure(Reason.LOCAL, event.text, 100.0)


def test_a_session_whose_source_address_is_gone_ends_at_once_and_names_it() -> None:
    after, actions = run(healthy(), ev.SourceLost("acme", 1, "198.51.100.2"))
    assert after.phase is Phase.STOPPING
    assert [type(action) for action in actions] == [ev.Terminate]
    assert after.failure is not None
    assert after.failure.reason is Reason.NETWORK
    assert "198.51.100.2" in after.failure.text
