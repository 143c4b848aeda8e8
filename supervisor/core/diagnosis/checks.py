"""`facilitator why`: the checks on what the daemon has decided, one after the other along a packet's path.

Who may send it, which destination covers it, which tunnel carries that, and how this tunnel is. What the
kernel makes of the packet is checked by `supervisor.core.diagnosis.kernel_checks`.

A check is a PROBLEM if it stops a packet that should pass. Consequences of a tunnel that is down (no route,
no interface) are reported as OK: the tunnel's own check is the PROBLEM.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from supervisor.core.diagnosis.query import Evidence, PacketPath, aliases, candidates
from supervisor.core.humanize import duration, iso
from supervisor.core.network.access import person_rule
from supervisor.core.network.admission import is_meant
from supervisor.core.network.intervals import Interval
from supervisor.core.session.liveness import dead_leg
from supervisor.core.session.probe_targets import address_of, answers, dead_targets
from supervisor.core.state import Health, Phase, TunnelState, up, well
from tunnels.base import Reason
from tunnels.networks import IPAddress, IPNetwork
from tunnels.settings import Allowance, Tunnel


class CheckStatus(enum.StrEnum):
    """What the check found out about the packet."""

    OK = "ok"
    WARNING = "warning"  # worth knowing
    PROBLEM = "problem"  # the packet is stopped here


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: its name, one line of text, and what that means for the packet."""

    name: str
    text: str
    status: CheckStatus = CheckStatus.OK


def source(evidence: Evidence) -> Check:
    """Is the sender in staff.networks?"""
    asked, version = evidence.query.source, evidence.query.address.version
    staff = [network for network in evidence.plan.staff if network.version == version]
    if not staff:
        return Check(
            "source",
            f"staff.networks names no IPv{version} network, so nobody may send this",
            CheckStatus.PROBLEM,
        )
    if asked is None:
        return Check("source", f"anybody in {listed(staff)}; --from ADDRESS asks for one sender")
    if evidence.people is not None and asked in evidence.people.expelled:
        text = f"the hub has ended the session at {asked}; nobody has that address now"
        return Check("source", text, CheckStatus.PROBLEM)
    if asked in evidence.plan.denied:
        text = f"an order of the fleet lets {asked} in nowhere; facilitator fleet status says who gave it"
        return Check("source", text, CheckStatus.PROBLEM)
    covering = [network for network in staff if asked in network]
    if not covering:
        return Check("source", f"{asked} is not in staff.networks ({listed(staff)})", CheckStatus.PROBLEM)
    segments = [
        name for name, networks in evidence.segments.items() if any(asked in network for network in networks)
    ]
    part = f", segment {listed(segments)}" if segments else ""
    return Check("source", f"{asked} is staff: {covering[0]}{part}")


