"""A daemon's history in a process of its own, to be killed: records as fast as it can, and says what is on
disk for certain.
"""

from __future__ import annotations

import sys
from pathlib import Path

from supervisor.core.state import Health, Phase, Session, Snapshot, Transition, TunnelState
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.recorder import History, HistorySources
from tests.history.worlds import tunnel
from tunnels.base import Reason

ACME = tunnel()


def main(directory: str) -> None:
    sources = HistorySources("boot")
    history = History(Archive(Path(directory), "test"), sources)
    history.start()
    clock = sources.clock
    for number in range(1, 1_000_000):
        session = Session(number, f"id-{number}", started=clock())
        starting = TunnelState(phase=Phase.STARTING, session=session)
        up = TunnelState(phase=Phase.UP, health=Health.HEALTHY, session=session)
        for before, state, reason in ((up, starting, Reason.EXITED), (starting, up, Reason.CONNECTED)):
            ended = number - 1 if state is starting else None
            told = Transition(
                "acme", number, before.phase, state.phase, state.health, reason, "", clock(), 0.0, ended=ended
            )
            history.record(told, Snapshot({"acme": (ACME, state)}, clock()))
        if number % 10 == 0 and history.flush(10.0):
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
