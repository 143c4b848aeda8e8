"""All tunnels together, and what each must respect of the others: a pure fold over (tunnel set, event).

    tunnel_set, actions, transitions = fold(tunnel_set, event, now, jitter, utc_offset)

A step of one tunnel (`core.session.step`) knows nothing of the others. Here is what it is told of them: the
pace of logins at a shared gateway (`core.session.pacing`), refusals of a shared account, rivals for a
destination of which only one may be disturbed at a time, and the host's uplink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from supervisor.core import events as ev
from supervisor.core.lock_view import LockView
from supervisor.core.session.context import Step, StepContext
from supervisor.core.session.deadlines import Deadlines
from supervisor.core.session.handover import rivals, unsettled
from supervisor.core.session.pacing import GatewayPacer, RetryBudget, login_turn, same_account
from supervisor.core.session.step import step
from supervisor.core.session.transitions import public, transitions
from supervisor.core.snapshot import Snapshot, Transition, Uplink
from supervisor.core.state import Phase, Reach, TunnelState
from tunnels.base import AnyKind, Reason
from tunnels.settings import Tunnel

Members = Mapping[str, tuple[Tunnel, TunnelState]]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What tunnels share, by their names."""

    gateways: Mapping[str, str] = field(default_factory=dict)  # the gateway that each connects to
    same_account: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # others with its account
    rivals: Mapping[str, frozenset[str]] = field(default_factory=dict)  # others with one of its destinations


def neighbours(tunnels: Mapping[str, Tunnel], kinds: Mapping[str, AnyKind]) -> Neighbours:
    """What these tunnels share."""
    found = {name: kinds[tunnel.kind].endpoint(tunnel) for name, tunnel in tunnels.items()}
    gateways = {name: gateway for name, gateway in found.items() if gateway is not None}
    return Neighbours(gateways, same_account(tunnels), rivals(tunnels.values()))


@dataclass(frozen=True, slots=True)
class TunnelSet:
    """All tunnels at one moment."""

    kinds: Mapping[str, AnyKind]
    members: Members = field(default_factory=dict)
    deadlines: Deadlines = Deadlines()  # of the members
    leaving: frozenset[str] = frozenset()  # not configured any more; each is forgotten when it has stopped
    neighbours: Neighbours = Neighbours()
    pacer: GatewayPacer = GatewayPacer()
    retries: RetryBudget = RetryBudget()
    uplink: Uplink = Uplink()
    draining: bool = False
    gone: frozenset[str] = frozenset()  # other members of the fleet that do not answer
    carried: tuple[tuple[str, str], ...] = ()  # see `Snapshot`
    locks: Mapping[str, LockView] = field(default_factory=dict)  # what is known, by tunnel
    notice: float = 0.0  # see `StepContext`

    @property
    def tunnels(self) -> dict[str, Tunnel]:
        """The settings by name."""
        return {name: tunnel for name, (tunnel, _) in self.members.items()}

    @property
    def states(self) -> dict[str, TunnelState]:
        """The states by name."""
        return {name: state for name, (_, state) in self.members.items()}

    def snapshot(self, now: float) -> Snapshot:
        """The read model of everything that goes out."""
        return Snapshot(self.members, now, self.draining, self.uplink, self.gone, self.locks, self.carried)

    def with_state(self, name: str, state: TunnelState) -> TunnelSet:
        """The set with another state of this tunnel."""
        return self.with_member(self.members[name][0], state)

    def with_member(self, tunnel: Tunnel, state: TunnelState) -> TunnelSet:
        """The set with this tunnel, or with other settings and another state of it."""
        members = {**self.members, tunnel.name: (tunnel, state)}
        return replace(self, members=members, deadlines=self.deadlines.after(tunnel.name, state))

    def without(self, name: str) -> TunnelSet:
        """The set without this tunnel."""
        members = {other: pair for other, pair in self.members.items() if other != name}
        deadlines = self.deadlines.after(name, None)
        locks = {other: lock for other, lock in self.locks.items() if other != name}
        return replace(self, members=members, deadlines=deadlines, leaving=self.leaving - {name}, locks=locks)


