"""Why systemd ends us: SIGTERM is the same for `systemctl stop`, `systemctl restart` and a shutdown of the
host, which call for three different ends.

The reason is the job that systemd has for our unit. `systemctl` asks for it over D-Bus, as every user may.
Where it cannot be asked (another service manager, no D-Bus, a terminal), SIGTERM means stop.
"""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Iterable
from pathlib import Path

_CGROUPS = Path("/proc/self/cgroup")
_SYSTEMD = Path("/run/systemd/system")  # exists where systemd runs, see sd_booted(3)
_LIST_JOBS = ("systemctl", "list-jobs", "--plain", "--no-legend")
_LIST_JOBS_SECONDS = 3.0  # that systemctl may take
_COLUMNS = 4  # of its output: number, unit, type, state
_SHUTDOWN = "shutdown.target"


class StopReason(enum.Enum):
    """What the end of this process is part of."""

    STOP = "stop"  # no daemon follows
    # The next daemon adopts the clients; also when we end by ourselves and are started again meanwhile.
    RESTART = "restart"
    SHUTDOWN = "shutdown"  # the host goes down, and waits for us


def stop_reason() -> StopReason:
    """Ask systemd; STOP where it does not run or does not know us. Blocks for milliseconds, at most 3 s."""
    try:
        unit = unit_of(_CGROUPS.read_text().splitlines())
        if unit is None or not _SYSTEMD.is_dir():
            return StopReason.STOP
        done = subprocess.run(
            _LIST_JOBS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIST_JOBS_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return StopReason.STOP
    return reason_from_jobs(unit, done.stdout.splitlines())


def unit_of(cgroups: Iterable[str]) -> str | None:
    """The service of a process, from the lines of its /proc/PID/cgroup; None: it is in no service."""
    ends = (line.rpartition("/")[2] for line in cgroups if line.startswith("0:") or ":name=systemd:" in line)
    return next((end for end in ends if end.endswith(".service")), None)


def reason_from_jobs(unit: str, lines: Iterable[str]) -> StopReason:
    """What the lines of `systemctl list-jobs` mean for a unit that is told to end."""
    jobs = {tuple(words[1:]) for line in lines if len(words := line.split()) == _COLUMNS}
    if any(job[:2] == (_SHUTDOWN, "start") for job in jobs):
        return StopReason.SHUTDOWN
    restarts = any(job[:2] == (unit, "restart") for job in jobs)
    start_waits_for_our_end = (unit, "start", "waiting") in jobs
    return StopReason.RESTART if restarts or start_waits_for_our_end else StopReason.STOP
