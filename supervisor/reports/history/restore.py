"""What earlier runs left, as the present run goes on with it: timelines on the present axis of time, and
the last failures.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import deque
from collections.abc import Iterator

from supervisor.core.state import Failure, Phase
from supervisor.core.views.availability import ADOPTED, LOST, Standing, StandingChange, Timeline
from supervisor.reports.history.archive import DaemonRun, Now, Past
from tunnels.base import Reason


def timelines(past: Past, now: Now) -> dict[str, Timeline]:
    """What each tunnel was until now. Where no daemon ran it was unwatched, unless nobody wanted it or a
    later daemon went on with it.
    """
    found: dict[str, Timeline] = {}
    for tunnel, rows in itertools.groupby(past.transitions, key=lambda row: str(row["tunnel"])):
        timeline = found[tunnel] = Timeline()
        for mark in _marks(past, list(rows), now):
            timeline.add(mark)
    for row in past.ends:
        if row["tunnel"] in found:
            found[row["tunnel"]].died(row["ended"] - now.offset, row["reason"])
    return found


def failures(past: Past, now: Now, count: int) -> dict[str, list[Failure]]:
    """The last failures of each tunnel, at most `count`, the oldest first."""
    found: dict[str, deque[Failure]] = {}
    for row in past.ends:
        failure = _failure(row, now)
        if failure is not None:
            found.setdefault(row["tunnel"], deque(maxlen=count)).append(failure)
    return {tunnel: list(known) for tunnel, known in found.items()}


def _marks(past: Past, rows: list[sqlite3.Row], now: Now) -> Iterator[StandingChange]:
    for row, following in itertools.zip_longest(rows, rows[1:]):
        run = past.runs[row["run"]]
        mark = StandingChange(
            row["at"] + _shift(run, now),
            Standing(row["standing"]),
            row["reason"],
            row["after"] == Phase.FAILED,
        )
        yield mark
        present = row["run"] == max(past.runs)
        went_on = present or (
            following is not None and (following["run"] == row["run"] or following["reason"] == ADOPTED)
        )
        if not went_on and mark.standing not in (Standing.STOPPED, Standing.UNWATCHED):
            yield StandingChange(run.seen + _shift(run, now), Standing.UNWATCHED, LOST)


def _shift(run: DaemonRun, now: Now) -> float:
    """What turns the run's monotonic time into ours: nothing within one boot, else the clocks must do."""
    return 0.0 if run.boot == now.boot else run.offset - now.offset


def _failure(row: sqlite3.Row, now: Now) -> Failure | None:
    """None: it was asked for, or is of a kind that this version does not know."""
    try:
        return Failure(Reason(row["reason"]), row["text"], row["ended"] - now.offset) if row["text"] else None
    except ValueError:
        return None
