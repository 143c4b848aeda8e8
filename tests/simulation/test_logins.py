"""Logins in virtual time: who knocks when, what an account sees in an hour, and how far a recovery goes."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from supervisor.core import events as ev
from supervisor.core.session.machine import ANSWER_SECONDS, CODE_TAKEN_SECONDS
from supervisor.core.session.pacing import SPACING_SECONDS
from supervisor.core.session.tunnel_machine import QUIET_SECONDS
from supervisor.core.state import Health, Phase, RecoveryStep, TunnelState
from tests.fakes import KIND, Habits, World
from tests.settings import configured
from tunnels.base import Failed, Question, Reason, Say, Secret, Wanted
from tunnels.settings import Login, Probe, Tunnel

HOUR = 3600.0
GATED = replace(KIND, endpoint=lambda tunnel: "vpn.example.net")


def tunnel(name: str = "acme", user: str | None = None, **settings: object) -> Tunnel:
    login = Login() if user is None else Login(username=user, password=Secret(file="password"))
    return configured(
        Tunnel, name=name, kind="test", destinations=(f"10.{len(name)}.0.0/24",), login=login, **settings
    )


def crowd(count: int, **settings: object) -> dict[str, Tunnel]:
    names = [f"t{'x' * number}" for number in range(count)]
    return {name: tunnel(name, **settings) for name in names}


def refusing(reason: Reason) -> Habits:
    return Habits(says=lambda: Failed(reason, "no"))


# --- what the remote gateway sees in an hour
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "most"),
    [
        (Reason.AUTH, 3),
        (Reason.HANDSHAKE, 3),
        (Reason.OUR_CERTIFICATE, 8),
        (Reason.KICKED, 1),
        (Reason.BANNED, 6),
    ],
)
@pytest.mark.parametrize("sharing", [1, 5])
def test_what_cannot_work_is_not_tried_again_and_again(reason: Reason, most: int, sharing: int) -> None:
    """Five tunnels with one account may do no more harm to it than one."""
    world = World(crowd(sharing, user="svc"), refusing(reason), kind=GATED)
    world.run(until=HOUR)
    each = most / sharing if reason in (Reason.AUTH, Reason.BANNED) else most
    assert 1 <= len(world.runner.spawned) <= each * sharing


@pytest.mark.parametrize(
    "reason", [Reason.CERTIFICATE, Reason.OUR_CERTIFICATE, Reason.KEY, Reason.CLIENT_CONFIG]
)
def test_what_somebody_has_to_cure_pages_once_and_is_retried_ever_more_slowly(reason: Reason) -> None:
    """It is cured after three hours, and nobody gives a command."""
    habits = refusing(reason)
    world = World({"acme": tunnel()}, habits)
    world.run(until=2.0)
    assert world.alerter.opened == ["acme"], "at once"
    assert "needs attention" in world.alerter.alerts["acme"].summary
    world.run(until=3 * HOUR)
    starts = [at for at, _, _ in world.runner.spawned]
    pauses = [round(later - one, -1) for one, later in zip(starts, starts[1:], strict=False)]
    assert pauses[:7] == [30.0, 60.0, 90.0, 90.0, 300.0, 600.0, 1200.0]
    assert set(pauses[7:]) == {1800.0}
    habits.says = lambda: None
    world.run(until=4 * HOUR)
    assert (world.phase(), world.alerter.opened, world.alerter.resolved) == (Phase.UP, ["acme"], ["acme"])


@pytest.mark.parametrize("cured", [20.0, 60.0, 120.0, 250.0])
def test_what_is_cured_within_minutes_is_up_ninety_seconds_later(cured: float) -> None:
    habits = refusing(Reason.KEY)
    world = World({"acme": tunnel()}, habits)
    world.run(until=cured)
    habits.says = lambda: None
    world.run(until=cured + 92.0)
    assert (world.phase(), world.alerter.opened) == (Phase.UP, ["acme"])


def test_a_password_that_worked_is_retried_hourly_within_three_logins_an_hour() -> None:
    """Five tunnels of one account: their directory refuses it for half a day."""
    habits = Habits(lives=lambda: 100.0)
    names = crowd(5, user="svc")
    world = World(names, habits, kind=GATED)
    world.run(until=50.0)
    habits.says = lambda: Failed(Reason.AUTH, "no")
    world.run(until=12 * HOUR)
    starts = [at for at, _, _ in world.runner.spawned if at > 50.0]
    assert len(starts) > 10
    assert all(sum(one <= at < one + HOUR for at in starts) <= 3 for one in starts)
    assert {world.phase(name) for name in names} == {Phase.BACKOFF}
    habits.says = lambda: None
    habits.lives = lambda: inf
    world.run(until=14 * HOUR)
    assert {world.phase(name) for name in names} == {Phase.UP}


# --- the clock of this host
# ----------------------------------------------------------------------------------------------


def waiting(reason: Reason, until: float, **login: object) -> tuple[World, Habits]:
    """A tunnel of which each attempt ends for this reason."""
    habits = refusing(reason)
    one = replace(tunnel(), **{"login": Login(**login)})
    world = World({"acme": one}, habits)
    world.run(until=until)
    return world, habits


@pytest.mark.parametrize("reason", [Reason.CERTIFICATE, Reason.OUR_CERTIFICATE, Reason.HANDSHAKE])
def test_a_set_clock_is_tried_at_once_where_it_may_have_been_the_cause(reason: Reason) -> None:
    world, habits = waiting(reason, 2000.0)
    habits.says = lambda: None
    world.post(ev.ClockSet(""))
    world.run(until=2002.0)
    assert world.phase() is Phase.UP


@pytest.mark.parametrize("reason", [Reason.KEY, Reason.CLIENT_CONFIG, Reason.NETWORK, Reason.KICKED])
def test_a_set_clock_changes_nothing_where_it_cannot_have_been_the_cause(reason: Reason) -> None:
    world, _ = waiting(reason, 2000.0)
    before = len(world.runner.spawned)
    world.post(ev.ClockSet(""))
    world.run(until=2000.5)
    assert len(world.runner.spawned) == before


SEED = {"totp": Secret(file="seed")}


@pytest.mark.parametrize("refused", [1.0, 70.0, 300.0])
def test_codes_of_a_wrong_clock_are_tried_again_when_it_is_set(refused: float) -> None:
    """After one, two and three refused logins; the last one had given up."""
    world, habits = waiting(Reason.AUTH, refused, **SEED)
    habits.says = lambda: None
    world.post(ev.ClockSet(""))
    world.run(until=refused + 2.0)
    assert world.phase() is Phase.UP


def test_a_clock_that_is_set_again_and_again_costs_one_login_of_a_refused_account() -> None:
    world, _ = waiting(Reason.AUTH, 300.0, **SEED)
    for minute in range(60):
        world.post(ev.ClockSet(""))
        world.run(until=300.0 + 60.0 * minute)
    assert len(world.runner.spawned) == 4
    assert world.phase() is Phase.FAILED


def test_a_password_without_a_code_is_not_tried_again_because_the_clock_was_set() -> None:
    world, _ = waiting(Reason.AUTH, 300.0)
    world.post(ev.ClockSet(""))
    world.run(until=400.0)
    assert (world.phase(), len(world.runner.spawned)) == (Phase.FAILED, 3)


def test_logins_with_a_refused_account_are_minutes_apart() -> None:
    world = World(crowd(4, user="svc"), refusing(Reason.AUTH))
    world.run(until=HOUR)
    first, second, third = [at for at, _, _ in world.runner.spawned]
    assert 60.0 <= second - first < 62.0
    assert 120.0 <= third - second < 122.0
    assert {world.phase(name) for name in crowd(4)} == {Phase.FAILED}
    untried = next(
        state for name, (_, state) in world.engine.snapshot.tunnels.items() if not state.session.number
    )
    assert "refused the account svc 3 times" in untried.failure.text


def test_a_changed_secret_wakes_every_tunnel_of_the_account() -> None:
    habits = refusing(Reason.AUTH)
    world = World(crowd(3, user="svc"), habits)
    world.run(until=HOUR)
    habits.says = lambda: None
    for name in crowd(3):
        world.post(ev.InputsChanged(name))
    world.run(until=HOUR + 5.0)
    assert {world.phase(name) for name in crowd(3)} == {Phase.UP}


def test_the_success_of_one_wakes_the_others() -> None:
    """The gateway's administrator unlocked the account: no file has changed, and somebody started one of
    the tunnels.
    """
    habits = refusing(Reason.AUTH)
    world = World(crowd(3, user="svc"), habits)
    world.run(until=HOUR)
    habits.says = lambda: None
    world.post(ev.Asked("t", reason=Reason.STARTED))
    world.run(until=HOUR + 5.0)
    assert {world.phase(name) for name in crowd(3)} == {Phase.UP}


def test_a_refused_handshake_is_an_accident_for_a_tunnel_that_has_worked() -> None:
    habits = Habits(lives=lambda: 100.0)
    world = World({"acme": tunnel()}, habits)
    world.run(until=50.0)
    habits.says = lambda: Failed(Reason.HANDSHAKE, "no")
    world.run(until=400.0)
    assert len(world.runner.spawned) > 4
    habits.says = lambda: None
    world.run(until=400.0 + 130.0)
    assert world.phase() is Phase.UP


def test_secrets_that_change_while_a_login_runs_are_tried_at_once() -> None:
    """Whoever corrects the password in the second in which it is refused must not wait for the next
    change.
    """
    habits = refusing(Reason.KEY)
    world = World({"acme": tunnel()}, habits)
    world.run(until=0.1)
    habits.says = lambda: None
    world.post(ev.InputsChanged("acme"))
    world.run(until=2.0)
    assert world.phase() is Phase.UP


# --- turns
# ----------------------------------------------------------------------------------------------------------


def test_clients_of_one_gateway_knock_one_after_the_other() -> None:
    world = World(crowd(20), Habits(), kind=GATED)
    world.run(until=20 * SPACING_SECONDS + 1.0)
    starts = [at for at, _, _ in world.runner.spawned]
    assert len(starts) == 20
    assert all(
        later - earlier >= SPACING_SECONDS * 0.99 for earlier, later in zip(starts, starts[1:], strict=False)
    )


def test_one_tunnel_that_drops_now_and_then_never_waits_for_its_turn() -> None:
    world = World({"acme": tunnel(probe=Probe())}, Habits(lives=lambda: 300.0), kind=GATED)
    world.run(until=HOUR)
    assert all(t.after is not Phase.BACKOFF for t in world.recorder.transitions)


def test_the_first_login_with_an_account_is_awaited() -> None:
    world = World(crowd(3, user="svc"), Habits(connects_in=lambda: 3.0))
    world.run(until=2.0)
    assert len(world.runner.spawned) == 1
    world.run(until=8.0)
    assert {world.phase(name) for name in crowd(3)} == {Phase.UP}


# --- questions
# ----------------------------------------------------------------------------------------------------------


def asked(wanted: Wanted = Wanted.CODE) -> World:
    world = World({"acme": tunnel()}, Habits(connects_in=lambda: None))
    world.run(until=1.0)
    world.post(ev.ClientSaid("acme", 1, Question(wanted, "Enter your code")))
    world.run(until=2.0)
    return world


def test_a_question_calls_a_human_at_once_and_says_what_is_asked() -> None:
    world = asked()
    assert world.phase() is Phase.STARTING
    assert world.alerter.opened == ["acme"]
    alert = world.alerter.alerts["acme"]
    assert "asks: Enter your code" in alert.summary
    assert alert.details["answer_with"] == "facilitator answer acme"


def test_a_question_may_take_minutes_and_ends_cleanly() -> None:
    world = asked()
    world.run(until=1.0 + ANSWER_SECONDS - 1.0)
    assert world.phase() is Phase.STARTING
    world.run(until=1.0 + ANSWER_SECONDS + 10.0)
    state = world.engine.snapshot.tunnels["acme"][1]
    assert (state.phase, state.reason, state.asking) == (Phase.FAILED, Reason.CHALLENGE, None)
    assert "Enter your code" in state.failure.text


def test_after_an_answer_the_client_has_its_ordinary_time() -> None:
    world = asked()
    world.run(until=200.0)
    world.post(ev.Answered("acme", 1))
    world.run(until=201.0)
    assert world.engine.snapshot.tunnels["acme"][1].asking is None
    world.run(until=270.0)
    assert world.engine.snapshot.tunnels["acme"][1].failure.reason is Reason.START_TIMEOUT


# --- renegotiations: OpenVPN passes no packets while it waits for an answer
# ----------------------------------------------------------------------------------------------------------


class Renegotiation:
    """A tunnel with a probe target whose path is dead from the question to the answer."""

    def __init__(self) -> None:
        self.blocked = False
        habits = Habits(path_alive=lambda now: not self.blocked)
        probed = tunnel(probe=Probe(targets=("icmp://10.77.0.1",)))
        self.world = World({"acme": probed}, habits, kind=replace(KIND, renew=(Say("x"),)))
        self.world.run(until=100.0)

    @property
    def state(self) -> TunnelState:
        return self.world.engine.snapshot.tunnels["acme"][1]

    def ask(self) -> None:
        self.blocked = True
        self.world.post(ev.ClientSaid("acme", 1, Question(Wanted.CODE, "Enter your code")))

    def outcome(self) -> tuple[int, int, Phase, Health]:
        sessions, renewed = len(self.world.runner.spawned), len(self.world.runner.renewed)
        return sessions, renewed, self.state.phase, self.state.health


def test_a_renegotiation_that_waits_for_an_answer_ends_no_session() -> None:
    one = Renegotiation()
    one.ask()
    one.world.run(until=250.0)
    assert one.outcome() == (1, 0, Phase.UP, Health.UNHEALTHY)
    assert (one.state.reason, one.world.alerter.opened) == (Reason.CHALLENGE, ["acme"])
    one.world.post(ev.Answered("acme", 1))
    one.world.run(until=255.0)
    one.blocked = False
    one.world.run(until=900.0)
    assert one.outcome() == (1, 0, Phase.UP, Health.HEALTHY)
    assert one.world.alerter.resolved == ["acme"]


def test_a_renegotiation_that_waits_for_the_next_code_ends_no_session_and_pages_nobody() -> None:
    one = Renegotiation()
    one.blocked = True
    one.world.post(ev.Delayed("acme", 1, 42.0))
    one.world.run(until=141.0)
    assert (one.outcome(), one.state.reason) == ((1, 0, Phase.UP, Health.UNHEALTHY), Reason.CHALLENGE)
    assert one.state.code_at == pytest.approx(142.0, abs=0.5)
    one.world.run(until=145.0)
    one.blocked = False
    one.world.run(until=400.0)
    assert (one.outcome(), one.world.alerter.opened) == ((1, 0, Phase.UP, Health.HEALTHY), [])


def test_after_a_renegotiation_a_dead_tunnel_is_noticed_again() -> None:
    one = Renegotiation()
    one.blocked = True
    one.world.post(ev.Delayed("acme", 1, 0.0))
    one.world.run(until=100.0 + CODE_TAKEN_SECONDS + 25.0)
    first = one.world.runner.renewed[0][0]
    assert 100.0 + CODE_TAKEN_SECONDS < first < 100.0 + CODE_TAKEN_SECONDS + 10.0


def test_a_renegotiation_that_nobody_answers_ends_as_a_challenge() -> None:
    one = Renegotiation()
    one.ask()
    one.world.run(until=100.0 + ANSWER_SECONDS + 10.0)
    assert (one.state.phase, one.state.reason) == (Phase.FAILED, Reason.CHALLENGE)
    assert "Enter your code" in one.state.failure.text


def test_a_refused_login_with_a_code_names_the_code_its_seed_and_the_clock() -> None:
    world = World({"acme": tunnel()}, Habits(connects_in=lambda: None))
    world.run(until=1.0)
    world.post(ev.Delayed("acme", 1, 0.0))
    world.post(ev.ClientSaid("acme", 1, Failed(Reason.AUTH, "refused")))
    world.run(until=2.0)
    text = world.engine.snapshot.tunnels["acme"][1].failure.text
    assert all(
        word in text for word in ("refused", "login.password", "one-time password", "login.totp", "clock")
    )


# --- the ladder
# ----------------------------------------------------------------------------------------------------------


def rungs(world: World) -> list[RecoveryStep]:
    return [t.rung for t in world.recorder.transitions if t.rung is not None]


def test_the_client_reconnects_in_place_before_it_is_given_up() -> None:
    cut = (100.0, 109.0)
    settings = {"probe": Probe(targets=("icmp://10.77.0.1",))}
    habits = Habits(path_alive=lambda now: not cut[0] <= now < cut[1])
    world = World({"acme": tunnel(**settings)}, habits, kind=replace(KIND, renew=(Say("x"),)))
    world.run(until=cut[1])
    assert len(world.runner.renewed) == 1
    assert world.engine.snapshot.tunnels["acme"][1].health is Health.UNHEALTHY
    world.run(until=200.0)
    assert len(world.runner.spawned) == 1, "that has helped"
    assert rungs(world) == [RecoveryStep.IN_PLACE]


def test_each_rung_is_tried_and_then_the_next() -> None:
    settings = {"probe": Probe(targets=("icmp://10.77.0.1",))}
    world = World(
        {"acme": tunnel(**settings)},
        Habits(path_alive=lambda now: now < 100.0),
        kind=replace(KIND, renew=(Say("x"),)),
    )
    world.run(until=50.0)
    world.post(ev.Kept("acme", 1, True))
    world.run(until=400.0)
    assert rungs(world)[:2] == [RecoveryStep.IN_PLACE, RecoveryStep.RESUME]
    assert RecoveryStep.NEXT_REMOTE in rungs(world)
    assert world.engine.snapshot.tunnels["acme"][1].retry.remote > 0


def test_a_kept_session_that_the_far_side_forgot_is_followed_by_a_login_at_once() -> None:
    world = World({"acme": tunnel(probe=Probe())}, Habits(lives=lambda: 100.0))
    world.run(until=50.0)
    world.post(ev.Kept("acme", 1, True))
    world.run(until=100.6)  # it dropped and was resumed
    assert world.engine.snapshot.tunnels["acme"][1].session.resumed
    world.post(ev.ClientSaid("acme", 2, Failed(Reason.SESSION_EXPIRED, "cookie")))
    world.run(until=102.0)
    state = world.engine.snapshot.tunnels["acme"][1]
    assert (state.phase, state.session.number, state.session.resumed) == (Phase.UP, 3, False)
    assert rungs(world) == [RecoveryStep.RESUME, RecoveryStep.LOGIN]


def test_a_kept_session_outlives_a_long_outage() -> None:
    habits = Habits(lives=lambda: 100.0)
    world = World({"acme": tunnel()}, habits)
    world.run(until=50.0)
    world.post(ev.Kept("acme", 1, True))
    habits.says = lambda: Failed(Reason.NETWORK, "no route")
    world.run(until=2000.0)
    habits.says = lambda: None
    world.run(until=2130.0)
    state = world.engine.snapshot.tunnels["acme"][1]
    assert (state.phase, state.session.resumed, state.session.number > 5) == (Phase.UP, True, True)


# --- changed secrets
# ----------------------------------------------------------------------------------------------------------


def changed(reconnect: bool) -> World:
    login = Login(reconnect_on_change=reconnect)
    world = World(
        {"acme": configured(Tunnel, name="acme", kind="test", destinations=("10.0.0.0/24",), login=login)},
        Habits(),
    )
    world.run(until=100.0)
    world.post(ev.InputsChanged("acme"))
    world.run(until=110.0)
    assert len(world.runner.spawned) == 1
    return world


def test_a_changed_secret_is_used_at_a_quiet_moment() -> None:
    world = changed(reconnect=True)
    world.post(ev.Quiet("acme"))
    world.run(until=112.0)
    assert (len(world.runner.spawned), world.phase()) == (2, Phase.UP)
    assert world.engine.snapshot.tunnels["acme"][1].reason is Reason.CONNECTED
    world.post(ev.Quiet("acme"))
    world.run(until=2000.0)
    assert len(world.runner.spawned) == 2


def test_where_it_is_never_quiet_it_is_used_in_the_end() -> None:
    world = changed(reconnect=True)
    world.run(until=100.0 + QUIET_SECONDS - 1.0)
    assert len(world.runner.spawned) == 1
    world.run(until=100.0 + QUIET_SECONDS + 2.0)
    assert (len(world.runner.spawned), world.phase()) == (2, Phase.UP)


def test_nobody_is_disturbed_who_did_not_ask_for_it() -> None:
    world = changed(reconnect=False)
    world.post(ev.Quiet("acme"))
    world.run(until=5000.0)
    assert len(world.runner.spawned) == 1