def destination(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """The destination that covers the address, and both addresses if there is a 1:1 mapping."""
    match, asked = path.match, evidence.query.address
    if asked != match.address:
        yield Check("address", f"{asked} is an address at the remote site; staff reach it as {match.address}")
    yield Check("destination", f"{match.carry.network} of {path.tunnel.name} covers {match.address}")
    if match.carry.real != match.carry.network:
        text = (
            f"staff use {match.address}, at the remote site it is {match.real} ({match.carry.network} "
            f"stands for {match.carry.real})"
        )
        yield Check("mapping", text)
    others = [
        f"{alias.address} ({alias.tunnel})"
        for alias in aliases(evidence.snapshot, asked)
        if alias.address != match.address
    ]
    if others and asked == match.address:
        yield Check("mapping", f"other sites use {asked} too; staff reach those as {listed(others)}")


def allowed(evidence: Evidence, tunnel: Tunnel) -> Iterator[Check]:
    """Does the tunnel's allow list let the sender in? No check if the tunnel has no allow list."""
    if tunnel.allow is None:
        return
    rules = listed(tunnel.allow) or "nobody"
    asked = evidence.query.source
    if asked is None:
        yield Check("allow", f"{tunnel.name} lets in {rules}; --from ADDRESS asks for one sender")
        return
    open_to = [each for each in tunnel.allow if _admits(evidence, each, asked)]
    right = [each for each in open_to if evidence.query.port is None or _port_in(each, evidence.query.port)]
    if right:
        yield Check("allow", f"{tunnel.name} lets in {listed(right)}")
    elif open_to:
        yield Check(
            "allow",
            f"{tunnel.name} does not let {asked} to port {evidence.query.port}, only {rules}",
            CheckStatus.PROBLEM,
        )
    else:
        yield Check("allow", f"{tunnel.name} does not let {asked} in, only {rules}", CheckStatus.PROBLEM)


def allowed_sender(evidence: Evidence, tunnel: Tunnel, sender: IPAddress) -> str:
    """Whether the tunnel lets this sender in, and by which entries of its allow list."""
    if sender in evidence.plan.denied:
        return "lets it in nowhere: it is blocked"
    if tunnel.allow is None:
        return "lets in all of staff.networks"
    entries = [each for each in tunnel.allow if _admits(evidence, each, sender)]
    if entries:
        return f"lets it in: {listed(entries)}"
    return f"does not let it in, only {listed(tunnel.allow) or 'nobody'}"


def _admits(evidence: Evidence, allowance: Allowance, sender: IPAddress) -> bool:
    """Is the sender in the segment, or the person behind it one of those who are meant."""
    if allowance.by_person:
        people = evidence.people
        now = evidence.snapshot.now + evidence.wall_offset
        holding = None if people is None or people.stale else people.of(sender)
        return holding is not None and is_meant(person_rule(allowance), holding, now)
    return any(sender in network for network in evidence.segments.get(allowance.segment, ()))


def tunnels(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """The tunnels that could carry the destination, by priority, and which of them does."""
    able = list(candidates(evidence.snapshot, path.match.carry.network))
    for tunnel, state in able:
        carries = tunnel.name == path.tunnel.name
        rank = f", priority {tunnel.priority}" if len(able) > 1 else ""
        full = "; it drains and takes nothing new" if state.drain is not None else ""
        text = (
            f"{tunnel.name} ({tunnel.kind}{rank}) {_role(carries, state)}: "
            f"{condition(evidence, tunnel, state)}{full}{_takes_over_in(evidence, path, tunnel, state)}"
        )
        yield Check("tunnel", text, _tunnel_status(carries, tunnel, state))


def _role(carries: bool, state: TunnelState) -> str:
    if not carries:
        return "stands by"
    return "carries it" if takes(state) else "should carry it"


def _tunnel_status(carries: bool, tunnel: Tunnel, state: TunnelState) -> CheckStatus:
    """A problem only if it is this tunnel that should carry the packet, and it takes nothing new."""
    if carries and not (takes(state) and state.drain is None):
        return CheckStatus.PROBLEM
    return CheckStatus.OK if well(tunnel, state) else CheckStatus.WARNING


def takes(state: TunnelState) -> bool:
    """Does the tunnel carry packets? Also True if it is connected and only its probe targets are silent."""
    return up(state) or (state.phase is Phase.UP and state.reason is Reason.DESTINATION)


def condition(evidence: Evidence, tunnel: Tunnel, state: TunnelState) -> str:
    """State of a tunnel, since when and why, such as `healthy since 2026-01-01T00:00:00Z (3 h 12 min)`."""
    now = evidence.snapshot.now
    if up(state):
        if well(tunnel, state):
            badly = "" if state.liveness.degraded is None else f", but is degraded: {state.liveness.degraded}"
            return (
                f"{'healthy' if state.health is Health.HEALTHY else 'connected'} "
                f"{since(evidence, state.well_since)}{badly}"
            )
        return f"connected, not proven by a probe yet, {since(evidence, state.since)}"
    if state.phase is Phase.STOPPED:
        who = "because the daemon ends" if state.reason is Reason.SHUTDOWN else "by an operator"
        return f"stopped {who} {since(evidence, state.since)}"
    why = f" because {state.failure.reason}: {state.failure.text}" if state.failure is not None else ""
    leg = dead_leg(tunnel, state, evidence.snapshot.uplink)
    if takes(state):
        return (
            f"connected, and its {leg} is dead {since(evidence, state.well_since)}{why}; its session is kept"
        )
    dead = "" if leg is None else f" at the {leg}"
    wait = "" if state.deadline is None else f" in {duration(state.deadline - now)}"
    return (
        f"down {since(evidence, state.well_since)}{dead}{why}; "
        f"{_NEXT[state.phase]}{wait if state.phase is Phase.BACKOFF else ''}"
    )


_NEXT: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.STARTING: "it is connecting now",
        Phase.UP: "its session is given up",
        Phase.BACKOFF: "the next attempt follows",
        Phase.STOPPING: "its client is being ended",
        Phase.FAILED: "it needs attention",
    }
)


def _takes_over_in(evidence: Evidence, path: PacketPath, tunnel: Tunnel, state: TunnelState) -> str:
    """When a recovered tunnel of better priority takes over again (`reconnect.stable_after`)."""
    if tunnel.name == path.tunnel.name or tunnel.priority >= path.tunnel.priority or not well(tunnel, state):
        return ""
    left = state.well_since + tunnel.reconnect.stable_after - evidence.snapshot.now
    return f"; it takes over in {duration(left)} if it stays up" if left > 0 else ""


