"""Tunnels with a common cause: those of one gateway or one account that go down together are one incident,
not one each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from supervisor.core.alerting.verdict import Alert, Verdict, destinations, why
from supervisor.core.session.liveness import LOCAL
from supervisor.core.session.pacing import account
from supervisor.core.state import Snapshot, TunnelState, Want, well
from supervisor.core.views.availability import failed
from tunnels.base import Reason
from tunnels.settings import Tunnel

PREFIX = "group:"  # no tunnel's name has a colon
TOGETHER = 120.0  # seconds between two failures that may still have one cause
MANY = 3  # tunnels that make a group, if they are not all that the cause concerns
NAMED = 8  # members that a summary names
SEVERITIES = ("critical", "error", "warning", "info")  # the worst first

_LOGIN = frozenset({Reason.AUTH, Reason.CHALLENGE, Reason.KICKED})
_TRUST = frozenset({Reason.CERTIFICATE, Reason.OUR_CERTIFICATE, Reason.KEY})


@dataclass(frozen=True, slots=True)
class SharedCause:
    """Something that several tunnels depend on."""

    what: str  # gateway or account
    name: str
    pager: str = ""  # whose routing key calls for them, where it is their own: one incident calls one team

    @property
    def incident(self) -> str:
        """The name of the incident that it is the cause of."""
        return f"{PREFIX}{self.what}:{self.name}" + (f":{self.pager}" if self.pager else "")


def ties(tunnels: Mapping[str, Tunnel], gateways: Mapping[str, str]) -> dict[str, tuple[SharedCause, ...]]:
    """What each tunnel shares with others. `gateways` by tunnel."""
    found: dict[str, list[SharedCause]] = {}
    for name, tunnel in tunnels.items():
        key = tunnel.alert.routing_key
        pager = "" if key is None else key.file or f"${key.env}"
        if (who := account(tunnel)) is not None:
            found.setdefault(name, []).append(SharedCause("account", f"{who.username}:{who.password}", pager))
        if name in gateways:
            found.setdefault(name, []).append(SharedCause("gateway", gateways[name], pager))
    counts = Counter(tie for own in found.values() for tie in own)
    return {
        name: shared
        for name, own in found.items()
        if (shared := tuple(tie for tie in own if counts[tie] > 1))
    }


def cause(state: TunnelState, since: float) -> str | None:
    """The class of the reason for which it is down: `reach`, `login` or `trust`; None: it has no common
    cause with others.
    """
    reason = why(state, since)
    if state.asking is not None or reason in LOCAL or reason is Reason.DESTINATION:
        return None
    waits = state.retry.refusals > 0 and not failed(reason.value)  # the account was refused to another tunnel
    return "login" if waits or reason in _LOGIN else "trust" if reason in _TRUST else "reach"


@dataclass(frozen=True, slots=True)
class _Down:
    """A tunnel that is down, be it long enough or not."""

    tunnel: str
    since: float
    cause: str | None
    ties: tuple[SharedCause, ...]

    def causes(self) -> tuple[SharedCause, ...]:
        """What may be the cause: an account only where logins are refused."""
        return (
            ()
            if self.cause is None
            else tuple(tie for tie in self.ties if tie.what != "account" or self.cause == "login")
        )

    def with_(self, other: _Down) -> bool:
        """Have both gone down together, for a like reason."""
        return other.cause == self.cause and abs(other.since - self.since) <= TOGETHER


def cover(
    before: Mapping[str, str],
    own: Mapping[str, Alert],
    snapshot: Snapshot,
    ties: Mapping[str, tuple[SharedCause, ...]],
    left: Collection[str] = (),
) -> dict[str, str]:
    """By which incident somebody is called for each tunnel; each that fires is under exactly one, and
    stays there until it is clear.

    `left`: incidents of an earlier run that are open though nobody knows for whom.
    """
    under = {
        name: incident
        for name, incident in before.items()
        if name in own and own[name].verdict is not Verdict.CLEAR
    }
    firing = [name for name, alert in own.items() if alert.verdict is Verdict.FIRING and name not in under]
    if not firing:
        return under
    downs = {name: down for name in own if (down := _down(name, own[name], snapshot, ties)) is not None}
    tied, concerned = _by_tie(downs.values()), _concerned(snapshot, ties)
    for name in firing:
        if name not in under:
            under |= _covered(downs[name], tied, under, concerned, left)
    return under


def _covered(
    one: _Down,
    tied: Mapping[SharedCause, list[_Down]],
    under: Mapping[str, str],
    concerned: Mapping[SharedCause, int],
    left: Collection[str],
) -> dict[str, str]:
    """The tunnel, and those that come under the same incident with it."""
    for tie in one.causes():
        if tie.incident in left or any(
            under.get(m.tunnel) == tie.incident and m.cause == one.cause for m in tied[tie]
        ):
            return {one.tunnel: tie.incident}  # the incident is open: it follows those that went before
    for tie in one.causes():
        together = [other.tunnel for other in tied[tie] if one.with_(other)]
        uncovered = [name for name in together if name not in under]
        if len(together) >= min(MANY, concerned[tie]) and len(uncovered) > 1:
            return dict.fromkeys(uncovered, tie.incident)
    return {one.tunnel: one.tunnel}


def _down(
    name: str, alert: Alert, snapshot: Snapshot, ties: Mapping[str, tuple[SharedCause, ...]]
) -> _Down | None:
    tunnel, state = snapshot.tunnels[name]
    down = alert.verdict is Verdict.FIRING or (state.want is Want.UP and not well(tunnel, state))
    return _Down(name, alert.since, cause(state, alert.since), ties.get(name, ())) if down else None


def _by_tie(downs: Iterable[_Down]) -> dict[SharedCause, list[_Down]]:
    """Those that are down and may be for this cause."""
    found: dict[SharedCause, list[_Down]] = {}
    for down in downs:
        for tie in down.causes():
            found.setdefault(tie, []).append(down)
    return found


def _concerned(snapshot: Snapshot, ties: Mapping[str, tuple[SharedCause, ...]]) -> Counter[SharedCause]:
    """How many tunnels that shall be up each cause concerns."""
    return Counter(
        tie
        for name, (_, state) in snapshot.tunnels.items()
        if state.want is Want.UP
        for tie in ties.get(name, ())
    )


def gathered(
    facilitator: str, own: Mapping[str, Alert], under: Mapping[str, str], snapshot: Snapshot
) -> dict[str, Alert]:
    """An alert for each group beside those of the tunnels, which ask for nothing while their group calls."""
    groups: dict[str, list[str]] = {}
    for name, incident in under.items():
        if incident != name:
            groups.setdefault(incident, []).append(name)
    quiet = {name: replace(own[name], verdict=Verdict.CLEAR) for names in groups.values() for name in names}
    return {
        **own,
        **quiet,
        **{
            name: _group(facilitator, name, [own[n] for n in names], snapshot)
            for name, names in groups.items()
        },
    }


def _group(facilitator: str, name: str, members: list[Alert], snapshot: Snapshot) -> Alert:
    names, since = tuple(alert.tunnel for alert in members), min(alert.since for alert in members)
    severity = min((alert.severity for alert in members), key=SEVERITIES.index)
    reason = Counter(alert.reason for alert in members).most_common(1)[0][0]
    verdict = Verdict.FIRING if any(alert.verdict is Verdict.FIRING for alert in members) else Verdict.HOLD
    if verdict is not Verdict.FIRING:
        return Alert(name, verdict, severity, "", since, {}, reason, members=names)
    what, _, which = name.removeprefix(PREFIX).partition(":")
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    summary = f"{facilitator}: {len(names)} tunnels of {what} {which} are down: {shown}: {reason}"
    return Alert(
        name,
        verdict,
        severity,
        summary,
        since,
        _details(what, which, names, snapshot),
        reason,
        {"since": since},
        names,
    )


def _details(what: str, which: str, names: Iterable[str], snapshot: Snapshot) -> dict[str, str]:
    known = [snapshot.tunnels[name] for name in names]
    return {
        "common_cause": f"{what} {which}",
        "tunnels": ", ".join(tunnel.name for tunnel, _ in known),
        "destinations": ", ".join(destinations(tunnel) for tunnel, _ in known),
        "dead_leg": f"what these tunnels share: {what} {which}",
        "down_for_seconds": f"{snapshot.now - min(state.well_since for _, state in known):.0f}",
        "look_further": f"facilitator status; facilitator logs {known[0][0].name}; facilitator history "
        f"{known[0][0].name}",
        **{
            f"error_of_{t.name}": f"{s.failure.reason}: {s.failure.text}"
            for t, s in known[:NAMED]
            if s.failure is not None
        },
    }
