"""What the daemon weighs: memory, time until it is ready and has adopted its clients, and CPU while idle.

The clients are the trivial ones of `tests.bench.trivial`; beside the daemon PyPI's supervisord runs as many.
`--source DIR` measures another checkout of this repository, with the virtual environment that lies in it.

    python -m tests.bench.weight [--source DIR] [--starts 9] [--idle 60]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from supervisor.control.client import ControlClient, Unreachable
from tests.bench.cost import cpu_seconds, pss_mib
from tests.bench.hot import kept_hot
from tests.bench.rivals import supervisord
from tests.netns import Namespace

HERE = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
SETTLE_SECONDS = 4.0  # after the start, before what is called idle
IDLE_SECONDS = 60.0  # so that what is done once a minute is in it
ADOPTED = 20  # clients that a killed daemon leaves
Row = dict[str, float]


class ServiceManager(threading.Thread):
    """Takes what the daemon says by sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.ready = threading.Event()
        self.ready_at = 0.0  # monotonic seconds
        self.start()

    def run(self) -> None:
        """Until `close`."""
        while said := self._socket.recv(4096):
            if b"READY=1" in said.splitlines():
                self.ready_at = time.monotonic()
                self.ready.set()

    def close(self) -> None:
        """The daemon has ended."""
        self._socket.shutdown(socket.SHUT_RD)
        self.join()
        self._socket.close()


class WeighedDaemon:
    """One daemon with so many trivial tunnels, in a network namespace of its own."""

    def __init__(self, namespace: Namespace, directory: Path, tunnels: int, source: Path) -> None:
        self._namespace, self._directory, self._source = namespace, directory, source
        self._python = source / ".venv/bin/python"
        self._fifo = os.open(self._mkfifo(), os.O_RDWR)  # clients write their pids; nobody reads
        self._config = directory / "config.yaml"
        self._config.write_text(json.dumps(_configuration(directory, tunnels)))
        self._manager = ServiceManager(directory / "notify")
        self.tunnels = tunnels
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> WeighedDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(START_SECONDS)
        self._manager.close()
        os.close(self._fifo)

    def start(self) -> float:
        """Seconds from the start of the process to READY=1 (sd_notify(3))."""
        self._manager.ready.clear()
        began = time.monotonic()
        with (self._directory / "log").open("a") as log:
            self.process = self._namespace.popen(
                str(self._python),
                "-m",
                "tests.bench.daemon",
                "run",
                "-c",
                str(self._config),
                cwd=self._source,
                env=_compiling() | {"NOTIFY_SOCKET": str(self._directory / "notify")},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not self._manager.ready.wait(START_SECONDS):
            print((self._directory / "log").read_text()[-2000:], file=sys.stderr)
            raise TimeoutError("the daemon is not ready")
        return self._manager.ready_at - began

    def kill(self) -> None:
        """SIGKILL to the daemon alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def clients(self) -> dict[str, int]:
        """The pid of each client, once all tunnels are up."""
        client = ControlClient(self._directory / "run" / "control.sock")
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(Unreachable):
                shown = client.get("/api/v1/status")["tunnels"]
                if len(shown) == self.tunnels and all(each["phase"] == "up" for each in shown):
                    return {each["name"]: each["session"]["pid"] for each in shown}
            time.sleep(0.05)
        raise TimeoutError(f"{self.tunnels} tunnels did not come up: see {self._directory / 'log'}")

    @property
    def pid(self) -> int:
        """Of the daemon: `ip netns exec` becomes it."""
        assert self.process is not None
        return self.process.pid

    def _mkfifo(self) -> Path:
        os.mkfifo(self._directory / "starts")
        return self._directory / "starts"


def _compiling() -> dict[str, str]:
    """Our environment, but compiled modules are kept, as pip does for what it installs: a start that compiles
    everything takes twice as long.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _configuration(directory: Path, tunnels: int) -> dict[str, object]:
    return {
        "facilitator": {
            "name": "bench",
            "state_dir": str(directory / "state"),
            "runtime_dir": str(directory / "run"),
        },
        "staff": {"networks": ["10.8.0.0/16"]},
        "http": {"listen": "127.0.0.1:9464"},
        "defaults": {"reconnect": {"first": "10ms", "max": "10ms", "stable_after": "10ms"}},
        "tunnels": {
            f"t{i}": {
                "kind": "trivial",
                "fifo": str(directory / "starts"),
                "destinations": [f"10.{100 + i // 250}.{i % 250}.0/24"],
            }
            for i in range(tunnels)
        },
    }


@contextlib.contextmanager
def weighed(tunnels: int, source: Path) -> Iterator[WeighedDaemon]:
    """A daemon that has not been started."""
    namespace = Namespace("weight")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fcb") as name,
            WeighedDaemon(namespace, Path(name), tunnels, source) as daemon,
        ):
            yield daemon
    finally:
        namespace.remove()


