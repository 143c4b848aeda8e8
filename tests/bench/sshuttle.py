"""Forwarded connections: sshuttle as everybody runs it, and ours with one worker and with two, in one run.

    python -m tests.bench.sshuttle

All stand side by side in one lab and are measured by turns; what is shown are medians. The CPU is that of
everything that carries: sshuttle and ssh on this side, sshd and Python on the remote host.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.cost import cpu_seconds
from tests.echo import echoes
from tests.netns import Namespace
from tests.tunnels.driver import ENVIRONMENT, wait_for
from tests.tunnels.ssh_lab import BASTION, SshLab

ROUNDS, SECONDS, STREAMS = 3, 2, 8
PAUSE = 0.02  # seconds between two requests beside the streams
PORTS = {"facilitator, 1 worker": 12351, "facilitator, 2 workers": 12352}
STOCK = "stock sshuttle"
ADDRESSES = {STOCK: "10.90.1.1", "facilitator, 1 worker": "10.90.1.2", "facilitator, 2 workers": "10.90.1.3"}
DIRECTIONS = {"to the site": (), "from the site": ("-R",)}


@dataclass
class Sample:
    """What one way of forwarding was measured to do in one direction."""

    throughput: list[float] = field(default_factory=list)  # Mbit/s, all streams together
    cpu: list[float] = field(default_factory=list)  # CPU seconds for a gigabyte
    latency: list[float] = field(
        default_factory=list
    )  # milliseconds of a request beside the streams, medians


Samples = dict[tuple[str, str], Sample]


@contextlib.contextmanager
def lab() -> Iterator[SshLab]:
    """The lab with an iperf3 server, and an address at the site for each way to it."""
    with tempfile.TemporaryDirectory(prefix="fcb") as name:
        Path(name).chmod(0o755)
        made = SshLab(Path(name))
        try:
            for address in ADDRESSES.values():
                made.bastion.run("ip", "addr", "add", f"{address}/32", "dev", "lo")
            made.bastion.popen("iperf3", "-s", stdout=subprocess.DEVNULL)
            wait_for(lambda: made.bastion.run("ss", "-Hltn", "sport", "= :5201").stdout)
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def stock(lab: SshLab) -> Iterator[None]:
    """sshuttle as its manual says: as root, with its own rules, and whatever ssh prefers."""
    (lab.directory / "known_hosts").write_bytes(lab.known_hosts())
    ssh = (
        "ssh",
        "-F",
        "none",
        "-i",
        str(lab.directory / "identity"),
        "-o",
        f"UserKnownHostsFile={lab.directory / 'known_hosts'}",
    )
    process = subprocess.Popen(
        lab.facilitator.argv(
            sys.executable,
            "-m",
            "sshuttle",
            "--method",
            "nft",
            "-l",
            "0.0.0.0:12350",
            "-r",
            f"root@{BASTION}",
            "--ssh-cmd",
            shlex.join(ssh),
            f"{ADDRESSES[STOCK]}/32",
        ),
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: ADDRESSES[STOCK] in lab.facilitator.run("nft", "list", "ruleset").stdout)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def ours(lab: SshLab, name: str, workers: int) -> Iterator[None]:
    """The kind sshuttle, and rules in the place of the daemon's."""
    port, address = PORTS[name], ADDRESSES[name]
    run = lab.run(port=port, workers=workers)
    try:
        run.connected()
        wait_for(
            lambda: (
                len(lab.facilitator.run("ss", "-4Hltn", "sport", f"= :{port}").stdout.splitlines()) == workers
            )
        )
        lab.facilitator.run(
            "nft",
            "-f",
            "-",
            input=f"""table ip bench-{workers} {{
            chain pre {{ type nat hook prerouting priority -100; ip daddr {address} tcp dport 1-65535 redirect to :{port}; }}
            chain inp {{ type filter hook input priority 0; ct direction reply accept; tcp dport {port} socket transparent 1 accept; }}
        }}""",
        )
        yield
    finally:
        run.stop()


def used(*namespaces: Namespace) -> float:
    """CPU seconds so far of everything in there but iperf3."""
    total = 0.0
    for namespace in namespaces:
        for pid in map(
            int,
            subprocess.run(
                ["ip", "netns", "pids", namespace.name], capture_output=True, text=True
            ).stdout.split(),
        ):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() != "iperf3\n":
                    total += cpu_seconds(pid)
    return total


@contextlib.contextmanager
def requests(lab: SshLab, address: str, found: list[float]) -> Iterator[None]:
    """Someone who works beside the streams, on a connection that stands already."""
    over = threading.Event()
    with lab.connection(address) as connection:

        def work() -> None:
            while not over.wait(PAUSE):
                start = time.perf_counter()
                if echoes(connection):
                    found.append((time.perf_counter() - start) * 1000)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def measure(lab: SshLab, address: str, options: tuple[str, ...], sample: Sample) -> None:
    """One run through one of them."""
    latency: list[float] = []
    before = used(lab.facilitator, lab.bastion)
    with requests(lab, address, latency):
        done = lab.hub.run("iperf3", "-J", "-c", address, "-P", str(STREAMS), "-t", str(SECONDS), *options)
    spent = used(lab.facilitator, lab.bastion) - before
    received = json.loads(done.stdout)["end"]["sum_received"]
    sample.throughput.append(received["bits_per_second"] / 1e6)
    sample.cpu.append(spent / received["bytes"] * 1e9)
    sample.latency.append(statistics.median(latency))


def compare(rounds: int) -> Samples:
    """All of them, by turns."""
    samples: Samples = {(name, direction): Sample() for name in ADDRESSES for direction in DIRECTIONS}
    with (
        lab() as made,
        stock(made),
        ours(made, "facilitator, 1 worker", 1),
        ours(made, "facilitator, 2 workers", 2),
    ):
        for _ in range(rounds):
            for (name, direction), sample in samples.items():
                measure(made, ADDRESSES[name], DIRECTIONS[direction], sample)
    return samples


def show(samples: Samples) -> None:
    """Ours beside stock, and the ratio."""
    table = Table(
        title=f"sshuttle: {STREAMS} forwarded TCP streams, medians of "
        f"{len(next(iter(samples.values())).throughput)}"
    )
    for column in ("", *ADDRESSES, "2 workers / stock", "target"):
        table.add_column(column, justify="left" if not column else "right")
    figures: tuple[tuple[str, Callable[[Sample], list[float]], str], ...] = (
        ("{}, Mbit/s", lambda sample: sample.throughput, ">= 1.3"),
        ("  CPU for that, both ends, s per GB", lambda sample: sample.cpu, "-"),
        ("  a request beside that, ms", lambda sample: sample.latency, "-"),
    )
    for direction in DIRECTIONS:
        for text, figure, target in figures:
            values = [statistics.median(figure(samples[name, direction])) for name in ADDRESSES]
            table.add_row(
                text.format(direction),
                *(f"{value:.1f}" for value in values),
                f"{values[-1] / values[0]:.2f}",
                target,
            )
    Console(width=140).print(table)


def main() -> None:
    """Measure and print."""
    show(compare(ROUNDS))


if __name__ == "__main__":
    main()
