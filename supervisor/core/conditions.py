"""Conditions: what is wrong now, each under one name in status, status page and incidents.

conditions of the daemon's parts, and `of_tunnels` -> `visible` -> those that lasted and that no other
explains
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import collapse_addresses
from typing import Any

from supervisor.core.session.liveness import dead_leg
from supervisor.core.session.probe_targets import dead_targets
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, Session, Want, well
from tunnels.networks import IPNetwork
from tunnels.settings import Tunnel

UPLINK = "uplink"  # name of the condition that this host's own uplink is dead
MEMBER_SECONDS = 60.0  # for which another member of the fleet may be away, for a start of its host
DOWN = "tunnels-down"  # name of the condition that tunnels do not work
_MAX_NAMED_TUNNELS = 8  # in a text


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong now."""

    text: str  # one sentence for people
    severity: str = "error"  # PagerDuty's: critical, error, warning or info
    look_further: str = "facilitator status"  # the command that shows more
    after: float = 0.0  # seconds for which it must last before it is visible
    explained_by: str = ""  # name of the condition that is its cause: while that is there, this is hidden
    pages: bool = True  # it has an incident of its own; False: other incidents page for the same thing
    clear_after: float = 60.0  # seconds for which it must be gone before its incident is resolved
    tunnel: str = ""  # the tunnel that it is about, whose routing key its incident uses


@dataclass(frozen=True, slots=True)
class VisibleConditions:
    """The conditions that people see. Moments are monotonic seconds."""

    since: Mapping[str, float]  # when each began that no other explains, visible or not
    shown: Mapping[str, Condition]  # by name
    due: float | None  # when a further one becomes visible without any event


def visible(since: Mapping[str, float], found: Mapping[str, Condition], now: float) -> VisibleConditions:
    """The conditions that are visible now; `since` is that of the last result. A condition that was explained
    begins when its explanation is gone.
    """
    own = {name: each for name, each in found.items() if each.explained_by not in found}
    began = {name: since.get(name, now) for name in own}
    later = [began[name] + each.after for name, each in own.items() if began[name] + each.after > now]
    return VisibleConditions(
        began,
        {name: each for name, each in own.items() if began[name] + each.after <= now},
        min(later, default=None),
    )


def of_snapshot(snapshot: Snapshot) -> dict[str, Condition]:
    """The conditions about the uplink and about tunnels, by name."""
    if snapshot.uplink.alive:
        return of_tunnels(snapshot)
    text = f"the uplink is dead: {snapshot.uplink.text}; nothing is restarted until it is back"
    return {UPLINK: Condition(text, "critical", "ip route; ip neighbour")} | of_tunnels(snapshot)


def of_tunnels(snapshot: Snapshot) -> dict[str, Condition]:
    """The conditions about tunnels: one for all that are down, which page by themselves, and one for each
    that is degraded, has a dead probe target beside one that answers, or whose remote gateway does not carry
    all destinations.
    """
    found = {f"degraded:{condition.tunnel}": condition for condition in _degraded(snapshot)}
    found |= {f"silent-target:{condition.tunnel}": condition for condition in _silent_targets(snapshot)}
    found |= {f"member:{name}": _silent_member(name) for name in snapshot.gone}
    found |= {f"not-carried:{condition.tunnel}": condition for condition in _not_carried(snapshot)}
    if down := list(_down(snapshot)):
        wanted = sum(state.want is Want.UP for _, state in snapshot.tunnels.values())
        more = len(down) - _MAX_NAMED_TUNNELS
        names = ", ".join(down[:_MAX_NAMED_TUNNELS]) + (f" and {more} more" if more > 0 else "")
        text = f"{len(down)} of {wanted} tunnels {'does' if len(down) == 1 else 'do'} not work: {names}"
        found[DOWN] = Condition(text, explained_by=UPLINK, pages=False)
    return found


def _silent_member(name: str) -> Condition:
    text = (
        f"member {name} of the fleet does not answer over the handover path: connections that it had are reset; check "
        f"whether it runs, and whether packets of fleet.handover pass between the members"
    )
    return Condition(text, "warning", "facilitator plan; facilitator doctor", MEMBER_SECONDS, UPLINK)


def _degraded(snapshot: Snapshot) -> Iterator[Condition]:
    for name, (tunnel, state) in snapshot.tunnels.items():
        degraded = state.liveness.degraded
        if degraded is not None and well(tunnel, state):
            text = f"tunnel {name} is degraded: {degraded}"
            further = f"facilitator status {name}; facilitator history {name}"
            yield Condition(text, "warning", further, tunnel.alert.after, UPLINK, tunnel=name)


def _silent_targets(snapshot: Snapshot) -> Iterator[Condition]:
    """Of tunnels that work: what is dead of a tunnel that does not is told by its own incident."""
    for name, (tunnel, state) in snapshot.tunnels.items():
        dead = [each.target for each in dead_targets(state.liveness)]
        if dead and state.phase is Phase.UP and well(tunnel, state):
            text = (
                f"tunnel {name} works, but {' and '.join(dead)} of its probe.targets "
                f"{'does' if len(dead) == 1 else 'do'} not answer; check that host and the firewalls on the way, "
                f"or change probe.targets"
            )
            yield Condition(
                text, "warning", f"facilitator status {name}", tunnel.alert.after, UPLINK, tunnel=name
            )


def _not_carried(snapshot: Snapshot) -> Iterator[Condition]:
    for name, (tunnel, state) in snapshot.tunnels.items():
        if state.phase is Phase.UP and (networks := _not_agreed(tunnel, state.session)):
            text = (
                f"tunnel {name}: the remote gateway agreed to carry only "
                f"{', '.join(map(str, state.session.agreed))}, which is not all of "
                f"{', '.join(map(str, networks))} in destinations; have it changed there, or change destinations"
            )
            further = f"facilitator status {name}; facilitator why {networks[0][0]}"
            yield Condition(text, "warning", further, tunnel.alert.after, UPLINK, tunnel=name)


def _down(snapshot: Snapshot) -> Iterator[str]:
    """The tunnels that are down for longer than `alert.after`, with the leg of their path that is dead."""
    for name, (tunnel, state) in snapshot.tunnels.items():
        over = max(state.well_since, snapshot.uplink.since) + tunnel.alert.after <= snapshot.now
        if state.want is Want.UP and over and not well(tunnel, state):
            leg = dead_leg(tunnel, state, snapshot.uplink)
            yield name if leg is None else f"{name} ({leg})"


def _not_agreed(tunnel: Tunnel, session: Session) -> tuple[IPNetwork, ...]:
    """The destinations of which the remote gateway carries nothing, or only a part, in this session."""
    if not session.agreed:
        return ()
    return tuple(each.network for each in tunnel.destinations if not _within(each.network, session.agreed))


def _within(network: Any, others: Iterable[Any]) -> bool:
    """Together, these networks hold every address of this one."""
    same = [each for each in others if each.version == network.version]
    return any(network.subnet_of(each) for each in collapse_addresses(same))
