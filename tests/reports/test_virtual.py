"""Incidents in virtual time, against any misbehaviour of PagerDuty and any number of crashes: nothing is
lost, doubled or left open.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from supervisor.core.alerting.verdict import Verdict
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import SendOutcome, SendResult
from supervisor.reports.paging.notifier import PagerClock, PagerHooks
from supervisor.reports.paging.pager import Pager
from supervisor.reports.paging.pagerduty import PagerDuty
from supervisor.reports.paging.routing import INCIDENT_WINDOW_SECONDS, MAX_TRIGGERS_PER_INCIDENT, PagingConfig
from tests.pagerduty_double import ROUTING_KEY, change_problems, problems
from tests.reports.worlds import alert
from tunnels.settings import Secret

HOUR, DAY = 3600.0, 86400.0
POINTS = (
    "before the write",
    "before the send",
    "before it is taken",
    "before the answer",
    "before the answer is written",
    "afterwards",
)


class Killed(BaseException):
    """What SIGKILL is to a process."""


@dataclass
class Answering:
    """How one request is treated."""

    outcome: SendOutcome = SendOutcome.ACCEPTED
    taken: bool = True
    seconds: float = 0.1  # until the answer, or until we give up
    retry_after: float = 0.0


FINE = Answering()
CUT = Answering(SendOutcome.FAILED, True)
REFUSED_CONNECTION = Answering(SendOutcome.FAILED, False)
ERROR = Answering(SendOutcome.FAILED, False)
THROTTLED = Answering(SendOutcome.THROTTLED, False, retry_after=30.0)
HANGS = Answering(SendOutcome.FAILED, False, seconds=60.0)
HANGS_AND_TAKES = Answering(SendOutcome.FAILED, True, seconds=60.0)


class RoutingKeyLog(Secrets):
    """Learns the routing key right before something is sent."""

    def __init__(self, point: Callable[[str], None]) -> None:
        super().__init__()
        self._point = point

    def add(self, value: str) -> None:
        self._point("before the send")


class PagerWorld(PagerDuty):
    """A pager that is killed and begun anew at will, and its PagerDuty."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state = state
        self.now = 1000.0
        self.script: deque[Answering] = deque()
        self.down: tuple[float, float] = (0.0, 0.0)
        self.kill_at: str | None = None
        self.open: dict[str, float] = {}
        self.pages: dict[str, list[float]] = {}  # when an incident was opened that was not open
        self.taken: list[tuple[str, str]] = []
        self.wanted: dict[str, bool] = {}
        self.edges: dict[str, int] = {}  # how often each incident was wanted anew
        self._begin()

    def _begin(self) -> None:
        hooks = PagerHooks(lambda _: ROUTING_KEY, self._lines, self._count)
        clock = PagerClock(lambda: self.now, lambda: self.now + 1e9)
        self.pager = Pager(
            self,
            self.state,
            PagingConfig("vpn1", "", Secret(file="key")),
            hooks,
            RoutingKeyLog(self._point),
            clock=clock,
        )

    # --- where it can be killed ---

    def _point(self, name: str) -> None:
        if self.kill_at == name:
            self.kill_at = None
            raise Killed

    def _lines(self, _: str) -> Sequence[str]:
        self._point("before the write")
        return ()

    def _count(self, action: str, result: str) -> None:
        self._point("before the answer is written")

    def resolve(self, dedup_key: str, since: float, at: float) -> str:
        self._point("before the write")
        return super().resolve(dedup_key, since, at)

    # --- PagerDuty ---

    def send(self, paging: PagingConfig, key: str, body: str) -> SendResult:
        event = {"routing_key": key, **json.loads(body)}
        assert (problems if "event_action" in event else change_problems)(event) == []
        self._point("before it is taken")
        answering = (
            REFUSED_CONNECTION
            if self.down[0] <= self.now < self.down[1]
            else self.script.popleft()
            if self.script
            else FINE
        )
        if answering.taken and "event_action" in event:
            self._take(event["event_action"], event["dedup_key"])
        self.now += answering.seconds
        self._point("before the answer")
        return SendResult(answering.outcome, "", answering.retry_after)

    def _take(self, action: str, key: str) -> None:
        self.taken.append((action, key))
        if action == "resolve":
            self.open.pop(key, None)
        elif key not in self.open:
            self.open[key] = self.now
            self.pages.setdefault(key, []).append(self.now)

    # --- what happens ---

    def set(self, **verdicts: Verdict) -> None:
        """What the engine says; a tunnel that it does not name any more is gone."""
        for name in self.wanted.keys() - verdicts.keys():
            self.wanted[name] = False
        for name, verdict in verdicts.items():
            if verdict is not Verdict.HOLD:
                firing = verdict is Verdict.FIRING
                self.edges[name] = self.edges.get(name, 0) + (firing and not self.wanted.get(name, False))
                self.wanted[name] = firing
        self.pager.set({name: alert(verdict, name) for name, verdict in verdicts.items()})

    def run(self, seconds: float) -> None:
        """Let time pass; a killed pager is begun anew, and the engine comes to the same verdicts as
        before.
        """
        until = self.now + seconds
        while True:
            try:
                idle = self.pager.turn()
                self._point("afterwards")
            except Killed:
                self.restart()
                continue
            if idle is None or self.now + idle > until:
                self.now = max(self.now, until)
                return
            self.now += idle

    def restart(self) -> None:
        """Whatever was in memory is gone."""
        self.pager.close()
        self._begin()
        said = {name: Verdict.FIRING if wanted else Verdict.CLEAR for name, wanted in self.wanted.items()}
        self.pager.set({name: alert(verdict, name) for name, verdict in said.items()})

    def settled(self) -> None:
        """After a day without news what is open is what is wanted, and nobody was called more often than
        there was a reason.
        """
        self.run(DAY)
        wanted = {f"facilitator/vpn1/{name}" for name, wanted in self.wanted.items() if wanted}
        assert set(self.open) == wanted
        assert self.pager.status.pending == 0
        assert {incident.dedup_key for incident in self.pager.status.incidents} == wanted
        for name in self.edges:
            pages = self.pages.get(f"facilitator/vpn1/{name}", [])
            assert len(pages) <= self.edges[name]
            for first, beyond in zip(pages, pages[MAX_TRIGGERS_PER_INCIDENT:], strict=False):
                assert beyond - first >= INCIDENT_WINDOW_SECONDS - 1e-6


