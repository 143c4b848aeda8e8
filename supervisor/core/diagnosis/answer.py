"""`facilitator why`: would a packet arrive, and if not, what stops it: a verdict in one sentence, and the
checks that lead to it.

PacketQuery -> Evidence (gathered by `supervisor.app.api.explain`) -> checks, kernel_checks, obstacles ->
Explanation
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.diagnosis import checks, kernel_checks, people
from supervisor.core.diagnosis.announcement import announcement
from supervisor.core.diagnosis.checks import Check, CheckStatus
from supervisor.core.diagnosis.obstacles import obstacles
from supervisor.core.diagnosis.query import Alias, Evidence, Match, PacketPath, aliases, locate, packet_path
from supervisor.core.humanize import duration
from supervisor.core.network.plan import Manner, NetworkPlan
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Health, up, well
from supervisor.core.views.documents import WhyDocument
from tunnels.networks import IPAddress


class PacketOutcome(enum.StrEnum):
    """What would happen to the packet now."""

    CARRIED = "carried"
    DOWN = "down"  # the tunnel that should carry it is not up
    BLOCKED = "blocked"  # the tunnel is up, and something else is in the way
    REFUSED = "refused"  # the sender may not, or the tunnel takes nothing new
    NOTHING = "nothing"  # no tunnel carries this address
    PERSON = "person"  # it is an address of staff: the answer says whose


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: outcome, verdict, and the checks in the order of the packet's path."""

    outcome: PacketOutcome
    verdict: str
    steps: tuple[Check, ...]
    tunnel: str | None = None
    match: Match | None = None


def resolve(snapshot: Snapshot, plan: NetworkPlan, address: IPAddress) -> Match | tuple[Alias, ...]:
    """The destination that covers an address. If there is none: the addresses that 1:1 mappings give to it,
    unless exactly one of them leads to a destination.
    """
    found = locate(snapshot, plan, address)
    if found is not None:
        return found
    names = aliases(snapshot, address)
    only = locate(snapshot, plan, names[0].address) if len(names) == 1 else None
    return only if only is not None else names


def explain(evidence: Evidence) -> Explanation:
    """The answer to the query."""
    found = resolve(evidence.snapshot, evidence.plan, evidence.query.address)
    if isinstance(found, Match):
        return _on_its_way(evidence, packet_path(evidence.snapshot, evidence.plan, found))
    if not found and people.of_staff(evidence, evidence.query.address):
        return _person(evidence)
    return _ambiguous(evidence, found) if found else _nowhere(evidence)


def _person(evidence: Evidence) -> Explanation:
    address = evidence.query.address
    steps = (*people.person(evidence, address), *people.access(evidence, address))
    return Explanation(PacketOutcome.PERSON, people.verdict(evidence, address), steps)


def document(evidence: Evidence, answer: Explanation) -> WhyDocument:
    """The answer as JSON (`why --json`, /api/v1/why)."""
    asked, match = evidence.query, answer.match
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
        "steps": [
            {"name": step.name, "state": step.status.value, "text": step.text} for step in answer.steps
        ],
    }


def _on_its_way(evidence: Evidence, path: PacketPath) -> Explanation:
    sender = (checks.source(evidence), *checks.allowed(evidence, path.tunnel))
    kernel = tuple(_kernel(evidence, path))
    steps = (
        sender[0],
        *people.person(evidence, evidence.query.source),
        *checks.destination(evidence, path),
        *sender[1:],
        *checks.tunnels(evidence, path),
        *announcement(evidence, path),
        *checks.session(evidence, path),
        *kernel,
        *checks.second_hop(evidence, path),
        *kernel_checks.counters(evidence, path),
        *checks.failures(evidence, path.tunnel.name),
    )
    outcome, verdict = _judged(evidence, path, sender, kernel)
    return Explanation(outcome, verdict, steps, path.tunnel.name, path.match)


