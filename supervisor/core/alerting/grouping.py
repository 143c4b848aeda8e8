"""Alert grouping by common cause: tunnels of one gateway or one account that go down together are one
incident (compare Alertmanager's grouping).

    `shared_causes`, verdicts -> `assign` (tunnel -> incident) -> `group` (one alert for each group)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from supervisor.core.alerting.verdict import Alert, Verdict, destinations, failure_reason
from supervisor.core.session.liveness import LOCAL
from supervisor.core.session.pacing import account
from supervisor.core.session.reasons import is_failure
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import TunnelState, Want, well
from tunnels.base import Reason
from tunnels.settings import Tunnel

GROUP_PREFIX = "group:"  # of an incident's name; a tunnel's name contains no colon
CORRELATION_SECONDS = 120.0  # two failures at most so far apart may have one cause
MIN_GROUP_SIZE = 3  # tunnels, or all that depend on the cause if those are fewer
MAX_NAMED_MEMBERS = 8  # in a summary
SEVERITIES = ("critical", "error", "warning", "info")  # PagerDuty's, the worst first

_LOGIN = frozenset({Reason.AUTH, Reason.CHALLENGE, Reason.KICKED})
_TRUST = frozenset({Reason.CERTIFICATE, Reason.OUR_CERTIFICATE, Reason.KEY})


@dataclass(frozen=True, slots=True)
class SharedCause:
    """Something that several tunnels depend on."""

    kind: str  # "gateway" or "account"
    name: str
    routing_key: str = ""  # where the tunnels' own routing key is stored: one incident pages one team

    @property
    def incident(self) -> str:
        """The name of the incident of which it is the cause."""
        suffix = f":{self.routing_key}" if self.routing_key else ""
        return f"{GROUP_PREFIX}{self.kind}:{self.name}{suffix}"


Causes = Mapping[str, tuple[SharedCause, ...]]  # by tunnel


def shared_causes(
    tunnels: Mapping[str, Tunnel], gateways: Mapping[str, str]
) -> dict[str, tuple[SharedCause, ...]]:
    """What each tunnel shares with at least one other; `gateways` by tunnel."""
    found: dict[str, list[SharedCause]] = {}
    for name, tunnel in tunnels.items():
        key = tunnel.alert.routing_key
        routing_key = "" if key is None else key.file or f"${key.env}"
        if (login := account(tunnel)) is not None:
            credentials = f"{login.username}:{login.password}"
            found.setdefault(name, []).append(SharedCause("account", credentials, routing_key))
        if name in gateways:
            found.setdefault(name, []).append(SharedCause("gateway", gateways[name], routing_key))
    counts = Counter(cause for own in found.values() for cause in own)
    return {
        name: shared
        for name, own in found.items()
        if (shared := tuple(cause for cause in own if counts[cause] > 1))
    }


def failure_class(state: TunnelState, since: float) -> str | None:
    """The class of the reason for which it is down: `reach`, `login` or `trust`; None: it cannot have a
    cause in common with others.
    """
    reason = failure_reason(state, since)
    if state.asking is not None or reason in LOCAL or reason is Reason.DESTINATION:
        return None
    waits = state.retry.refusals > 0 and not is_failure(
        reason.value
    )  # the account was refused to another tunnel
    if waits or reason in _LOGIN:
        return "login"
    return "trust" if reason in _TRUST else "reach"


@dataclass(frozen=True, slots=True)
class _DownTunnel:
    """A tunnel that is down, whether or not for long enough to page."""

    name: str
    since: float  # monotonic seconds
    failure_class: str | None
    depends_on: tuple[SharedCause, ...]

    def possible_causes(self) -> tuple[SharedCause, ...]:
        """The shared causes that explain its failure; an account only where logins are refused."""
        if self.failure_class is None:
            return ()
        login = self.failure_class == "login"
        return tuple(cause for cause in self.depends_on if login or cause.kind != "account")

    def correlates(self, other: _DownTunnel) -> bool:
        """True if both went down at about the same time, for the same class of reason."""
        close = abs(other.since - self.since) <= CORRELATION_SECONDS
        return close and other.failure_class == self.failure_class


def assign(
    before: Mapping[str, str],
    own: Mapping[str, Alert],
    snapshot: Snapshot,
    causes: Causes,
    inherited: Collection[str] = (),
) -> dict[str, str]:
    """The incident that covers each tunnel, by tunnel: its own, named like it, or that of a shared cause.
    Each firing tunnel is covered by exactly one, until it is clear.

    `own` are the tunnels' own verdicts; `inherited` are incidents of an earlier run that are open, though it
    is not known for which tunnels.
    """
    covered = {
        name: incident
        for name, incident in before.items()
        if name in own and own[name].verdict is not Verdict.CLEAR
    }
    firing = [name for name, alert in own.items() if alert.verdict is Verdict.FIRING and name not in covered]
    if not firing:
        return covered
    down = {name: it for name in own if (it := _down(name, own[name], snapshot, causes)) is not None}
    by_cause, dependants = _by_cause(down.values()), _dependants(snapshot, causes)
    for name in firing:
        if name not in covered:
            covered |= _cover(down[name], by_cause, covered, dependants, inherited)
    return covered


def _cover(
    tunnel: _DownTunnel,
    by_cause: Mapping[SharedCause, list[_DownTunnel]],
    covered: Mapping[str, str],
    dependants: Mapping[SharedCause, int],
    inherited: Collection[str],
) -> dict[str, str]:
    """The incident of this tunnel, and of those that join it with this one."""
    for cause in tunnel.possible_causes():
        already = (
            each
            for each in by_cause[cause]
            if covered.get(each.name) == cause.incident and each.failure_class == tunnel.failure_class
        )
        if cause.incident in inherited or any(already):
            return {tunnel.name: cause.incident}  # the group's incident is open: it joins
    for cause in tunnel.possible_causes():
        together = [other.name for other in by_cause[cause] if tunnel.correlates(other)]
        uncovered = [name for name in together if name not in covered]
        if len(together) >= min(MIN_GROUP_SIZE, dependants[cause]) and len(uncovered) > 1:
            return dict.fromkeys(uncovered, cause.incident)
    return {tunnel.name: tunnel.name}


def _down(name: str, alert: Alert, snapshot: Snapshot, causes: Causes) -> _DownTunnel | None:
    tunnel, state = snapshot.tunnels[name]
    if alert.verdict is not Verdict.FIRING and (state.want is not Want.UP or well(tunnel, state)):
        return None
    return _DownTunnel(name, alert.since, failure_class(state, alert.since), causes.get(name, ()))


def _by_cause(down: Iterable[_DownTunnel]) -> dict[SharedCause, list[_DownTunnel]]:
    """The tunnels that are down and may be so for this cause."""
    found: dict[SharedCause, list[_DownTunnel]] = {}
    for tunnel in down:
        for cause in tunnel.possible_causes():
            found.setdefault(cause, []).append(tunnel)
    return found


def _dependants(snapshot: Snapshot, causes: Causes) -> Counter[SharedCause]:
    """How many tunnels that should be up depend on each cause."""
    return Counter(
        cause
        for name, (_, state) in snapshot.tunnels.items()
        if state.want is Want.UP
        for cause in causes.get(name, ())
    )


def group(
    facilitator: str, own: Mapping[str, Alert], covered_by: Mapping[str, str], snapshot: Snapshot
) -> dict[str, Alert]:
    """The alerts by incident: one for each group beside the tunnels' own, which are CLEAR while their group
    speaks for them.
    """
    members: dict[str, list[str]] = {}
    for name, incident in covered_by.items():
        if incident != name:
            members.setdefault(incident, []).append(name)
    silenced = {
        name: replace(own[name], verdict=Verdict.CLEAR) for names in members.values() for name in names
    }
    groups = {
        incident: _group_alert(facilitator, incident, [own[name] for name in names], snapshot)
        for incident, names in members.items()
    }
    return {**own, **silenced, **groups}


def _group_alert(facilitator: str, name: str, members: list[Alert], snapshot: Snapshot) -> Alert:
    names, since = tuple(alert.tunnel for alert in members), min(alert.since for alert in members)
    severity = min((alert.severity for alert in members), key=SEVERITIES.index)
    reason = Counter(alert.reason for alert in members).most_common(1)[0][0]
    if not any(alert.verdict is Verdict.FIRING for alert in members):
        return Alert(name, Verdict.HOLD, severity, "", since, {}, reason, members=names)
    kind, _, cause = name.removeprefix(GROUP_PREFIX).partition(":")
    more = len(names) - MAX_NAMED_MEMBERS
    shown = ", ".join(names[:MAX_NAMED_MEMBERS]) + (f" and {more} more" if more > 0 else "")
    return Alert(
        name,
        Verdict.FIRING,
        severity,
        f"{facilitator}: {len(names)} tunnels of {kind} {cause} are down: {shown}: {reason}",
        since,
        _details(kind, cause, names, snapshot),
        reason,
        {"since": since},
        names,
    )


def _details(kind: str, cause: str, names: Iterable[str], snapshot: Snapshot) -> dict[str, str]:
    known = [snapshot.tunnels[name] for name in names]
    first = known[0][0].name
    errors = {
        f"error_of_{tunnel.name}": f"{state.failure.reason}: {state.failure.text}"
        for tunnel, state in known[:MAX_NAMED_MEMBERS]
        if state.failure is not None
    }
    return {
        "common_cause": f"{kind} {cause}",
        "tunnels": ", ".join(tunnel.name for tunnel, _ in known),
        "destinations": ", ".join(destinations(tunnel) for tunnel, _ in known),
        "dead_leg": f"what these tunnels share: {kind} {cause}",
        "down_for_seconds": f"{snapshot.now - min(state.well_since for _, state in known):.0f}",
        "look_further": f"facilitator status; facilitator logs {first}; facilitator history {first}",
        **errors,
    }