@dataclass(frozen=True, slots=True)
class TunnelSetStep:
    """What comes of one event."""

    tunnel_set: TunnelSet
    actions: tuple[ev.Action, ...] = ()
    transitions: tuple[tuple[Transition, Snapshot], ...] = ()  # each with all tunnels right after it
    events: tuple[ev.Event, ...] = ()  # that follow from it, to be folded at once
    touched: frozenset[str] = frozenset()  # tunnels whose record must be rewritten
    changed: bool = False  # something that outputs depend on


def fold(
    tunnel_set: TunnelSet, event: ev.Event, now: float, jitter: float, utc_offset: float
) -> TunnelSetStep:
    """The set after the event. `now` in monotonic seconds, `jitter` in [0, 1), `utc_offset`: seconds that
    turn the former into local time.
    """
    match event:
        case ev.Noticed():
            return TunnelSetStep(tunnel_set, changed=True)
        case ev.UplinkDoubted():
            return TunnelSetStep(
                replace(tunnel_set, uplink=replace(tunnel_set.uplink, doubted=event.doubted))
            )
        case ev.UplinkChanged():
            back = tuple([ev.UplinkBack(name) for name in tunnel_set.members]) if event.alive else ()
            uplink = Uplink(event.alive, now, event.text)
            return TunnelSetStep(replace(tunnel_set, uplink=uplink), events=back, changed=True)
        case ev.MemberChanged() | ev.MembersCarry():
            after = _with_members(tunnel_set, event)
            return TunnelSetStep(after, changed=after != tunnel_set)
        case ev.ClockSet(tunnel=""):
            return TunnelSetStep(tunnel_set, events=tuple([ev.ClockSet(name) for name in tunnel_set.members]))
        case _:
            return _of_tunnel(tunnel_set, event, now, jitter, utc_offset)


def _with_members(tunnel_set: TunnelSet, event: ev.MemberChanged | ev.MembersCarry) -> TunnelSet:
    """What is known of the other members of the fleet."""
    if isinstance(event, ev.MembersCarry):
        return replace(tunnel_set, carried=event.carried)
    others = tunnel_set.gone - {event.member}
    return replace(tunnel_set, gone=others if event.alive else others | {event.member})


def _of_tunnel(
    tunnel_set: TunnelSet, event: ev.Event, now: float, jitter: float, utc_offset: float
) -> TunnelSetStep:
    member = tunnel_set.members.get(event.tunnel)
    if member is None or _too_late(tunnel_set, event):
        return TunnelSetStep(tunnel_set)
    tunnel, before = member
    if isinstance(event, ev.LockChanged):
        tunnel_set = replace(tunnel_set, locks={**tunnel_set.locks, event.tunnel: event.lock})
    if isinstance(event, ev.ReconnectDue):
        event = replace(event, free=event.free and not _hindered(tunnel_set, tunnel.name))
    context = StepContext(
        tunnel,
        tunnel_set.kinds[tunnel.kind],
        now,
        jitter,
        _turn(tunnel_set, tunnel.name, before, now),
        tunnel_set.retries.turn(),
        tunnel_set.uplink.alive,
        tunnel_set.uplink.doubted,
        _lock(tunnel_set, tunnel),
        before.endpoint is not Reach.SILENT and not before.endpoint_returned,
        utc_offset,
        tunnel_set.notice,
    )
    result = step(context, before, event)
    moved = transitions(context, before, result, tunnel_set.uplink)
    changed = bool(moved) or public(before) != public(result.tunnel) or isinstance(event, ev.LockChanged)
    touched = {tunnel.name} if changed else set[str]()
    after = tunnel_set.with_state(tunnel.name, result.tunnel)
    recorded = tuple([(each, after.snapshot(now)) for each in moved])
    after = _paced(after, tunnel.name, before, result, now)
    after, woken = _shared(after, tunnel.name, before, result, touched)
    if _is_gone(after, tunnel.name, result.tunnel):
        after, changed = after.without(tunnel.name), True
        touched.add(tunnel.name)
    return TunnelSetStep(after, result.actions, recorded, woken, frozenset(touched), changed)


