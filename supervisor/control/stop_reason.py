"""Why systemd ends us: a SIGTERM looks the same for `systemctl stop`, `systemctl restart` and a reboot,
and asks for three things.

systemd knows it as the job that it works on. It is asked over D-Bus by `systemctl`, as every user may; where
it cannot be asked (another service manager, no D-Bus, a terminal), a SIGTERM means what it always means:
stop.
"""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Iterable
from pathlib import Path

_CGROUPS = Path("/proc/self/cgroup")
_SYSTEMD = Path("/run/systemd/system")  # exists where systemd runs, see sd_booted(3)
_LIST_JOBS = ("systemctl", "list-jobs", "--plain", "--no-legend")
_PATIENCE = 3.0  # seconds for the answer
_COLUMNS = 4  # number, unit, type, state
_SHUTDOWN = "shutdown.target"


class Occasion(enum.Enum):
    """What the end of this process is part of."""

    STOP = "stop"  # nobody comes after us
    # the next one takes over what we have; also of one that ends, and is started anew meanwhile
    RESTART = "restart"
    SHUTDOWN = "shutdown"  # the whole host ends, and waits for us


def occasion() -> Occasion:
    """Ask systemd; STOP where there is none that knows us. Blocks for milliseconds, at most 3 s."""
    try:
        unit = unit_of(_CGROUPS.read_text().splitlines())
        if unit is None or not _SYSTEMD.is_dir():
            return Occasion.STOP
        done = subprocess.run(
            _LIST_JOBS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return Occasion.STOP
    return judged(unit, done.stdout.splitlines())


def unit_of(cgroups: Iterable[str]) -> str | None:
    """The service that the lines of /proc/PID/cgroup place a process in; None: it is in no service."""
    ends = (line.rpartition("/")[2] for line in cgroups if line.startswith("0:") or ":name=systemd:" in line)
    return next((end for end in ends if end.endswith(".service")), None)


def judged(unit: str, lines: Iterable[str]) -> Occasion:
    """What the lines of `systemctl list-jobs` mean for a unit."""
    jobs = {tuple(words[1:]) for line in lines if len(words := line.split()) == _COLUMNS}
    if any(job[:2] == (_SHUTDOWN, "start") for job in jobs):
        return Occasion.SHUTDOWN
    follows = (
        any(job[:2] == (unit, "restart") for job in jobs) or (unit, "start", "waiting") in jobs
    )  # waits for our end
    return Occasion.RESTART if follows else Occasion.STOP
