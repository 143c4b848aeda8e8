"""What the name service should know now: a function of the configuration, the snapshot and the lanes."""

from __future__ import annotations

import functools
from ipaddress import ip_network

from supervisor.core.humanize import iso
from supervisor.core.names.values import AskingRules, MappedNetwork, NamesOfTunnel
from supervisor.core.network.access import PersonRule, person_rule
from supervisor.core.network.admission import KnownPeople, is_meant
from supervisor.core.network.compose import Scope
from supervisor.core.network.lanes import lane_of
from supervisor.core.network.plan import Segments
from supervisor.core.state import Phase, TunnelState, up
from tunnels.networks import IPNetwork
from tunnels.settings import Tunnel


def asking_rules(scope: Scope) -> AskingRules | None:
    """Who may ask; None: no name service is wanted."""
    if not scope.listen:
        return None
    return AskingRules(scope.staff, scope.denied, scope.upstream, scope.listen)


def names_of(
    tunnel: Tunnel,
    state: TunnelState,
    first: int,
    segments: Segments,
    wall_offset: float,
    people: tuple[IPNetwork, ...] = (),
) -> NamesOfTunnel:
    """Those of one tunnel, which has some. `first`: the lane of its first slot; `people`: as `admitted`
    says.
    """
    assert tunnel.names is not None
    session = state.session
    servers = session.name_servers if tunnel.names.pushed else tunnel.names.addresses
    down = "" if up(state) else _why_down(tunnel.name, state, wall_offset)
    if not down and not servers:
        down = f"{tunnel.name}: its gateway pushes no name server; set names.servers"
    return NamesOfTunnel(
        tunnel.names.domains,
        tuple(servers),
        _networks(tunnel),
        tunnel.names.reverse,
        lane_of(first, session.slot),
        session.device,
        _allowed(tunnel, segments, people),
        down,
        tunnel.priority,
    )


def _why_down(name: str, state: TunnelState, wall_offset: float) -> str:
    since = iso(state.since + wall_offset)[11:16]
    what = "unhealthy" if state.phase is Phase.UP else "down"
    failure = state.present_failure
    why = state.reason.value if failure is None else failure.text
    return f"{name} is {what} since {since} UTC: {why}"


@functools.lru_cache(maxsize=1024)
def _networks(tunnel: Tunnel) -> tuple[MappedNetwork, ...]:
    return tuple([MappedNetwork(each.network, each.staff_side) for each in tunnel.destinations])


def by_person(tunnel: Tunnel) -> tuple[PersonRule, ...]:
    """Its rules about groups and persons."""
    return tuple([person_rule(each) for each in tunnel.allow or () if each.by_person])


def admitted(
    rules: tuple[PersonRule, ...], people: KnownPeople, now: float, wall: float
) -> tuple[IPNetwork, ...]:
    """The addresses of people whom one of the rules means; `now`: monotonic, `wall`: Unix time."""
    if now >= people.until:
        return ()
    meant = (
        address
        for address, holding in people.present.items()
        if any(is_meant(rule, holding, wall) for rule in rules)
    )
    return tuple(
        [ip_network(address) for address in sorted(meant, key=lambda each: (each.version, int(each)))]
    )


def _allowed(
    tunnel: Tunnel, segments: Segments, people: tuple[IPNetwork, ...]
) -> tuple[IPNetwork, ...] | None:
    """Whoever may use any port of the tunnel may ask for its names."""
    if tunnel.allow is None:
        return None
    named = [network for each in tunnel.allow for network in segments.get(each.segment, ())]
    return (*named, *people)
