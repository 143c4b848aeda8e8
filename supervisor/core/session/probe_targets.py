"""Which targets of a session answer: one dead target beside a living one is no failure of the tunnel, and is
told all the same. And what users' packets prove while none answers.

    Probed.silent -> `judged` -> `dead_targets` -> status, why, metric, condition
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from supervisor.core.session.liveness import ROUNDS
from supervisor.core.state import Liveness, Proof, SilentTarget, TunnelState
from tunnels.networks import IPAddress, IPNetwork
from tunnels.settings import Destination, Tunnel


def judged(
    before: tuple[SilentTarget, ...] | None, silent: Collection[str] | None, now: float
) -> tuple[SilentTarget, ...] | None:
    """The silent targets after one more round; `silent` None: it has shown nothing new."""
    if silent is None:
        return before
    known = {each.target: each for each in before or ()}
    return tuple(
        SilentTarget(target, known[target].since, min(ROUNDS, known[target].rounds + 1))
        if target in known
        else SilentTarget(target, now, 1)
        for target in silent
    )


def dead_targets(liveness: Liveness) -> tuple[SilentTarget, ...]:
    """Those that were silent in `ROUNDS` rounds in a row."""
    return tuple(each for each in liveness.silent or () if each.rounds >= ROUNDS)


def answers(state: TunnelState, target: str) -> bool | None:
    """Did this target of the running session answer in the last round that has shown it; None: none has."""
    silent = state.liveness.silent
    if silent is None or not state.running:
        return None
    return target not in {each.target for each in silent}


def destination_of(tunnel: Tunnel, target: str) -> Destination | None:
    """The destination that a probe target lies in; None: in none."""
    address = address_of(target)
    return next((each for each in tunnel.destinations if address in each.network), None)


def address_of(target: str) -> IPAddress:
    """The address of a probe target, which has no name."""
    return ip_address(urlsplit(target).hostname or "")


def traffic_proof(
    replied: Collection[IPAddress], targets: Iterable[str], destinations: Iterable[IPNetwork]
) -> Proof | None:
    """What it proves that packets of these remote addresses came back to staff: that the destination of a
    target works, or only that the tunnel does. Targets in none of the destinations are about all of them.
    """
    destinations, asked = tuple(destinations), [address_of(target) for target in targets]
    works = {each for each in destinations if any(address in each for address in replied)}
    if not works:
        return None
    about = {network for network in destinations if any(address in network for address in asked)}
    return Proof.TRAFFIC if not about or works & about else Proof.ANSWERED
