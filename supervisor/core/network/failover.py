"""Failover: which tunnel carries a destination that several can reach."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from supervisor.core.network.by_identity import ByIdentity
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import TunnelState, sound, well
from tunnels.base import IPNetwork
from tunnels.settings import Tunnel

Carriers = Mapping[IPNetwork, str]  # destination, as staff address it -> name of the tunnel


@dataclass(frozen=True, slots=True, eq=False)
class DestinationIndex:
    """Which tunnels reach which destinations: one object for each configuration (see `by_identity`)."""

    tunnels: tuple[Tunnel, ...]
    # In the order of networks: the tunnels that reach each, best first.
    ranked: Mapping[IPNetwork, tuple[str, ...]]
    real: Mapping[tuple[str, IPNetwork], IPNetwork]  # the remote network of a destination (1:1 mapping)


def directory(tunnels: Sequence[Tunnel], last: Carriers) -> DestinationIndex:
    """The index of these tunnels; without any work where it is the one that `last` was chosen with."""
    if isinstance(last, Chosen):
        known = last.directory
        if len(tunnels) == len(known.tunnels) and all(map(operator.is_, tunnels, known.tunnels)):
            return known
    return _directory(tuple(map(ByIdentity, tunnels)))


@functools.lru_cache(maxsize=2)
def _directory(tunnels: tuple[ByIdentity[Tunnel], ...]) -> DestinationIndex:
    found: dict[IPNetwork, list[str]] = {}
    real = {}
    for tunnel in sorted((each.value for each in tunnels), key=lambda tunnel: (tunnel.priority, tunnel.name)):
        for destination in tunnel.destinations:
            found.setdefault(destination.staff_side, []).append(tunnel.name)
            real[tunnel.name, destination.staff_side] = destination.network
    ranked = {network: tuple(found[network]) for network in sorted(found, key=_in_order)}
    return DestinationIndex(tuple(each.value for each in tunnels), ranked, real)


def _in_order(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


@dataclass(frozen=True, slots=True)
class _Group:
    """Destinations that the same two or more tunnels reach, and the same one carries: they fail
    over together.
    """

    ranked: tuple[str, ...]
    carrier: str  # "": none yet
    networks: tuple[IPNetwork, ...]


class Chosen(dict[IPNetwork, str]):
    """Carriers in the order of networks, with the groups that the next choice has to look at."""

    def __init__(self, known: DestinationIndex, carriers: Carriers, groups: Sequence[_Group]) -> None:
        super().__init__(carriers)
        self.directory = known
        self.groups = groups

    @classmethod
    def of(cls, known: DestinationIndex, before: Carriers) -> Chosen:
        """The earlier choice, for a new configuration."""
        groups: dict[tuple[tuple[str, ...], str], list[IPNetwork]] = {}
        carriers = {
            network: ranked[0] if len(ranked) == 1 else before.get(network, "")
            for network, ranked in known.ranked.items()
        }
        for network, ranked in known.ranked.items():
            if len(ranked) > 1:
                groups.setdefault((ranked, carriers[network]), []).append(network)
        return cls(known, carriers, [_Group(*key, tuple(networks)) for key, networks in groups.items()])


def choose(before: Carriers, snapshot: Snapshot) -> tuple[Carriers, float | None]:
    """The carriers now (`before` itself where nothing changes), and the monotonic moment at which one may
    change without any event.

    The well tunnel with the lowest priority number carries, one that drains or is suspected to be dead only
    if there is no other. One that comes back takes over only after it was well for its `stable_after`, so
    that a flapping tunnel is not followed; while none is well the last one keeps the destination. None: no
    such moment.
    """
    known = directory([tunnel for tunnel, _ in snapshot.tunnels.values()], before)
    if not isinstance(before, Chosen) or before.directory is not known:
        before = Chosen.of(known, before)
    moments, groups = [], []
    moved: dict[IPNetwork, str] = {}
    for group in before.groups:
        name, due = _carrier(group.carrier, [snapshot.tunnels[name] for name in group.ranked], snapshot.now)
        if due is not None:
            moments.append(due)
        if name != group.carrier:
            moved |= dict.fromkeys(group.networks, name)
        groups.append(group if name == group.carrier else _Group(group.ranked, name, group.networks))
    return (Chosen(known, before | moved, groups) if moved else before), min(moments, default=None)


Rivals = tuple[str, ...]  # tunnels that reach the same destinations, best first


def prevailed(carriers: Carriers) -> dict[Rivals, str]:
    """Which one carries what several reach: all that must be remembered of a choice."""
    return {group.ranked: group.carrier for group in carriers.groups} if isinstance(carriers, Chosen) else {}


def contested(before: Carriers, after: Carriers) -> set[str]:
    """Tunnels that have won or lost from one choice to the other."""
    return (
        set()
        if before is after
        else {name for _, name in prevailed(before).items() ^ prevailed(after).items()}
    )


def recalled(tunnels: Sequence[Tunnel], known: Mapping[Rivals, str]) -> Carriers:
    """The choice that was remembered so, as far as the configuration is still the same."""
    ranked = directory(tunnels, {}).ranked
    return {network: known[rivals] for network, rivals in ranked.items() if rivals in known}


Candidate = tuple[Tunnel, TunnelState]


def _carrier(before: str, ranked: Sequence[Candidate], now: float) -> tuple[str, float | None]:
    works = [candidate for candidate in ranked if well(*candidate)]
    stays = [(tunnel, state) for tunnel, state in works if state.drain is None] or works
    fit = [candidate for candidate in stays if sound(*candidate)] or stays
    current = next((tunnel.name for tunnel, _ in ranked if tunnel.name == before), None)
    if not fit:
        return current or ranked[0][0].name, None
    if current is None or all(tunnel.name != current for tunnel, _ in fit):
        return fit[0][0].name, None
    return _failed_back(current, fit, now)


def _failed_back(current: str, fit: Iterable[Candidate], now: float) -> tuple[str, float | None]:
    """A better tunnel than the current, well one takes over when it has proven itself; or the moment at
    which one may.
    """
    moments: list[float] = []
    for tunnel, state in fit:
        due = max(state.well_since, state.sound_since) + tunnel.reconnect.stable_after
        if tunnel.name == current or due <= now:
            return tunnel.name, min(moments, default=None)
        moments.append(due)
    return current, min(moments, default=None)