def session(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """The client that runs, and the result of its probes."""
    state, now = path.state, evidence.snapshot.now
    if not state.running:
        yield Check("session", "no client runs")
        return
    run = state.session
    parts = [f"session {run.id or run.number}", f"process {run.pid or 'not started yet'}"]
    parts += [
        f"{word} {value}"
        for word, value in (("address", run.address or run.address6), ("gateway", run.peer))
        if value is not None
    ]
    parts.append(
        "not connected yet" if run.connected is None else f"connected {since(evidence, run.connected)}"
    )
    yield Check("session", ", ".join(parts))
    if not path.tunnel.probe.targets:
        yield Check("probe", "no probe.targets, so being connected is all that is known", CheckStatus.WARNING)
    elif state.liveness.misses:
        yield Check(
            "probe", f"{state.liveness.misses} rounds in a row without an answer", CheckStatus.WARNING
        )
    elif state.liveness.last_rtt is not None:
        held = (
            ""
            if state.liveness.healthy_since is None
            else f", healthy for {duration(now - state.liveness.healthy_since)} in this session"
        )
        yield Check("probe", f"the last one was answered in {state.liveness.last_rtt * 1000:.1f} ms{held}")
    else:
        yield Check("probe", "none was answered yet")
    yield from _targets(path, now)


def _targets(path: PacketPath, now: float) -> Iterator[Check]:
    """Each target in the destination that the address lies in, where the tunnel has several targets."""
    targets = path.tunnel.probe.targets
    there = path.match.carry.real
    here = [target for target in targets if len(targets) > 1 and address_of(target) in there]
    dead = {each.target: each for each in dead_targets(path.state.liveness)}
    for target in here:
        if target in dead:
            text = (
                f"{target} in the same destination has been silent for {duration(now - dead[target].since)}"
            )
            yield Check("target", text, CheckStatus.WARNING)
        elif answers(path.state, target):
            yield Check("target", f"{target} in the same destination answers")


def agreement(path: PacketPath) -> Iterator[Check]:
    """Whether the remote gateway has agreed to carry packets to this address."""
    agreed = path.state.session.agreed
    if agreed and takes(path.state) and not any(path.match.real in network for network in agreed):
        yield Check(
            "remote gateway",
            f"it agreed to carry only {listed(agreed)}; to do: have {path.match.real} added there",
            CheckStatus.PROBLEM,
        )


def second_hop(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """Where TCP goes that this host has never seen, with other members of a fleet."""
    network = path.match.carry.network
    lane = next((each.lane for each in evidence.plan.handed_over if each.network == network), None)
    if lane is None:
        return
    member = next((each for each in evidence.plan.members if each.number == lane), None)
    what = "connections that this host does not know"
    if member is None:
        text = f"{what} are reset: it is not known which member carried {network} before"
        yield Check("second hop", text)
    elif not member.alive:
        text = f"{what} are reset: member {member.member} ({member.address}) does not answer over the handover path (table {lane})"
        yield Check("second hop", text, CheckStatus.WARNING)
    else:
        way = "directly" if member.device is None else f"dev {member.device}"
        yield Check(
            "second hop", f"{what} go to member {member.member} ({member.address}, {way}, table {lane})"
        )


def failures(evidence: Evidence, tunnel: str) -> Iterator[Check]:
    """Why the last sessions ended, newest first."""
    known = evidence.failures.get(tunnel, ())
    if not known:
        yield Check("failures", "none is remembered")
    for failure in reversed(known):
        yield Check("failure", f"{since(evidence, failure.at, ago=True)}: {failure.reason}: {failure.text}")


def since(evidence: Evidence, moment: float, *, ago: bool = False) -> str:
    """`since TIME (DURATION)`; with `ago`: `TIME (DURATION ago)`. `moment` in monotonic seconds."""
    spent, at = duration(evidence.snapshot.now - moment), iso(evidence.wall_offset + moment)
    return f"{at} ({spent} ago)" if ago else f"since {at} ({spent})"


def listed(items: Iterable[object]) -> str:
    """The items, separated by commas."""
    return ", ".join(str(item) for item in items)


def _port_in(each: Allowance, port: int) -> bool:
    """Does the rule allow this TCP port?"""
    if each.ports is None:
        return True
    spans = (text.removeprefix("tcp/").split("-") for text in each.ports if text.startswith("tcp/"))
    return any(int(span[0]) <= port <= int(span[-1]) for span in spans)


def nearest(
    networks: Iterable[tuple[IPNetwork, str]], address: IPAddress, count: int = 3
) -> list[tuple[IPNetwork, str]]:
    """The `count` networks (with their tunnels) that lie closest to the address."""

    def distance(entry: tuple[IPNetwork, str]) -> int:
        span = Interval.of(entry[0])
        return max(span.first - int(address), int(address) - span.last, 0)

    return sorted((entry for entry in networks if entry[0].version == address.version), key=distance)[:count]
