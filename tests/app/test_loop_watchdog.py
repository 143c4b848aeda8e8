"""A loop that is stuck ends its process, whatever sticks, and the next daemon knows where it stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.app.watchers.loop_watchdog import FILE, SHOWN_SECONDS, LoopWatchdog
from supervisor.core.conditions import Condition

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, sys, threading, time
from pathlib import Path
from supervisor.app.watchers.loop_watchdog import LoopWatchdog

def stuck_in_here():
    {blocking}

async def main():
    late = None
    watchdog = LoopWatchdog(Path(sys.argv[1]), lambda: late, time.monotonic, stuck_seconds=0.6)
    watchdog.start()
    task = asyncio.create_task(watchdog.run())
    await asyncio.sleep(1.5)        # far longer than the limit: it is armed again and again
    print("well", flush=True)
    {then}

asyncio.run(main())
"""
BLOCKING = {
    "a call that waits": "time.sleep(60)",
    "a busy loop": "while True: pass",
    "a lock that nobody releases": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a file that never answers": "import os; r, w = os.pipe(); os.read(r, 1)",
    "a thread that keeps the interpreter": (
        "sys.setswitchinterval(1000); threading.Thread(target=lambda: sum(range(10**12)), daemon=True).start(); sum(range(10**12))"
    ),
}


def run(directory: Path, then: str, blocking: str = "pass") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(blocking=blocking, then=then)
    return subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=os.getcwd(),
    )


@pytest.mark.parametrize("what", BLOCKING)
def test_what_sticks_is_ended_and_named(tmp_path: Path, what: str) -> None:
    began = time.monotonic()
    done = run(tmp_path, "stuck_in_here()", BLOCKING[what])
    assert done.stdout == "well\n", done.stderr
    assert done.returncode == -signal.SIGALRM
    assert time.monotonic() - began < 15
    following = LoopWatchdog(tmp_path, lambda: None, lambda: 100.0)
    assert "stuck_in_here" in following.last_stack
    shown = following.conditions
    assert list(shown) == ["event-loop-stuck"]
    assert "stuck_in_here" in shown["event-loop-stuck"].text


def test_an_engine_that_is_late_counts_as_stuck(tmp_path: Path) -> None:
    done = run(tmp_path, "late = 'the engine is 12 s late'; await asyncio.sleep(60)")
    assert done.stdout == "well\n", done.stderr
    assert done.returncode == -signal.SIGALRM


def test_a_loop_that_turns_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "await asyncio.sleep(1.5); watchdog.stop(); await asyncio.sleep(1.5); task.cancel()")
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
    assert not (tmp_path / FILE).exists()
    assert LoopWatchdog(tmp_path, lambda: None, lambda: 100.0).conditions == {}


def test_a_daemon_that_was_killed_was_not_stuck(tmp_path: Path) -> None:
    done = run(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL
    assert LoopWatchdog(tmp_path, lambda: None, lambda: 100.0).conditions == {}


def test_the_watchdog_of_systemd_leaves_stacks_too(tmp_path: Path) -> None:
    blocking = "import os, signal; os.kill(os.getpid(), signal.SIGABRT); time.sleep(60)"
    done = run(tmp_path, "stuck_in_here()", blocking)
    assert done.returncode == -signal.SIGABRT
    following = LoopWatchdog(tmp_path, lambda: None, lambda: 100.0)
    assert following.was_stuck
    assert "stuck_in_here" in following.conditions["event-loop-stuck"].text


def test_native_code_that_crashes_leaves_stacks_and_is_no_stuck_loop(tmp_path: Path) -> None:
    done = run(tmp_path, "stuck_in_here()", "import ctypes; ctypes.string_at(0)")
    assert done.returncode == -signal.SIGSEGV
    following = LoopWatchdog(tmp_path, lambda: None, lambda: 100.0)
    assert following.last_stack.startswith("Fatal Python error: Segmentation fault")
    assert "stuck_in_here" in following.last_stack
    assert not following.was_stuck
    assert following.conditions == {}


def test_it_is_shown_for_a_while(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('Current thread 0x1 (most recent call first):\n  File "x.py", line 7 in y\n')
    now = 100.0
    watchdog = LoopWatchdog(tmp_path, lambda: None, lambda: now)
    condition = watchdog.conditions["event-loop-stuck"]
    assert isinstance(condition, Condition)
    assert 'File "x.py", line 7 in y' in condition.text
    now += SHOWN_SECONDS
    assert watchdog.conditions == {}


@pytest.mark.parametrize("left", ["", "x", "\x1b[31m", "Current thread 0x", "\0" * 99])
def test_whatever_lies_there_is_no_trouble(tmp_path: Path, left: str) -> None:
    (tmp_path / FILE).write_text(left)
    for condition in LoopWatchdog(tmp_path, lambda: None, lambda: 100.0).conditions.values():
        assert "unknown place" in condition.text


def test_something_else_of_that_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    assert LoopWatchdog(tmp_path, lambda: None, lambda: 100.0).conditions == {}
