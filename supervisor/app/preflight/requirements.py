"""What a configuration requires of the host, and what only a running daemon knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.app.files import Files
from supervisor.config.model import Config
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight.facts import Requirements
from tunnels.base import AnyKind, Carrier
from tunnels.networks import IPAddress


@dataclass(frozen=True, slots=True)
class Running:
    """What only a running daemon knows."""

    config: Config
    requirements: Requirements
    plan: NetworkPlan
    peers: tuple[tuple[str, IPAddress], ...]  # tunnel and the gateway that its client was last connected with
    unreached: tuple[str, ...]  # tunnels that should be up and are not
    files: Files  # reads what these tunnels' profiles name
    pid: int


def requirements(config: Config, kinds: Mapping[str, AnyKind]) -> Requirements:
    """What the configuration requires of the host."""
    tunnels = config.tunnels
    devices = tuple(name for name, tunnel in tunnels.items() if kinds[tunnel.kind].carrier is Carrier.DEVICE)
    return Requirements(
        devices=devices,
        proxies=tuple(name for name in tunnels if name not in devices),
        destinations=tuple(
            (name, each.staff_side) for name, tunnel in tunnels.items() for each in tunnel.destinations
        ),
        icmp=tuple(
            name
            for name, tunnel in tunnels.items()
            if any(target.startswith("icmp:") for target in tunnel.probe.targets)
        ),
        totp=tuple(name for name, tunnel in tunnels.items() if tunnel.login.totp is not None),
        needs=tuple(
            (name, need) for name, tunnel in tunnels.items() for need in kinds[tunnel.kind].required_files
        ),
        staff=config.staff.networks,
        http_port=config.http.listen.port,
        drain=config.drain.timeout,
    )
