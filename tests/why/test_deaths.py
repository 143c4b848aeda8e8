"""The record of the last failures, fed by the real machine."""

from __future__ import annotations

from supervisor.core.events import Asked, ClientSaid, DeviceLost, Event, Exited, Probed, Tick
from supervisor.core.session.step import step
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Phase, TunnelState
from supervisor.reports.history.last_failures import MAX_FAILURES, LastFailures
from tests.core.moments import moment
from tests.why.worlds import tunnel
from tunnels.base import Connected, Failed, Reason

ACME = tunnel("acme", "10.77.0.0/24")


class FailureLog:
    """One tunnel, its state driven by events, and the record of its failures."""

    def __init__(self) -> None:
        self.deaths, self.state, self.now = LastFailures(), TunnelState(), 0.0

    def __call__(self, *events: Event) -> FailureLog:
        for event in events:
            self.now += 1.0
            before = self.state
            self.state = step(moment(ACME, self.now), before, event).tunnel
            if (before.phase, before.health, before.session) != (
                self.state.phase,
                self.state.health,
                self.state.session,
            ):
                told = Transition(
                    "acme",
                    1,
                    before.phase,
                    self.state.phase,
                    self.state.health,
                    self.state.reason,
                    "",
                    self.now,
                    1.0,
                )
                self.deaths.record(told, Snapshot({"acme": (ACME, self.state)}, self.now))
        return self

    def connected(self) -> FailureLog:
        """A session that is up, however the last one ended."""
        if self.state.phase is Phase.BACKOFF:
            self(Tick("acme"))
        return self(Asked("acme"))(ClientSaid("acme", what=Connected()))

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(str(failure.reason), failure.text) for failure in self.deaths.by_tunnel["acme"]]


def test_a_death_is_remembered_once() -> None:
    life = FailureLog().connected()(Exited("acme", code=1))
    assert life.state.phase is Phase.BACKOFF
    life.connected()(Probed("acme", rtt=0.01))
    assert life.told == [("exited", "client exited with code 1")]


def test_last_words_replace_our_guess() -> None:
    life = FailureLog().connected()(Probed("acme"), Probed("acme"), Probed("acme"))
    assert life.told == [("unhealthy", "no probe target answered in 3 rounds")]
    life(ClientSaid("acme", what=Failed(Reason.PEER_TIMEOUT, "ping-restart")), Exited("acme", code=0))
    assert life.told == [("peer-timeout", "ping-restart")]
    life.connected()(DeviceLost("acme"), Exited("acme", signal=9))
    assert life.told == [("peer-timeout", "ping-restart"), ("killed", "client ended by signal 9")]


def test_an_end_that_was_asked_for_is_no_death() -> None:
    life = FailureLog().connected()(Asked("acme", reason=Reason.STOPPED), Exited("acme", code=0))
    assert life.told == []


def test_only_the_last_ones_are_kept() -> None:
    life = FailureLog()
    for code in range(1, MAX_FAILURES + 3):
        life.connected()(Exited("acme", code=code))
    assert [text for _, text in life.told] == [
        f"client exited with code {code}" for code in range(3, MAX_FAILURES + 3)
    ]


def test_a_removed_tunnel_takes_its_failures_along() -> None:
    life = FailureLog().connected()(Exited("acme", code=1))
    other = tunnel("other", "10.78.0.0/24")
    moved = Transition(
        "other", 1, Phase.STARTING, Phase.UP, life.state.health, Reason.CONNECTED, "", 9.0, 1.0
    )
    life.deaths.record(moved, Snapshot({"other": (other, TunnelState())}, 9.0))
    assert dict(life.deaths.by_tunnel) == {"other": ()}