def _kernel(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    yield from checks.agreement(path)
    yield from kernel_checks.held(evidence, path)
    yield from obstacles(evidence, path)
    yield from kernel_checks.carrier(evidence, path)
    yield from kernel_checks.routing(evidence, path)


def _judged(
    evidence: Evidence, path: PacketPath, sender: tuple[Check, ...], kernel: tuple[Check, ...]
) -> tuple[PacketOutcome, str]:
    """The first problem decides."""
    name = _called(evidence, path.match)
    tunnel = f"{path.tunnel.name} ({path.tunnel.kind})"
    if (problem := _first_problem(sender)) is not None:
        return PacketOutcome.REFUSED, f"{name} would be rejected: {problem.text}"
    if not checks.takes(path.state):
        fate = "be held until the tunnel is back" if path.lane.manner is Manner.PAUSE else "be rejected"
        return (
            PacketOutcome.DOWN,
            f"{name} would {fate}: {tunnel} is {checks.condition(evidence, path.tunnel, path.state)}",
        )
    if path.state.drain is not None:
        return (
            PacketOutcome.REFUSED,
            f"{name} would be rejected: {tunnel} is draining, and only active flows continue",
        )
    if (problem := _first_problem(kernel)) is not None:
        return (
            PacketOutcome.BLOCKED,
            f"{name} should be carried by {tunnel}, but would not arrive: {problem.name}: {problem.text}",
        )
    return PacketOutcome.CARRIED, f"{name} is carried by {tunnel}, {_well(evidence, path)}"


def _first_problem(steps: tuple[Check, ...]) -> Check | None:
    return next((step for step in steps if step.status is CheckStatus.PROBLEM), None)


def _well(evidence: Evidence, path: PacketPath) -> str:
    state, now = path.state, evidence.snapshot.now
    if well(path.tunnel, state):
        word = "healthy" if state.health is Health.HEALTHY else "connected"
        return f"{word}, for {duration(now - state.well_since)}"
    if not up(state):
        return checks.condition(evidence, path.tunnel, state)
    return f"connected for {duration(now - state.since)}, not proven by a probe yet"


def _called(evidence: Evidence, match: Match) -> str:
    """The address as it was asked for, and its other address if there is a 1:1 mapping."""
    asked = evidence.query.address
    if asked != match.address:
        return f"{asked}, which staff reach as {match.address},"
    return (
        f"{asked}" if match.real == match.address else f"{asked}, which is {match.real} at the remote site,"
    )


def _ambiguous(evidence: Evidence, names: tuple[Alias, ...]) -> Explanation:
    listed = ", ".join(f"{alias.address} through {alias.tunnel}" for alias in names)
    verdict = (
        f"{evidence.query.address} is an address at the remote site; staff reach it as {listed}: ask "
        f"for one of these"
    )
    steps = tuple(
        Check("address", f"staff reach it as {alias.address} through {alias.tunnel}") for alias in names
    )
    return Explanation(
        PacketOutcome.NOTHING, verdict, (checks.source(evidence), *steps, *_unmarked(evidence))
    )


def _nowhere(evidence: Evidence) -> Explanation:
    lanes = {lane.number: lane.tunnel for lane in evidence.plan.lanes}
    near = checks.nearest(
        ((carry.network, lanes[carry.lane]) for carry in evidence.plan.carries), evidence.query.address
    )
    text = "no destination covers it" + (
        f"; the nearest: {', '.join(f'{n} ({tunnel})' for n, tunnel in near)}" if near else ""
    )
    onward = evidence.kernel.onward
    then = "" if onward is None else f"; this host would send it {onward}"
    verdict = f"{evidence.query.address} is carried by no tunnel{then}"
    return Explanation(
        PacketOutcome.NOTHING,
        verdict,
        (checks.source(evidence), Check("destination", text, CheckStatus.PROBLEM), *_unmarked(evidence)),
    )


def _unmarked(evidence: Evidence) -> Iterator[Check]:
    if evidence.kernel.onward is not None:
        where = ", outside all tunnels and unencrypted" if evidence.kernel.onward.device else ""
        yield Check("route", f"the kernel sends it {evidence.kernel.onward}{where}", CheckStatus.WARNING)
