"""Small worlds for the tests of reports: tunnels, states and snapshots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.state import Health, Leg, Phase, Session, Snapshot, Transition, TunnelState
from tunnels.base import Reason
from tunnels.settings import Tunnel


def tunnel(name: str = "acme", **settings: Any) -> Tunnel:
    return Tunnel(name=name, kind="openvpn", destinations=("10.77.0.0/24",), **settings)


def up(number: int = 1, **state: Any) -> TunnelState:
    session = Session(
        number, id=f"s{number}", pid=42, device="t-acme", started=90.0, connected=95.0, path_mtu=1400
    )
    return replace(
        TunnelState(
            phase=Phase.UP, health=Health.HEALTHY, reason=Reason.HEALTHY, session=session, last_rtt=0.012
        ),
        **state,
    )


def snapshot(*, draining: bool = False, now: float = 100.0, **states: TunnelState) -> Snapshot:
    return Snapshot({name: (tunnel(name), state) for name, state in states.items()}, now, draining)


def transition(
    before: Phase,
    after: Phase,
    reason: Reason,
    *,
    name: str = "acme",
    session: int = 1,
    lasted: float = 1.0,
    text: str = "",
    health: Health = Health.UNKNOWN,
    leg: Leg | None = None,
) -> Transition:
    return Transition(name, session, before, after, health, reason, text, 100.0, lasted, leg=leg)


def alert(verdict: Verdict, name: str = "acme", **fields: Any) -> Alert:
    return Alert(
        name,
        verdict,
        fields.pop("severity", "critical"),
        fields.pop("summary", f"tunnel {name} is down"),
        50.0,
        fields.pop("details", {"tunnel": name}),
        fields.pop("reason", "network"),
    )
