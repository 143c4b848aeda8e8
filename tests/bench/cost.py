"""What processes cost, from the kernel's own accounts."""

from __future__ import annotations

from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads so far, from the scheduler's own nanoseconds (proc(5), schedstat)."""
    return (
        sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    )


def pss_mib(pid: int) -> float:
    """Proportional set size in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
