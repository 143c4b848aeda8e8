"""How the daemon's costs grow with the number of tunnels: time until all are healthy, time until all have
ended, CPU, memory and the lag of its event loop. Each client is a TUN device that answers pings
(`tests.bench.answering`), probed every five seconds.

    python -m tests.bench.scale [--tunnels 50 250 500 999] [--seconds 20]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor.control.client import ControlClient, Unreachable
from tests.bench.answering import TunGateway
from tests.bench.columns import print_columns
from tests.bench.cost import cpu_seconds, pss_mib
from tests.netns import Namespace, sweep

WITHIN_SECONDS = 180.0
SETTLE_SECONDS = 5.0
TARGETS = {
    "all healthy after, s": "<= 8 at 1,000",
    "all ended after, s": "<= 3 at 1,000",
    "CPU while probed every 5 s, % of a core": "<= 25 at 1,000",
    "PSS, MiB": "<= 200 at 1,000",
}
Row = dict[str, float]


def configuration(directory: Path, tunnels: int) -> Path:
    """A file with that many tunnels, each with a network of its own."""
    path = directory / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "facilitator": {
                    "name": "scale",
                    "state_dir": str(directory / "state"),
                    "runtime_dir": str(directory / "run"),
                },
                "staff": {"networks": ["10.8.0.0/16"]},
                "http": {"listen": "127.0.0.1:9464"},
                "defaults": {"probe": {"interval": "5s"}},
                "tunnels": {
                    f"t{i}": {
                        "kind": "answering",
                        "fifo": str(directory / "fifo" / "gateway"),
                        "destinations": [f"10.{100 + i // 250}.{i % 250}.0/24"],
                        "probe": {"targets": [f"icmp://10.{100 + i // 250}.{i % 250}.1"]},
                    }
                    for i in range(tunnels)
                },
            }
        )
    )
    return path


@contextlib.contextmanager
def started(namespace: Namespace, directory: Path, tunnels: int) -> Iterator[subprocess.Popen[str]]:
    """The daemon and the clients' gateway; the daemon has ended afterwards."""
    (directory / "fifo").mkdir()
    gateway = TunGateway(namespace, directory / "fifo" / "gateway")
    gateway.start()
    config = configuration(directory, tunnels)
    with (directory / "log").open("w") as log:
        process = namespace.popen(
            sys.executable, "-m", "tests.bench.daemon", str(config), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    except TimeoutError:
        print((directory / "log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(WITHIN_SECONDS)
        gateway.close()


def wait_until_healthy(process: subprocess.Popen[str], socket_path: Path, tunnels: int) -> None:
    """Until every tunnel carries packets."""
    client = ControlClient(socket_path)
    end = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(Unreachable):
            shown = client.get("/api/v1/status")["tunnels"]
            if len(shown) == tunnels and all(each["health"] == "healthy" for each in shown):
                return
        time.sleep(0.5)  # each look costs the daemon a document about all tunnels
    raise TimeoutError("not all tunnels are healthy")


def measure(tunnels: int, seconds: float) -> Row:
    """All figures for that many."""
    namespace = Namespace("scale")
    namespace.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")  # probes need a source
    try:
        with tempfile.TemporaryDirectory(prefix="fcb") as name:
            directory = Path(name)
            began = time.monotonic()
            with started(namespace, directory, tunnels) as process:
                wait_until_healthy(process, directory / "run" / "control.sock", tunnels)
                healthy, spent = time.monotonic() - began, cpu_seconds(process.pid)
                time.sleep(SETTLE_SECONDS)
                before, clock = cpu_seconds(process.pid), time.monotonic()
                time.sleep(seconds)
                cpu = (cpu_seconds(process.pid) - before) / (time.monotonic() - clock)
                memory, before = pss_mib(process.pid), cpu_seconds(process.pid)
                clock = time.monotonic()
                process.send_signal(signal.SIGTERM)
                process.wait(WITHIN_SECONDS)
                ended = time.monotonic() - clock
    finally:
        namespace.remove()
    return {
        "all healthy after, s": healthy,
        "CPU until then, s": spent,
        "all ended after, s": ended,
        "CPU while probed every 5 s, % of a core": cpu * 100,
        "PSS, MiB": memory,
    }


def main(sizes: list[int], seconds: float) -> None:
    """Measure and print."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows = {f"{size} tunnels": measure(size, seconds) for size in sizes}
    print_columns(f"growth with the number of tunnels, {os.cpu_count()} cores", rows, TARGETS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunnels", type=int, nargs="+", default=[50, 250, 500, 999])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    sweep()
    main(options.tunnels, options.seconds)
