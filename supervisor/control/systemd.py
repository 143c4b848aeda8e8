"""Why systemd ends this service: the job that it works on, asked over D-Bus with `systemctl list-jobs`, as
every user may.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from supervisor.control.stop_reason import StopReason, StopVerdict

TIMEOUT_SECONDS = 3.0
_CGROUPS = Path("/proc/self/cgroup")
_BOOTED = Path("/run/systemd/system")  # exists where systemd runs, see sd_booted(3)
_LIST_JOBS = ("systemctl", "list-jobs", "--plain", "--no-legend")
_COLUMNS = 4  # number, unit, type, state
_SHUTDOWN = "shutdown.target"


def ask() -> StopVerdict:
    """Why the service is being ended; STOP outside of a service. Blocks for milliseconds, at most 3 s."""
    try:
        unit = unit_of(_CGROUPS.read_text().splitlines())
    except OSError:
        unit = None
    if unit is None or not _BOOTED.is_dir():
        return StopVerdict(StopReason.STOP, "no service manager runs this process: a signal means stop")
    try:
        done = subprocess.run(
            _LIST_JOBS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return StopVerdict(StopReason.UNKNOWN, f"systemd cannot be asked: {_LIST_JOBS[0]} failed ({error})")
    reason = judged(unit, done.stdout.splitlines())
    return StopVerdict(reason, f"systemd works on a {reason} of {unit}")


def unit_of(cgroups: Iterable[str]) -> str | None:
    """The service that the lines of /proc/PID/cgroup place a process in; None: it is in no service."""
    ends = (line.rpartition("/")[2] for line in cgroups if line.startswith("0:") or ":name=systemd:" in line)
    return next((end for end in ends if end.endswith(".service")), None)


def judged(unit: str, lines: Iterable[str]) -> StopReason:
    """What the lines of `systemctl list-jobs` mean for a unit."""
    jobs = {tuple(words[1:]) for line in lines if len(words := line.split()) == _COLUMNS}
    if any(job[:2] == (_SHUTDOWN, "start") for job in jobs):
        return StopReason.SHUTDOWN
    # A start that waits comes after this stop.
    follows = any(job[:2] == (unit, "restart") for job in jobs) or (unit, "start", "waiting") in jobs
    return StopReason.RESTART if follows else StopReason.STOP
