"""A recorder and an alerter that raise beside the real ones: one line in the log, a metric, and the real
ones go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from structlog.testing import capture_logs

from supervisor.app.log_lines import log_fault
from supervisor.core.alerting.verdict import Alert
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Phase
from supervisor.outputs import Outputs
from supervisor.reports.history.last_failures import LastFailures
from supervisor.reports.log.configure import TransitionLog
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.metrics.series import ScrapeSources
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.settings import Tunnel

ACME = configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",))


class Broken:
    """A recorder and an alerter whose every call is a fault."""

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        raise KeyError(transition.tunnel)

    def set(self, alerts: Mapping[str, Alert]) -> None:
        raise TypeError("alerts")


def test_one_line_a_metric_and_the_real_ones_go_on() -> None:
    metrics = Metrics("1", 0.0, ScrapeSources(internal_errors=lambda: world.faults.counts))
    deaths, lives = LastFailures(), iter([10.0, 10.0])

    def outputs(all: Outputs) -> Outputs:
        return replace(
            all, recorders=(Broken(), TransitionLog(), metrics, deaths), alerters=(Broken(), *all.alerters)
        )

    with capture_logs() as logged:
        world = World(
            {"acme": ACME}, Habits(lives=lambda: next(lives, float("inf"))), outputs=outputs, tell=log_fault
        )
        world.run(600.0)
    assert world.phase("acme") is Phase.UP
    faults = [(line["part"], line["error"]) for line in logged if line["event"].startswith("internal error")]
    assert ("recorder:Broken", "KeyError('acme')") in faults
    assert len(faults) == len(set(faults)) <= 2
    text = metrics.render(world.engine.snapshot, "")[0].decode()
    assert 'facilitator_internal_errors_total{part="recorder:Broken"}' in text
    assert 'facilitator_internal_errors_total{part="alerter:Broken"}' in text
    assert 'facilitator_tunnel_reconnects_total{tunnel="acme",reason="exited"} 2' in text
    assert [line["after"] for line in logged if line["event"] == "transition"][-1] == "up"
    assert len(deaths.by_tunnel["acme"]) == 2
    assert "internal-error:recorder:Broken" in world.alerter.open
