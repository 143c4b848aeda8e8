"""What earlier runs of the daemon left in the history, in the terms of the present run: availability
timelines on the present monotonic clock, and the last failures. Pure.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import deque
from collections.abc import Iterator

from supervisor.core.state import Failure, Phase
from supervisor.core.views.availability import ADOPTED, LOST, Standing, StandingChange, Timeline
from supervisor.reports.history.archive import ClockReading, DaemonRun, EarlierRuns
from tunnels.base import Reason


def timelines(earlier: EarlierRuns, now: ClockReading) -> dict[str, Timeline]:
    """The timeline of each tunnel until now. Between two runs of the daemon a tunnel is UNWATCHED, unless it
    was stopped or the later run adopted it.
    """
    found: dict[str, Timeline] = {}
    for tunnel, rows in itertools.groupby(earlier.transitions, key=lambda row: str(row["tunnel"])):
        timeline = found[tunnel] = Timeline()
        for change in _changes(earlier, list(rows), now):
            timeline.add(change)
    for row in earlier.ends:
        if row["tunnel"] in found:
            found[row["tunnel"]].died(row["ended"] - now.offset, row["reason"])
    return found


def failures(earlier: EarlierRuns, now: ClockReading, count: int) -> dict[str, list[Failure]]:
    """The last failures of each tunnel, at most `count`, oldest first."""
    found: dict[str, deque[Failure]] = {}
    for row in earlier.ends:
        failure = _failure(row, now)
        if failure is not None:
            found.setdefault(row["tunnel"], deque(maxlen=count)).append(failure)
    return {tunnel: list(known) for tunnel, known in found.items()}


def _changes(earlier: EarlierRuns, rows: list[sqlite3.Row], now: ClockReading) -> Iterator[StandingChange]:
    for row, following in itertools.zip_longest(rows, rows[1:]):
        run = earlier.runs[row["run"]]
        change = StandingChange(
            row["at"] + _shift(run, now),
            Standing(row["standing"]),
            row["reason"],
            row["after"] == Phase.FAILED,
        )
        yield change
        present = row["run"] == max(earlier.runs)
        went_on = present or (
            following is not None and (following["run"] == row["run"] or following["reason"] == ADOPTED)
        )
        if not went_on and change.standing not in (Standing.STOPPED, Standing.UNWATCHED):
            yield StandingChange(run.seen + _shift(run, now), Standing.UNWATCHED, LOST)


def _shift(run: DaemonRun, now: ClockReading) -> float:
    """What must be added to the run's monotonic seconds: 0 within one boot, else what the wall clocks say."""
    return 0.0 if run.boot == now.boot else run.offset - now.offset


def _failure(row: sqlite3.Row, now: ClockReading) -> Failure | None:
    """None if the end was asked for, or has a reason that this version does not know."""
    if not row["text"]:
        return None
    try:
        return Failure(Reason(row["reason"]), row["text"], row["ended"] - now.offset)
    except ValueError:
        return None