@pytest.fixture
def world() -> Iterator[PagerWorld]:
    with fresh() as world:
        yield world


class fresh:
    """A world with a directory of its own, on a disk in memory where there is one."""

    def __enter__(self) -> PagerWorld:
        memory = Path("/dev/shm")
        self.state = Path(tempfile.mkdtemp(prefix="virtual-", dir=memory if memory.is_dir() else None))
        self.world = PagerWorld(self.state)
        return self.world

    def __exit__(self, *_: object) -> None:
        self.world.pager.close()
        shutil.rmtree(self.state)


ANSWERS = st.sampled_from(
    [FINE, FINE, FINE, CUT, REFUSED_CONNECTION, ERROR, THROTTLED, HANGS, HANGS_AND_TAKES]
)
VERDICTS = st.dictionaries(st.sampled_from(["acme", "own", "third"]), st.sampled_from(Verdict), max_size=3)
EVENTS = st.one_of(
    VERDICTS,
    VERDICTS,
    st.sampled_from(POINTS),
    st.sampled_from([1.0, 30.0, 300.0, HOUR]),
    st.lists(ANSWERS, min_size=1, max_size=6),
    st.tuples(st.just("down"), st.sampled_from([60.0, HOUR])),
    st.just("settle"),
)


@settings(deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=20))
def test_any_script_and_any_crash(events: list) -> None:
    with fresh() as world, capture_logs():
        for event in events:
            match event:
                case dict():
                    world.set(**event)
                    world.run(0.0)
                case "settle":
                    world.settled()
                case str():
                    world.kill_at = event
                case float():
                    world.run(event)
                case ("down", seconds):
                    world.down = (world.now, world.now + seconds)
                case _:
                    world.script.extend(event)
        world.settled()


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_of_the_trigger_and_of_the_resolve(world: PagerWorld, point: str) -> None:
    for verdict in (Verdict.FIRING, Verdict.CLEAR):
        world.kill_at = point
        world.set(acme=verdict)
        world.run(HOUR)
        assert world.kill_at is None, "it was killed"
    assert len(world.pages["facilitator/vpn1/acme"]) == 1
    assert world.open == {}
    actions = [action for action, _ in world.taken]
    assert actions == sorted(actions, key=["trigger", "resolve"].index)
    world.settled()


@pytest.mark.parametrize(
    "script",
    [[CUT], [THROTTLED] * 5, [ERROR] * 8, [HANGS], [HANGS_AND_TAKES], [CUT, ERROR, THROTTLED, HANGS] * 3],
    ids=["202 then cut", "429 x 5", "500s", "hang", "hang taken", "all"],
)
def test_each_incident_is_triggered_once_and_resolved_once_in_order(
    world: PagerWorld, script: list[Answering]
) -> None:
    for verdict in (Verdict.FIRING, Verdict.CLEAR):
        world.script.extend(script)
        world.set(acme=verdict)
        world.run(3 * HOUR)
    assert len(world.pages["facilitator/vpn1/acme"]) == 1
    assert world.open == {}
    actions = [action for action, _ in world.taken]
    assert actions == sorted(actions, key=["trigger", "resolve"].index)
    assert world.pager.status.incidents == ()


def test_down_for_an_hour(world: PagerWorld) -> None:
    world.down = (world.now, world.now + HOUR)
    world.set(acme=Verdict.FIRING, own=Verdict.FIRING)
    world.run(HOUR / 2)
    world.set(acme=Verdict.FIRING, own=Verdict.CLEAR)
    world.restart()
    world.run(HOUR / 2 - 1.0)
    assert world.taken == []
    assert world.pager.status.pending == 2
    world.run(150.0)
    assert list(world.open) == ["facilitator/vpn1/acme"]
    assert world.pages.keys() == {"facilitator/vpn1/acme"}
    world.settled()


def test_at_most_three_calls_in_three_minutes_about_one_tunnel(world: PagerWorld) -> None:
    for _ in range(10):
        world.set(acme=Verdict.FIRING)
        world.run(5.0)
        world.set(acme=Verdict.CLEAR)
        world.run(5.0)
    assert len(world.pages["facilitator/vpn1/acme"]) == MAX_TRIGGERS_PER_INCIDENT
    world.set(acme=Verdict.FIRING, own=Verdict.FIRING)
    world.run(5.0)
    assert set(world.open) == {"facilitator/vpn1/own"}
    world.settled()


def test_changes_are_told_and_given_up(world: PagerWorld) -> None:
    world.down = (world.now, world.now + DAY)
    world.pager.change("reloaded", {"done": "a"})
    with capture_logs() as logs:
        world.run(DAY)
    assert [log["given_up"] for log in logs] == [False] * 4 + [True]