def _lock(tunnel_set: TunnelSet, tunnel: Tunnel) -> LockView | None:
    """Of an exclusive tunnel. Until there is news it has none."""
    return tunnel_set.locks.get(tunnel.name, LockView(tunnel.name)) if tunnel.exclusive else None


def _too_late(tunnel_set: TunnelSet, event: ev.Event) -> bool:
    """A tunnel that is being removed cannot be started again; only a configuration that names it again
    brings it back.
    """
    return (
        event.tunnel in tunnel_set.leaving
        and isinstance(event, ev.Asked)
        and event.reason not in (Reason.STOPPED, Reason.SHUTDOWN)
    )


def _is_gone(tunnel_set: TunnelSet, name: str, state: TunnelState) -> bool:
    return name in tunnel_set.leaving and state.phase is Phase.STOPPED and state.standby is None


def _hindered(tunnel_set: TunnelSet, name: str) -> bool:
    """A tunnel that could carry the same destinations is not to be relied on at this moment."""
    others = (tunnel_set.members.get(rival) for rival in tunnel_set.neighbours.rivals.get(name, ()))
    return tunnel_set.draining or any(other is not None and unsettled(other[1]) for other in others)


def _turn(tunnel_set: TunnelSet, name: str, state: TunnelState, now: float) -> float:
    """Before this moment no client of the tunnel starts, out of regard for those of others."""
    shared = tunnel_set.neighbours
    others = (tunnel_set.members.get(other) for other in shared.same_account.get(name, ()))
    login = login_turn((other[1] for other in others if other is not None), now)
    gateway = shared.gateways.get(name)
    return login if gateway is None else max(login, tunnel_set.pacer.turn(gateway, state.retry.turn))


def _paced(tunnel_set: TunnelSet, name: str, before: TunnelState, result: Step, now: float) -> TunnelSet:
    """Note what other tunnels, above all those at its gateway, must know."""
    if (retries := tunnel_set.retries.after(result, now)) is not tunnel_set.retries:
        tunnel_set = replace(tunnel_set, retries=retries)
    gateway = tunnel_set.neighbours.gateways.get(name)
    if gateway is None:
        return tunnel_set
    pacer = tunnel_set.pacer.after(gateway, before, result, now)
    return tunnel_set if pacer is tunnel_set.pacer else replace(tunnel_set, pacer=pacer)


def _shared(
    tunnel_set: TunnelSet, name: str, before: TunnelState, result: Step, touched: set[str]
) -> tuple[TunnelSet, tuple[ev.Event, ...]]:
    """An account is refused, or accepted, for all tunnels that use it. Those that had given up because of it
    try again.
    """
    partners = tunnel_set.neighbours.same_account.get(name, ())
    if not partners:
        return tunnel_set, ()
    accepted, retry = _comes_up(before, result.tunnel), result.tunnel.retry
    if retry.refusals == before.retry.refusals and not accepted:
        return tunnel_set, ()
    woken = []
    for other in partners:
        member = tunnel_set.members.get(other)
        if member is None:
            continue
        theirs = member[1]
        told = replace(theirs.retry, refusals=retry.refusals, login_after=retry.login_after)
        tunnel_set = tunnel_set.with_state(other, replace(theirs, retry=told))
        touched.add(other)
        if accepted and theirs.phase is Phase.FAILED and theirs.reason is Reason.AUTH:
            woken.append(ev.InputsChanged(other))
    return tunnel_set, tuple(woken)


def _comes_up(before: TunnelState, after: TunnelState) -> bool:
    up = {each.session.number for each in before.sessions if each.phase is Phase.UP}
    return any(each.phase is Phase.UP and each.session.number not in up for each in after.sessions)
