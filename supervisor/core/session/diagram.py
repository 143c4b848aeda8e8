"""The state diagram, drawn by asking the machine itself: `python -m supervisor.core.session.diagram`
prints it for `docs/architecture.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.session.context import KindLimits, StepContext
from supervisor.core.session.liveness import ROUNDS
from supervisor.core.session.machine import step
from supervisor.core.state import Phase, Session, TunnelState, Want
from tunnels.base import Connected, Failed, Reason
from tunnels.settings import Tunnel

_NAME = "t"


def diagram() -> str:
    """Mermaid text: an arrow for each change of phase that some event can bring about, labelled with the
    events.
    """
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    moment = StepContext(
        _tunnel(), KindLimits(), now=1000.0, jitter=0.5, turn=0.0, uplink=True, doubted=False, zone=0.0
    )
    for phase in Phase:
        for state in _states(phase):
            for label, event in _events():
                after, _ = step(moment, state, event)
                labels = arrows.setdefault((phase, after.phase), [])
                if after.phase is not phase and label not in labels:
                    labels.append(label)
    lines = [f"    {a} --> {b}: {', '.join(labels)}" for (a, b), labels in arrows.items() if labels]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {Phase.STOPPED}", *lines])


def _tunnel() -> Tunnel:
    return Tunnel.model_validate(
        {
            "name": _NAME,
            "kind": "any",
            "destinations": ["10.0.0.0/24"],
            "probe": {"targets": ["icmp://10.0.0.1"]},
        }
    )


def _states(phase: Phase) -> Iterable[TunnelState]:
    """The phase in the circumstances that decide where an event leads."""
    plain = TunnelState(
        phase=phase, session=Session(1), reason=Reason.UNHEALTHY, misses=ROUNDS - 1, silence=ROUNDS - 1
    )
    yield plain
    yield replace(plain, healthy_since=0.0)  # the session was stable
    yield replace(plain, reason=Reason.KEY)  # it ends for a permanent cause
    yield replace(plain, want=Want.DOWN, reason=Reason.STOPPED)


def _events() -> Iterator[tuple[str, ev.Event]]:
    yield "start", ev.Asked(_NAME, reason=Reason.STARTED)
    yield "stop", ev.Asked(_NAME, reason=Reason.STOPPED)
    yield "restart", ev.Asked(_NAME, reason=Reason.RESTARTED)
    yield "inputs changed", ev.InputsChanged(_NAME)
    yield "not spawned", ev.SpawnFailed(_NAME, 1, Reason.LOCAL, "")
    yield "missing binary", ev.SpawnFailed(_NAME, 1, Reason.MISSING_BINARY, "")
    yield "connected", ev.ClientSaid(_NAME, 1, Connected())
    yield "client reports a failure", ev.ClientSaid(_NAME, 1, Failed(Reason.NETWORK, ""))
    yield "exited", ev.Exited(_NAME, 1, 1)
    yield "device lost", ev.DeviceLost(_NAME)
    yield "address conflict", ev.AddressConflict(_NAME)
    yield "probes missed", ev.Probed(_NAME, 1, None)
    yield "deadline", ev.Tick(_NAME, 1)


if __name__ == "__main__":
    print(diagram())
