"""A daemon's history in a process of its own, to be killed: records as fast as it can, and says what is on
disk for certain.
"""

from __future__ import annotations

import sys
from pathlib import Path

from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Health, Phase, Session, SessionEnded
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.recorder import History, HistorySources
from tests.history.worlds import tunnel
from tests.states import tunnel_state
from tunnels.base import Reason

ACME = tunnel()


def main(directory: str) -> None:
    sources = HistorySources("boot")
    history = History(Archive(Path(directory), "test"), sources)
    history.start()
    clock = sources.clock
    for number in range(1, 1_000_000):
        session = Session(number, f"id-{number}", started=clock())
        starting = tunnel_state(phase=Phase.STARTING, session=session)
        up = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, session=session)
        for before, state, reason in ((up, starting, Reason.EXITED), (starting, up, Reason.CONNECTED)):
            last = Session(number - 1, f"id-{number - 1}")
            ends = state is starting and number > 1
            over = SessionEnded("acme", last, reason, None, clock()) if ends else None
            told = Transition(
                "acme", number, before.phase, state.phase, state.health, reason, "", clock(), 0.0, ended=over
            )
            history.record(told, Snapshot({"acme": (ACME, state)}, clock()))
        if number % 10 == 0 and history.flush(10.0):
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
