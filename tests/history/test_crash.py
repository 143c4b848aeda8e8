"""The record survives the death of its writer, other people's locks, and files that are no databases."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.views.availability import LOST, Standing
from supervisor.reports.history.archive import FILE, Archive
from supervisor.reports.history.recorder import History
from supervisor.reports.history.writer_thread import MAX_WAITING_ROWS
from supervisor.reports.sqlite import Newer, connect, migrate
from tests.fakes import Habits
from tests.history.worlds import ROWS_ONLY, SimulatedHistory, SimulatedHost, surroundings
from tests.lab.wait import eventually
from tunnels.base import Reason

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def sessions(history: History, limit: int = 10_000) -> list[tuple[str, str | None]]:
    """Id and reason of the end, the oldest first."""
    return [(row["id"], row["reason"]) for row in reversed(history.read("acme", limit).sessions)]


def killed_after(directory: Path, lines: int) -> int:
    """Run the writer, SIGKILL it at some moment after so many lines; the last session that it had said to
    be on disk.
    """
    argv = (sys.executable, "-m", "tests.history.writer", str(directory))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as writer:
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.read().split("\n")
    whole = [line for line in said if line.strip().isdigit()]
    return int(whole[-1])


def test_nothing_that_was_on_disk_is_lost_to_a_sigkill_and_what_was_open_is_closed(tmp_path: Path) -> None:
    dice = random.Random(1)
    kept = 0
    for round in range(3):
        certain = killed_after(tmp_path, dice.randrange(2, 40))
        file = sqlite3.connect(tmp_path / FILE)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (run,) = file.execute("SELECT max(id) FROM run").fetchone()
        numbers = [
            n for (n,) in file.execute("SELECT number FROM session WHERE run=? ORDER BY number", (run,))
        ]
        assert numbers == list(range(1, len(numbers) + 1)), "a prefix of what happened, without a gap"
        assert len(numbers) >= certain
        assert file.execute("SELECT count(*) FROM session WHERE ended IS NULL").fetchone() == (1,), (
            f"round {round}"
        )
        kept += len(numbers)
        file.close()
    history = History(
        Archive(tmp_path, "test"), surroundings(SimulatedHost(time.monotonic(), boot="boot")), ROWS_ONLY
    )
    history.start()
    told = history.read("acme", 100_000).sessions
    assert len(told) == kept
    assert [row["reason"] for row in told].count(LOST) == 3
    assert all(row["ended"] is not None and row["ended"] >= row["started"] for row in told)
    history.close()


def test_a_locked_file_keeps_nobody_waiting_and_loses_nothing(tmp_path: Path) -> None:
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(10.0)
    assert life.history.flush(10.0)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for _ in range(100):
        life.ask(Reason.RESTARTED)
        life.run(10.0)
    assert time.monotonic() - began < 10.0
    eventually(lambda: not life.history.usable, 20, "the trouble was noticed")
    assert "cannot be written" in life.history.read("acme", 1).problem
    other.execute("ROLLBACK")
    other.close()
    eventually(lambda: life.history.usable, 20, "it is written again")
    assert life.history.flush(10.0)
    assert sessions(life.history) == [(f"id-{n}", "restarted" if n <= 100 else None) for n in range(1, 102)]
    life.history.close()


def test_without_a_disk_the_oldest_rows_go_and_the_numbers_stay(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(100.0)
    assert not life.history.usable
    assert life.history.availability("acme")["1h"].seconds[Standing.UP] == pytest.approx(99.5, abs=0.1)
    assert life.history.read("acme", 5).sessions == ()
    names = [f"condition-{number}" for number in range(MAX_WAITING_ROWS + 10)]
    life.history.set({name: Alert(name, Verdict.FIRING, "info", "x", 0.0, {}) for name in names})
    assert life.history.waiting_rows == MAX_WAITING_ROWS
    (tmp_path / FILE).rmdir()
    eventually(lambda: life.history.usable, 20, "it is written again")
    life.ask(Reason.RESTARTED)
    life.run(10.0)
    assert life.history.flush(10.0)
    assert sessions(life.history)[-1] == ("id-2", None)
    life.history.close()


@pytest.mark.parametrize("content", [b"not a database" * 999, b"SQLite format 3\x00" + bytes(4080)])
def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(10.0)
    assert (sessions(life.history), life.history.usable) == ([("id-1", None)], True)
    assert [path.read_bytes() for path in tmp_path.glob(f"{FILE}.corrupt-*")] == [content]
    life.history.close()


def test_a_file_that_breaks_while_it_is_in_use_is_set_aside_too(tmp_path: Path) -> None:
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(10.0)
    assert life.history.flush(10.0)
    other = sqlite3.connect(tmp_path / FILE)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with (tmp_path / FILE).open("r+b") as file:
        file.truncate(100)
    for _ in range(2):
        life.ask(Reason.RESTARTED)
        life.run(10.0)
        eventually(
            lambda: list(tmp_path.glob(f"{FILE}.corrupt-*")) and life.history.usable,
            20,
            "a new file is in use",
        )
    assert life.history.flush(10.0)
    assert sessions(life.history)[-1] == ("id-3", None)
    assert life.history.availability("acme")["1h"].seconds[Standing.UP] == pytest.approx(28.5, abs=0.5)
    life.history.close()


def test_a_file_of_a_later_version_is_set_aside_and_kept(tmp_path: Path) -> None:
    later = sqlite3.connect(tmp_path / FILE)
    later.executescript("CREATE TABLE marvel (x); PRAGMA user_version=99;")
    later.close()
    life = SimulatedHistory(tmp_path, SimulatedHost(), Habits())
    life.run(10.0)
    assert sessions(life.history) == [("id-1", None)]
    assert len(list(tmp_path.glob(f"{FILE}.corrupt-*"))) == 1
    life.history.close()


def test_a_schema_is_brought_up_to_date_step_by_step_and_all_or_nothing(tmp_path: Path) -> None:
    steps = ("CREATE TABLE a (x);", "ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES (1, 2);")
    old = connect(tmp_path / "x.db", 1.0, "NORMAL")
    migrate(old, steps[:1])
    old.execute("INSERT INTO a VALUES (7)")
    with pytest.raises(sqlite3.Error):
        migrate(old, (*steps, "CREATE TABLE a (x);"))
    old.close()
    again = connect(tmp_path / "x.db", 1.0, "NORMAL")
    assert again.execute("SELECT * FROM a").fetchall() == [(7,)]
    migrate(again, steps)
    migrate(again, steps)
    assert again.execute("SELECT * FROM a").fetchall() == [(7, None), (1, 2)]
    with pytest.raises(Newer):
        migrate(again, steps[:1])
    again.close()
