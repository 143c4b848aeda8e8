"""Why does a packet arrive, or not: a verdict in one sentence, and the steps that lead to it. The pure part of `facilitator why`."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from supervisor.core import hops
from supervisor.core.hops import Mark, Step
from supervisor.core.network import Manner, NetworkPlan
from supervisor.core.obstacles import obstacles
from supervisor.core.packet import Alias, Facts, Match, Way, aliases, locate, way
from supervisor.core.state import Health, Snapshot, up, well
from supervisor.core.words import lasting
from tunnels.settings import IPAddress


class Outcome(enum.StrEnum):
    """What would become of the packet now."""

    CARRIED = "carried"
    DOWN = "down"           # the tunnel that should carry it is not up
    BLOCKED = "blocked"     # the tunnel is up, and something else is in the way
    REFUSED = "refused"     # the sender may not, or the tunnel takes nothing new
    NOTHING = "nothing"     # no tunnel carries this address


@dataclass(frozen=True, slots=True)
class Answer:
    """What `why` says."""

    outcome: Outcome
    verdict: str
    steps: tuple[Step, ...]
    tunnel: str | None = None
    match: Match | None = None


def resolve(snapshot: Snapshot, plan: NetworkPlan, address: IPAddress) -> Match | tuple[Alias, ...]:
    """The destination that an address belongs to; else the names that staff use for it, if that is not exactly one."""
    found = locate(snapshot, plan, address)
    if found is not None:
        return found
    names = aliases(snapshot, address)
    only = locate(snapshot, plan, names[0].address) if len(names) == 1 else None
    return only if only is not None else names


def explain(facts: Facts) -> Answer:
    """The answer to the facts' question."""
    found = resolve(facts.snapshot, facts.plan, facts.question.address)
    if isinstance(found, Match):
        return _on_its_way(facts, way(facts.snapshot, facts.plan, found))
    return _ambiguous(facts, found) if found else _nowhere(facts)


def document(facts: Facts, answer: Answer) -> dict[str, Any]:
    """The answer as JSON (`why --json`, /api/v1/why)."""
    asked, match = facts.question, answer.match
    return {
        "address": str(asked.address),
        "from": None if asked.source is None else str(asked.source),
        "port": asked.port,
        "outcome": answer.outcome.value,
        "verdict": answer.verdict,
        "tunnel": answer.tunnel,
        "destination": None if match is None else str(match.carry.network),
        "staff_address": None if match is None else str(match.address),
        "real_address": None if match is None else str(match.real),
        "steps": [{"name": step.name, "state": step.mark.value, "text": step.text} for step in answer.steps],
    }


def _on_its_way(facts: Facts, way: Way) -> Answer:
    sender = (hops.source(facts), *hops.allowed(facts, way.tunnel))
    kernel = tuple(_kernel(facts, way))
    steps = (
        sender[0], *hops.destination(facts, way), *sender[1:], *hops.tunnels(facts, way), *hops.session(facts, way), *kernel,
        *hops.counters(facts, way), *hops.failures(facts, way.tunnel.name),
    )
    outcome, verdict = _judged(facts, way, sender, kernel)
    return Answer(outcome, verdict, steps, way.tunnel.name, way.match)


def _kernel(facts: Facts, way: Way) -> Iterator[Step]:
    yield from hops.held(facts, way)
    yield from obstacles(facts, way)
    yield from hops.carrier(facts, way)
    yield from hops.routing(facts, way)


def _judged(facts: Facts, way: Way, sender: tuple[Step, ...], kernel: tuple[Step, ...]) -> tuple[Outcome, str]:
    """The first thing that stands in the way decides."""
    name = _called(facts, way.match)
    tunnel = f"{way.tunnel.name} ({way.tunnel.kind})"
    if (problem := _first_problem(sender)) is not None:
        return Outcome.REFUSED, f"{name} would be refused: {problem.text}"
    if not hops.takes(way.state):
        fate = "have to wait" if way.lane.manner is Manner.PAUSE else "be refused"
        return Outcome.DOWN, f"{name} would {fate}: {tunnel} is {hops.condition(facts, way.tunnel, way.state)}"
    if way.state.drain is not None:
        return Outcome.REFUSED, f"{name} would be refused: {tunnel} drains, and only what is under way goes on"
    if (problem := _first_problem(kernel)) is not None:
        return Outcome.BLOCKED, f"{name} should be carried by {tunnel}, but would not arrive: {problem.name}: {problem.text}"
    return Outcome.CARRIED, f"{name} is carried by {tunnel}, {_well(facts, way)}"


def _first_problem(steps: tuple[Step, ...]) -> Step | None:
    return next((step for step in steps if step.mark is Mark.PROBLEM), None)


def _well(facts: Facts, way: Way) -> str:
    state, now = way.state, facts.snapshot.now
    if well(way.tunnel, state):
        word = "healthy" if state.health is Health.HEALTHY else "connected"
        return f"{word}, for {lasting(now - state.well_since)}"
    if not up(state):
        return hops.condition(facts, way.tunnel, state)
    return f"connected for {lasting(now - state.since)}, not proven by a probe yet"


def _called(facts: Facts, match: Match) -> str:
    """The address as it was asked for, with the other name where there is one."""
    asked = facts.question.address
    if asked != match.address:
        return f"{asked}, which staff reach as {match.address},"
    return f"{asked}" if match.real == match.address else f"{asked}, which is {match.real} at the far side,"


def _ambiguous(facts: Facts, names: tuple[Alias, ...]) -> Answer:
    listed = ", ".join(f"{alias.address} through {alias.tunnel}" for alias in names)
    verdict = f"{facts.question.address} is an address of the far side; staff reach it as {listed}: ask for one of these"
    steps = tuple(Step("address", f"staff reach it as {alias.address} through {alias.tunnel}") for alias in names)
    return Answer(Outcome.NOTHING, verdict, (hops.source(facts), *steps, *_unmarked(facts)))


def _nowhere(facts: Facts) -> Answer:
    lanes = {lane.number: lane.tunnel for lane in facts.plan.lanes}
    near = hops.nearest(((carry.network, lanes[carry.lane]) for carry in facts.plan.carries), facts.question.address)
    text = "no destination covers it" + (f"; the nearest: {', '.join(f'{n} ({tunnel})' for n, tunnel in near)}" if near else "")
    onward = facts.kernel.onward
    then = "" if onward is None else f"; this host would send it {onward}"
    verdict = f"{facts.question.address} is carried by no tunnel{then}"
    return Answer(Outcome.NOTHING, verdict, (hops.source(facts), Step("destination", text, Mark.PROBLEM), *_unmarked(facts)))


def _unmarked(facts: Facts) -> Iterator[Step]:
    if facts.kernel.onward is not None:
        where = ", past all tunnels and in clear" if facts.kernel.onward.device else ""
        yield Step("route", f"the kernel sends it {facts.kernel.onward}{where}", Mark.WARNING)
