"""Measures, in one run and in private namespaces: restart latency, idle cost, start of many, the kernel's
part, `check` of many files, sshuttle, each kind's reaction to what can happen to it, and what staff see of
the daemon's own life beside others'. Needs root.

    python -m tests.bench [--tunnels 200] [--kills 40] [--idle 20]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from supervisor.control.client import ControlClient, Unreachable
from tests.bench import audit, check, kernel, kinds, life, probed, scrape, sshuttle, weight
from tests.bench.cost import cpu_seconds, pss_mib
from tests.bench.trivial import SCRIPT
from tests.netns import Namespace, sweep

GRACE = 60.0


class Starts:
    """The fifo in which each client writes its pid as its first act, read with time stamps."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDWR)
        self._file = os.fdopen(self._fd, "rb", buffering=0)
        self._rest = b""

    def next(self) -> tuple[int, float]:
        """Pid and monotonic moment of the next start."""
        while b"\n" not in self._rest:
            if not select.select([self._file], [], [], GRACE)[0]:
                raise TimeoutError("no client started; see the daemon's log above")
            self._rest += self._file.read(4096)
        line, self._rest = self._rest.split(b"\n", 1)
        return int(line), time.monotonic()


def restart_latency(starts: Starts, pids: list[int], kills: int) -> list[float]:
    """Milliseconds from SIGKILL of a client to the first act of its successor."""
    samples = []
    for i in range(kills):
        slot = i % len(pids)
        time.sleep(
            0.05
        )  # past stable_after, so that the retry is immediate: this is the schedule of the kills
        killed = time.monotonic()
        os.kill(pids[slot], signal.SIGKILL)
        pids[slot], started = starts.next()
        samples.append((started - killed) * 1000)
    return samples


def floor(directory: Path, kills: int) -> list[float]:
    """The same by a bare Popen loop that does nothing else."""
    starts = Starts(directory / "floor")
    argv = ["/bin/sh", "-c", SCRIPT, "trivial", str(starts.path)]
    samples, child = [], subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    pid, _ = starts.next()
    for _ in range(kills):
        time.sleep(0.05)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        child.wait()
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        pid, started = starts.next()
        samples.append((started - killed) * 1000)
    child.kill()
    child.wait()
    return samples


def configuration(directory: Path, tunnels: int, fifo: Path) -> Path:
    """A file with that many trivial tunnels."""
    entries = {
        f"t{i}": {
            "kind": "trivial",
            "fifo": str(fifo),
            "destinations": [f"10.{100 + i // 250}.{i % 250}.0/24"],
        }
        for i in range(tunnels)
    }
    path = directory / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "facilitator": {
                    "name": "bench",
                    "state_dir": str(directory / "state"),
                    "runtime_dir": str(directory / "run"),
                },
                "staff": {"networks": ["10.8.0.0/16"]},
                "http": {"listen": "127.0.0.1:9464"},
                "defaults": {"reconnect": {"first": "10ms", "max": "10ms", "stable_after": "10ms"}},
                "tunnels": entries,
            }
        )
    )
    return path


@contextlib.contextmanager
def daemon(namespace: Namespace, config: Path) -> Iterator[subprocess.Popen[str]]:
    """The daemon in the namespace, stopped properly at the end."""
    log = config.with_suffix(".log").open("w")
    process = namespace.popen(
        sys.executable, "-m", "tests.bench.daemon", str(config), stdout=log, stderr=subprocess.STDOUT
    )
    try:
        yield process
    except TimeoutError:
        print(Path(log.name).read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def measure(tunnels: int, kills: int, idle: float) -> dict[str, float]:
    """All figures for one daemon with that many tunnels."""
    namespace = Namespace("bench")
    try:
        with tempfile.TemporaryDirectory(prefix="fcb") as name:
            directory = Path(name)
            starts = Starts(directory / "starts")
            began = time.monotonic()
            with daemon(namespace, configuration(directory, tunnels, starts.path)) as process:
                pids = [starts.next()[0] for _ in range(tunnels)]
                last_start = time.monotonic()
                main = wait_until_up(directory / "run" / "control.sock", began)
                all_up = time.monotonic()
                time.sleep(3.0)  # let the start settle before what is called idle
                before, clock = cpu_seconds(main), time.monotonic()
                time.sleep(idle)
                cpu = (cpu_seconds(main) - before) / (time.monotonic() - clock)
                memory = pss_mib(main)
                latency = sorted(restart_latency(starts, pids, kills))
                assert process.poll() is None, "the daemon ended"
    finally:
        namespace.remove()
    return {
        "kill to new client, median ms": statistics.median(latency),
        "kill to new client, p95 ms": latency[int(len(latency) * 0.95)],
        "idle CPU, ms per s": cpu * 1000,
        "PSS, MiB": memory,
        "all clients started after, s": last_start - began,
        "all tunnels up after, s": all_up - began,
    }


def wait_until_up(socket_path: Path, began: float) -> int:
    """The daemon's pid, once all its tunnels are up."""
    client = ControlClient(socket_path)
    while time.monotonic() - began < GRACE:
        with contextlib.suppress(Unreachable):
            status = client.get("/api/v1/status")
            if all(tunnel["phase"] == "up" for tunnel in status["tunnels"]):
                return int(status["pid"])
        time.sleep(0.01)
    raise TimeoutError("the tunnels did not come up")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunnels", type=int, default=200)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--idle", type=float, default=20.0)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("make bench needs root: it makes network namespaces")
    sweep()
    with tempfile.TemporaryDirectory(prefix="fcb") as name:
        bare = sorted(floor(Path(name), options.kills))
    one, many = measure(1, options.kills, options.idle), measure(options.tunnels, options.kills, options.idle)
    show(bare, one, many, options.tunnels)
    weight.main()
    probed.main()
    check.main()
    scrape.main()
    audit.main()
    kernel.main()
    sshuttle.main()
    kinds.main()
    life.main()


TARGETS = {
    "kill to new client, median ms": "<= 10",
    "kill to new client, p95 ms": "<= 10",
    "idle CPU, ms per s": "<= 1.5",
    "PSS, MiB": "<= 70",
}


def show(bare: list[float], one: dict[str, float], many: dict[str, float], tunnels: int) -> None:
    """The table: the floor, one tunnel, many."""
    table = Table(title=f"supervision, trivial client, {os.cpu_count()} cores")
    for column in (
        "",
        "bare Popen loop",
        "facilitator, 1 tunnel",
        f"facilitator, {tunnels} tunnels",
        "target",
    ):
        table.add_column(column, justify="left" if not column else "right")
    floors = {
        "kill to new client, median ms": statistics.median(bare),
        "kill to new client, p95 ms": bare[int(len(bare) * 0.95)],
    }
    for name, value in one.items():
        table.add_row(
            name,
            f"{floors[name]:.1f}" if name in floors else "-",
            f"{value:.2f}",
            f"{many[name]:.2f}",
            TARGETS.get(name, "-"),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