def idle(pid: int, seconds: float) -> Row:
    """PSS and CPU time of a process to which nothing happens. Its pages are kept in use meanwhile
    (`tests.bench.hot` says why).
    """
    with kept_hot(pid):
        time.sleep(SETTLE_SECONDS)
        before, began = cpu_seconds(pid), time.monotonic()
        sizes = []
        for _ in range(3):
            time.sleep(seconds / 3)
            sizes.append(pss_mib(pid))
        cpu = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    return {"PSS, MiB": statistics.median(sizes), "idle CPU, ms per s": cpu * 1000}


def at_rest(tunnels: int, source: Path, seconds: float) -> Row:
    """The daemon with so many tunnels, all up."""
    with weighed(tunnels, source) as daemon:
        daemon.start()
        daemon.clients()
        return idle(daemon.pid, seconds)


def start_times(source: Path, starts: int) -> Row:
    """Medians: from process start to READY, with nothing to adopt and with ADOPTED clients."""
    empty, adopting = [], []
    for _ in range(starts):
        with weighed(0, source) as daemon:
            empty.append(daemon.start())
    with weighed(ADOPTED, source) as daemon:
        daemon.start()
        before = daemon.clients()
        for _ in range(starts):
            daemon.kill()
            adopting.append(daemon.start())
            assert daemon.clients() == before, "clients were not adopted"
    return {
        "start to READY, s": statistics.median(empty),
        f"start to READY with {ADOPTED} clients adopted, s": statistics.median(adopting),
    }


def rival_at_rest(programs: int, seconds: float) -> Row:
    """supervisord with so many programs that do nothing."""
    with tempfile.TemporaryDirectory(prefix="fcb") as name:
        path = Path(name) / "supervisord.conf"
        sections = (f"[program:p{i}]\ncommand = /bin/sleep infinity\n" for i in range(programs))
        path.write_text(
            f"[supervisord]\nnodaemon = true\nlogfile = {name}/log\npidfile = {name}/pid\n"
            f"minfds = 4096\n{''.join(sections)}"
        )
        process = subprocess.Popen(
            [str(supervisord() / "supervisord"), "-c", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for_children(process.pid, programs)
            return idle(process.pid, seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)


def _wait_for_children(pid: int, count: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + START_SECONDS
    while len(children.read_text().split()) < count:
        if time.monotonic() > end:
            raise TimeoutError("supervisord did not start its programs")
        time.sleep(0.05)


TARGETS = {
    ("PSS, MiB", 1): "<= 50",
    ("PSS, MiB", 200): "<= 70",
    ("PSS, MiB", 500): "<= 90",
    ("idle CPU, ms per s", 1): "<= 1.0",
    ("idle CPU, ms per s", 10): "<= 3.0",
    ("idle CPU, ms per s", 500): "<= 1.5",
}
SIZES = {"PSS, MiB": (1, 200, 500), "idle CPU, ms per s": (1, 10, 500)}


def show(ours: dict[int, Row], theirs: dict[int, Row], times: Row) -> None:
    """A row for each figure."""
    table = Table(title=f"weight, trivial clients, {os.cpu_count()} cores")
    for column in ("", "facilitator", "supervisord", "target"):
        table.add_column(column, justify="left" if not column else "right")
    for name, sizes in SIZES.items():
        for size in sizes:
            table.add_row(
                f"{name}, {size} tunnel{'' if size == 1 else 's'}",
                f"{ours[size][name]:.2f}",
                f"{theirs[size][name]:.2f}",
                TARGETS.get((name, size), "-"),
            )
    for name, seconds in times.items():
        table.add_row(name, f"{seconds:.2f}", "-", "<= 0.5")
    Console(width=120).print(table)


def main(source: Path = HERE, starts: int = 9, seconds: float = IDLE_SECONDS) -> None:
    """Measure and print."""
    sizes = sorted({size for each in SIZES.values() for size in each})
    times = start_times(source, starts)
    ours = {size: at_rest(size, source, seconds) for size in sizes}
    show(ours, {size: rival_at_rest(size, seconds) for size in sizes}, times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=HERE)
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS)
    options = parser.parse_args()
    main(options.source, options.starts, options.idle)
