"""What the engine orders from the prober for a running session (the flow counter's order is
`core.network.flow_counting.FlowJob`)."""

from __future__ import annotations

from dataclasses import dataclass

from tunnels.networks import IPNetwork
from tunnels.settings import Probe


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """Probe one running session."""

    tunnel: str
    session: int  # number of the session
    probe: Probe  # targets, interval and timeout
    device: (
        str | None
    )  # interface to bind to; None: a proxy carries the lane, and only received bytes prove it
    mark: int  # the lane (lane = fwmark = ct mark = routing table)
    inside: str | None = None  # target on the remote gateway itself, for a proxy
    destinations: tuple[IPNetwork, ...] = ()  # of the tunnel, as the remote site addresses them
    suspicious: bool = False  # a suspicion moves its flows, so one is looked for
