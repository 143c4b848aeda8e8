"""Silent sessions in virtual time: what a drop of the network costs, and what a lost session costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from supervisor.core import events as ev
from supervisor.core.session.silence import RETURN_SECONDS
from supervisor.core.state import Health, Known, Leg, Phase, Reach, Second, TunnelState
from tests.fakes import KIND, Habits, World
from tests.settings import configured
from tunnels.base import Failed, Reason, Say
from tunnels.settings import Probe, Tunnel

PROBED = Probe(targets=("icmp://10.77.0.1",))
RENEWS = replace(KIND, renew=(Say("renew"),))
CUT = 600.0
NEVER = float("inf")


@dataclass
class CutNetwork:
    """Between this host and the gateway: dead from CUT to `back`; the gateway drops silent sessions after
    `patience` seconds. The watch of gateways sees both within two seconds.
    """

    back: float
    patience: float = NEVER
    second: Second = Second.REPLACES
    kind: object = KIND
    tunnels: int = 1
    world: World = field(init=False)

    def __post_init__(self) -> None:
        self.habits = Habits(second=self.second)
        names = [f"t{i}" for i in range(self.tunnels)]
        every = {
            name: configured(
                Tunnel,
                name=name,
                kind="test",
                destinations=(f"10.77.{i}.0/24",),
                probe=Probe(targets=(f"icmp://10.77.{i}.1",)),
            )
            for i, name in enumerate(names)
        }
        known = {name: Known(self.second) for name in names}
        self.world = World(every, self.habits, kind=self.kind, known=known)
        self.habits.path_alive, self.habits.connects_in = self._alive, self._connects
        self.world.run(until=CUT)
        assert all(self.state(name).health is Health.HEALTHY for name in names)
        self.before = len(self.spawned)
        if self.back - CUT >= self.patience:
            self.world.later(self.patience, self._drop)
        for name in names:
            self._seen(CUT + 4.0, name, Reach.SILENT)
            self._seen(self.back + 1.0, name, Reach.ANSWERS)

    def _alive(self, now: float) -> bool:
        """Once its client has reconnected in place, a session lives again."""
        if any(at >= self.back for at, _, _ in self.world.runner.renewed):
            self.world.runner.dead.clear()
        return not CUT <= now < self.back

    def _drop(self) -> None:
        self.world.runner.dead |= {
            (name, self.state(name).session.number) for name in self.world.runner.alive
        }

    def _connects(self) -> float | None:
        return None if CUT <= self.world.now < self.back else 0.5

    def _seen(self, at: float, name: str, reach: Reach) -> None:
        self.world.later(at - self.world.now, lambda: self.world.post(ev.EndpointSeen(name, reach=reach)))

    def state(self, name: str = "t0") -> TunnelState:
        """Of a tunnel, now."""
        return self.world.engine.snapshot.tunnels[name][1]

    @property
    def spawned(self) -> list[tuple[float, str, int]]:
        """All clients so far."""
        return self.world.runner.spawned


@pytest.mark.parametrize("seconds", [12.0, 20.0, 60.0, 600.0, 7200.0])
@pytest.mark.parametrize("kind", [KIND, RENEWS], ids=["plain", "renews"])
def test_a_silence_of_the_network_costs_no_login(seconds: float, kind: object) -> None:
    network = CutNetwork(CUT + seconds, kind=kind)
    network.world.run(until=CUT + seconds)
    assert network.state().phase is Phase.UP
    if seconds > 15.0:
        assert (network.state().health, network.state().reason) == (Health.UNHEALTHY, Reason.UNHEALTHY)
    network.world.run(until=CUT + seconds + 10.0)
    assert network.state().health is Health.HEALTHY
    assert (len(network.spawned) - network.before, network.world.runner.renewed) == (0, [])


@pytest.mark.parametrize("second", [Second.ALLOWED, Second.REPLACES, Second.UNKNOWN, Second.ENDS])
def test_a_session_that_the_gateway_has_dropped_costs_one_login_and_six_seconds(second: Second) -> None:
    network = CutNetwork(CUT + 300.0, patience=120.0, second=second)
    network.world.run(until=CUT + 300.0 + 6.0)
    assert network.state().health is Health.HEALTHY
    assert [at >= CUT + 300.0 for at, _, _ in network.spawned[network.before :]] == [True]


def test_a_session_that_was_lost_is_judged_soon_after_the_return_whenever_the_next_probe_ends() -> None:
    """Rounds end two seconds apart: a verdict that waits for one comes up to two seconds late."""
    lost = []
    for tenths in range(0, 21, 2):
        back = CUT + 300.0 + tenths / 10
        network = CutNetwork(back, patience=120.0)
        network.world.run(until=back + 1.0 + RETURN_SECONDS + PROBED.timeout + 0.2)
        lost.append([at - back - 1.0 for at, _, _ in network.spawned[network.before :]])
    assert all(len(each) == 1 and each[0] <= PROBED.timeout + 0.1 for each in lost), lost


def test_after_a_silence_of_the_gateway_no_sign_of_the_protocol_is_waited_for() -> None:
    """It would come after so many seconds; where the gateway was silent as well, no filter is to blame."""
    slow = replace(KIND, ends_within=lambda tunnel: 60.0)
    network = CutNetwork(CUT + 30.0, patience=10.0, kind=slow)
    network.world.run(until=CUT + 30.0 + 6.0)
    assert network.state().health is Health.HEALTHY
    assert len(network.spawned) - network.before == 1


def test_a_client_that_can_reconnect_in_place_does_so_once() -> None:
    network = CutNetwork(CUT + 300.0, patience=120.0, kind=RENEWS)
    network.world.run(until=CUT + 360.0)
    assert network.state().health is Health.HEALTHY
    assert (len(network.spawned) - network.before, len(network.world.runner.renewed)) == (0, 1)


def test_the_old_session_that_answers_first_is_kept_and_the_other_one_logged_off() -> None:
    network = CutNetwork(CUT + 300.0, second=Second.ALLOWED)
    network.habits.connects_in = lambda: 12.0
    network.world.post(
        ev.EndpointSeen("t0", reach=Reach.ANSWERS)
    )  # it answers, but the tunnel is dead for 300 s
    network.world.later(5.0, lambda: network.world.post(ev.EndpointSeen("t0", reach=Reach.ANSWERS)))
    network.habits.path_alive = lambda now: not CUT <= now < CUT + 16.0
    first = network.state().session.number
    network.world.run(until=CUT + 60.0)
    assert network.state().session.number == first
    assert (network.state().health, network.state().standby) == (Health.HEALTHY, None)
    assert len(network.spawned) == network.before + 1


def test_a_silent_gateway_is_blamed_and_the_session_goes_on_carrying() -> None:
    network = CutNetwork(CUT + 300.0)
    network.world.run(until=CUT + 200.0)
    assert network.world.engine.plan.carries
    assert network.world.recorder.transitions[-1].leg in (Leg.ENDPOINT, Leg.TUNNEL)


# --- attempts that reach nobody
# ----------------------------------------------------------------------------------------------------------


def unreached(simulated: World) -> list[float]:
    """Seconds between two attempts."""
    started = [at for at, _, _ in simulated.runner.spawned]
    return [b - a for a, b in zip(started, started[1:], strict=False)]


def test_attempts_that_nothing_answers_come_at_most_five_seconds_apart_for_ever() -> None:
    refused = Habits(says=lambda: Failed(Reason.NETWORK, "no answer"))
    simulated = World(
        {"t0": configured(Tunnel, name="t0", kind="test", destinations=("10.77.0.0/24",))}, refused
    )
    simulated.run(until=3600.0)
    assert len(simulated.runner.spawned) > 3600.0 / 6.0
    assert max(unreached(simulated)) <= 5.5


def test_only_the_first_attempt_after_a_stable_session_that_nothing_answers_comes_at_once() -> None:
    network = CutNetwork(CUT + 60.0)
    network.world.run(until=CUT + 20.0)
    network.habits.says = lambda: (
        Failed(Reason.DNS, "no answer") if network.world.now < network.back else None
    )
    lost = ev.ClientSaid("t0", network.state().session.number, Failed(Reason.PEER_TIMEOUT, "no answer"))
    network.world.post(lost)
    network.world.run(until=network.back)
    assert len(network.spawned) - network.before < 20


def test_attempts_that_are_answered_come_ever_slower() -> None:
    refused = Habits(says=lambda: Failed(Reason.PEER_CLOSED, "closed"))
    simulated = World(
        {"t0": configured(Tunnel, name="t0", kind="test", destinations=("10.77.0.0/24",))}, refused
    )
    simulated.run(until=3600.0)
    assert max(unreached(simulated)[-10:]) > 60.0


def test_a_gateway_that_is_asked_itself_lets_few_clients_start_and_its_answer_starts_one_at_once() -> None:
    network = CutNetwork(CUT + 3600.0)
    network.world.runner.exit("t0", 1, ev.Exited("t0", 1, 1))
    network.habits.says = lambda: (
        Failed(Reason.NETWORK, "no answer") if network.world.now < network.back else None
    )
    network.world.run(until=network.back)
    assert len(network.spawned) - network.before < 250
    network.world.run(until=network.back + 4.0)
    assert network.state().health is Health.HEALTHY


@pytest.mark.slow  # 45 s of CPU: a third of all tests that need no root
def test_after_a_cut_of_all_gateways_few_processes_start_at_once_and_all_are_back_within_ten_seconds() -> (
    None
):
    network = CutNetwork(CUT + 300.0, tunnels=200)
    for name in [f"t{i}" for i in range(200)]:
        number = network.state(name).session.number
        network.world.runner.exit(name, number, ev.Exited(name, number, 1))
    network.habits.says = lambda: (
        Failed(Reason.NETWORK, "no answer") if network.world.now < network.back else None
    )
    network.world.run(until=network.back)
    asked = len(network.spawned)
    network.world.run(until=network.back + 10.0)
    assert all(network.state(f"t{i}").health is Health.HEALTHY for i in range(200))
    started = [at for at, _, _ in network.spawned[asked:]]
    assert max(sum(a <= at < a + 0.45 for at in started) for a in started) <= 20


# --- regular outages
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "reason",
    [
        *(Reason.PEER_TIMEOUT, Reason.NETWORK, Reason.DNS, Reason.UNHEALTHY),
        *(Reason.PEER_CLOSED, Reason.EXITED, Reason.KICKED),
    ],
)
def test_regular_outages_of_the_network_teach_no_limit(reason: Reason) -> None:
    habits = Habits(path_alive=lambda now: now % 600.0 >= 80.0)
    simulated = World(
        {"t0": configured(Tunnel, name="t0", kind="test", destinations=("10.77.0.0/24",), probe=PROBED)},
        habits,
    )
    for n in range(1, 13):
        cut = 600.0 * n
        simulated.run(until=cut + 40.0)
        number = simulated.engine.snapshot.tunnels["t0"][1].session.number
        simulated.post(ev.ClientSaid("t0", number, Failed(reason, "no answer")))
    simulated.run(until=4 * 3600.0)
    state = simulated.engine.snapshot.tunnels["t0"][1]
    assert state.planned is None
    assert not any(t.reason is Reason.PLANNED for t in simulated.recorder.transitions)
