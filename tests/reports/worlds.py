"""Small worlds for the tests of reports: tunnels, states and snapshots."""

from __future__ import annotations

from typing import Any

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import (
    Failure,
    Health,
    Leg,
    Phase,
    Session,
    SessionEnded,
    SilentTarget,
    TunnelState,
)
from tests.settings import configured
from tests.states import RUNNING, but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel


def tunnel(name: str = "acme", **settings: Any) -> Tunnel:
    settings = {"probe": Probe(targets=("icmp://10.77.0.1", "icmp://10.77.0.9")), **settings}
    return configured(Tunnel, name=name, kind="openvpn", destinations=("10.77.0.0/24",), **settings)


def up(number: int = 1, **state: Any) -> TunnelState:
    session = Session(
        number, id=f"s{number}", pid=42, device="t-acme", started=90.0, connected=95.0, path_mtu=1400
    )
    return but(
        tunnel_state(
            phase=Phase.UP,
            health=Health.HEALTHY,
            reason=Reason.HEALTHY,
            session=session,
            last_rtt=0.012,
            silent=(SilentTarget("icmp://10.77.0.9", 90.0, 3),),
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
    over = before in RUNNING and (after not in RUNNING or (before, after) == (Phase.UP, Phase.STARTING))
    return Transition(
        name,
        session,
        before,
        after,
        health,
        reason,
        text,
        100.0,
        lasted,
        leg=leg,
        ended=ended(name, session, reason, text) if over else None,
    )


def ended(name: str, number: int, reason: Reason, text: str = "", at: float = 100.0) -> SessionEnded:
    """The end of the session that `up` has."""
    return SessionEnded(name, up(number).session, reason, Failure(reason, text, at), at)


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
