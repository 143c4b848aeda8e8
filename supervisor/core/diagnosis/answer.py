"""Why does a packet arrive, or not: a verdict in one sentence, and the steps that lead to it. The pure
part of `facilitator why`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.diagnosis import checks
from supervisor.core.diagnosis.checks import Check, CheckStatus
from supervisor.core.diagnosis.obstacles import obstacles
from supervisor.core.diagnosis.query import Alias, Evidence, Match, Way, aliases, locate, way
from supervisor.core.humanize import lasting
from supervisor.core.network.plan import Manner, NetworkPlan
from supervisor.core.state import Health, Snapshot, up, well
from supervisor.core.views.documents import WhyDocument
from tunnels.settings import IPAddress


class PacketOutcome(enum.StrEnum):
    """What would become of the packet now."""

    CARRIED = "carried"
    DOWN = "down"  # the tunnel that should carry it is not up
    BLOCKED = "blocked"  # the tunnel is up, and something else is in the way
    REFUSED = "refused"  # the sender may not, or the tunnel takes nothing new
    NOTHING = "nothing"  # no tunnel carries this address


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `why` says."""

    outcome: PacketOutcome
    verdict: str
    steps: tuple[Check, ...]
    tunnel: str | None = None
    match: Match | None = None


def resolve(snapshot: Snapshot, plan: NetworkPlan, address: IPAddress) -> Match | tuple[Alias, ...]:
    """The destination that an address belongs to; else the names that staff use for it, if that is not
    exactly one.
    """
    found = locate(snapshot, plan, address)
    if found is not None:
        return found
    names = aliases(snapshot, address)
    only = locate(snapshot, plan, names[0].address) if len(names) == 1 else None
    return only if only is not None else names


def explain(facts: Evidence) -> Explanation:
    """The answer to the facts' question."""
    found = resolve(facts.snapshot, facts.plan, facts.question.address)
    if isinstance(found, Match):
        return _on_its_way(facts, way(facts.snapshot, facts.plan, found))
    return _ambiguous(facts, found) if found else _nowhere(facts)


def document(facts: Evidence, answer: Explanation) -> WhyDocument:
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


def _on_its_way(facts: Evidence, way: Way) -> Explanation:
    sender = (checks.source(facts), *checks.allowed(facts, way.tunnel))
    kernel = tuple(_kernel(facts, way))
    steps = (
        sender[0],
        *checks.destination(facts, way),
        *sender[1:],
        *checks.tunnels(facts, way),
        *checks.session(facts, way),
        *kernel,
        *checks.counters(facts, way),
        *checks.failures(facts, way.tunnel.name),
    )
    outcome, verdict = _judged(facts, way, sender, kernel)
    return Explanation(outcome, verdict, steps, way.tunnel.name, way.match)


def _kernel(facts: Evidence, way: Way) -> Iterator[Check]:
    yield from checks.held(facts, way)
    yield from obstacles(facts, way)
    yield from checks.carrier(facts, way)
    yield from checks.routing(facts, way)


def _judged(
    facts: Evidence, way: Way, sender: tuple[Check, ...], kernel: tuple[Check, ...]
) -> tuple[PacketOutcome, str]:
    """The first thing that stands in the way decides."""
    name = _called(facts, way.match)
    tunnel = f"{way.tunnel.name} ({way.tunnel.kind})"
    if (problem := _first_problem(sender)) is not None:
        return PacketOutcome.REFUSED, f"{name} would be refused: {problem.text}"
    if not checks.takes(way.state):
        fate = "have to wait" if way.lane.manner is Manner.PAUSE else "be refused"
        return (
            PacketOutcome.DOWN,
            f"{name} would {fate}: {tunnel} is {checks.condition(facts, way.tunnel, way.state)}",
        )
    if way.state.drain is not None:
        return (
            PacketOutcome.REFUSED,
            f"{name} would be refused: {tunnel} drains, and only what is under way goes on",
        )
    if (problem := _first_problem(kernel)) is not None:
        return (
            PacketOutcome.BLOCKED,
            f"{name} should be carried by {tunnel}, but would not arrive: {problem.name}: {problem.text}",
        )
    return PacketOutcome.CARRIED, f"{name} is carried by {tunnel}, {_well(facts, way)}"


def _first_problem(steps: tuple[Check, ...]) -> Check | None:
    return next((step for step in steps if step.mark is CheckStatus.PROBLEM), None)


def _well(facts: Evidence, way: Way) -> str:
    state, now = way.state, facts.snapshot.now
    if well(way.tunnel, state):
        word = "healthy" if state.health is Health.HEALTHY else "connected"
        return f"{word}, for {lasting(now - state.well_since)}"
    if not up(state):
        return checks.condition(facts, way.tunnel, state)
    return f"connected for {lasting(now - state.since)}, not proven by a probe yet"


def _called(facts: Evidence, match: Match) -> str:
    """The address as it was asked for, with the other name where there is one."""
    asked = facts.question.address
    if asked != match.address:
        return f"{asked}, which staff reach as {match.address},"
    return f"{asked}" if match.real == match.address else f"{asked}, which is {match.real} at the far side,"


def _ambiguous(facts: Evidence, names: tuple[Alias, ...]) -> Explanation:
    listed = ", ".join(f"{alias.address} through {alias.tunnel}" for alias in names)
    verdict = (
        f"{facts.question.address} is an address of the far side; staff reach it as {listed}: ask "
        f"for one of these"
    )
    steps = tuple(
        Check("address", f"staff reach it as {alias.address} through {alias.tunnel}") for alias in names
    )
    return Explanation(PacketOutcome.NOTHING, verdict, (checks.source(facts), *steps, *_unmarked(facts)))


def _nowhere(facts: Evidence) -> Explanation:
    lanes = {lane.number: lane.tunnel for lane in facts.plan.lanes}
    near = checks.nearest(
        ((carry.network, lanes[carry.lane]) for carry in facts.plan.carries), facts.question.address
    )
    text = "no destination covers it" + (
        f"; the nearest: {', '.join(f'{n} ({tunnel})' for n, tunnel in near)}" if near else ""
    )
    onward = facts.kernel.onward
    then = "" if onward is None else f"; this host would send it {onward}"
    verdict = f"{facts.question.address} is carried by no tunnel{then}"
    return Explanation(
        PacketOutcome.NOTHING,
        verdict,
        (checks.source(facts), Check("destination", text, CheckStatus.PROBLEM), *_unmarked(facts)),
    )


def _unmarked(facts: Evidence) -> Iterator[Check]:
    if facts.kernel.onward is not None:
        where = ", past all tunnels and in clear" if facts.kernel.onward.device else ""
        yield Check("route", f"the kernel sends it {facts.kernel.onward}{where}", CheckStatus.WARNING)
