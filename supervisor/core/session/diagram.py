"""The state diagram, drawn by asking the machine itself: `python -m supervisor.core.session.diagram`
prints it for `docs/internals/session-life.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from supervisor.core import events as ev
from supervisor.core.session.context import StepContext
from supervisor.core.session.liveness import ROUNDS
from supervisor.core.session.step import step
from supervisor.core.state import Idle, Liveness, Phase, Session, SessionState, TunnelState, Want
from tunnels.base import Carrier, Connected, Failed, Kind, Launch, LineSource, Reason
from tunnels.settings import Destination, Probe, Tunnel

_NAME = "t"


class _Silent:
    """A dialogue that understands nothing."""

    def receive(self, source: LineSource, line: str) -> tuple[()]:
        return ()

    def answer(self, text: str) -> tuple[()]:
        return ()


_KIND = Kind(
    "any",
    Tunnel,
    Carrier.DEVICE,
    lambda tunnel: (),
    lambda tunnel, placement, inputs: Launch(()),
    lambda tunnel, inputs: _Silent(),
    (),
)


def diagram() -> str:
    """Mermaid text: an arrow for each change of phase that some event can bring about, labelled with the
    events.
    """
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    context = StepContext(
        _tunnel(),
        _KIND,
        now=1000.0,
        jitter=0.5,
        turn=0.0,
        retry_turn=0.0,
        uplink=True,
        doubted=False,
        lock=None,
        heard=True,
        utc_offset=0.0,
        notice=0.0,
    )
    for phase in Phase:
        for state in _states(phase):
            for label, event in _events():
                after = step(context, state, event).tunnel
                labels = arrows.setdefault((phase, after.phase), [])
                if after.phase is not phase and label not in labels:
                    labels.append(label)
    lines = [f"    {a} --> {b}: {', '.join(labels)}" for (a, b), labels in arrows.items() if labels]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {Phase.STOPPED}", *lines])


def _tunnel() -> Tunnel:
    return Tunnel(
        name=_NAME,
        kind="any",
        destinations=(Destination(network=ip_network("10.0.0.0/24")),),
        probe=Probe(targets=("icmp://10.0.0.1",)),
    )


def _states(phase: Phase) -> Iterable[TunnelState]:
    """The phase in the circumstances that decide where an event leads."""
    circumstances = [(Want.UP, Reason.UNHEALTHY), (Want.UP, Reason.KEY)]
    if phase not in (Phase.STARTING, Phase.UP):
        circumstances.append((Want.DOWN, Reason.STOPPED))
    for want, reason in circumstances:
        for healthy_since in (None, 0.0):  # since then the session was stable
            yield _state(phase, want, reason, healthy_since)


def _state(phase: Phase, want: Want, reason: Reason, healthy_since: float | None) -> TunnelState:
    if phase in (Phase.STOPPED, Phase.BACKOFF, Phase.FAILED):
        return TunnelState(want, idle=Idle(phase, reason), last=Session(1), next_number=2)
    rounds = Liveness(ROUNDS - 1, ROUNDS - 1, healthy_since=healthy_since)
    active = SessionState(Session(1), phase, reason, liveness=rounds)
    return TunnelState(want, active, next_number=2)


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
    yield "interface lost", ev.DeviceLost(_NAME)
    yield "interface repaired", ev.InterfaceRepaired(_NAME)
    yield "source address lost", ev.SourceLost(_NAME, 1)
    yield "address conflict", ev.AddressConflict(_NAME)
    yield "probes missed", ev.Probed(_NAME, 1, None)
    yield "deadline", ev.Tick(_NAME, 1)


if __name__ == "__main__":
    print(diagram())
