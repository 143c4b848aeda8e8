"""The audit under load: thousands of new flows a second through a lane of the real daemon, counted by who
sends them.

    python -m tests.bench.audit

Each flow is one datagram to a port of its own; it is over when connection tracking forgets it, some seconds
later. Whatever the audit says must add up: flows that it wrote, and flows that it says to have lost.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from supervisor.control.client import ControlClient, Unreachable
from tests.bench.cost import cpu_seconds, pss_mib
from tests.bench.scraped import DELAY
from tests.kernel.lab import SITE, TUNNEL, KernelWorld, world
from tests.lab.wait import eventually
from tests.netns import Namespace

RATE, SECONDS = 2000, 20
FIRST_PORT, PORTS = 1024, 50_000  # of each sender
FORGOTTEN = 3  # seconds after which connection tracking forgets a flow
SETTLED = 60.0  # seconds for it to forget the last one
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What was sent, what the audit says about it, and what that cost."""

    generated: int
    seconds: float
    opened: int
    closed: int
    lost: Counter[str]  # as the gaps count it
    cpu: float  # seconds of the daemon's processor time, per second, while flows were made
    idle_cpu: float  # the same before that
    late: float  # seconds: the loop's worst delay while flows were made
    idle_late: float
    memory: float  # MiB

    @property
    def missing(self) -> tuple[int, int]:
        """Flows whose beginning, and whose end, is neither written nor counted as lost."""
        return self.generated - self.opened - self.lost["open"], self.generated - self.closed - self.lost[
            "close"
        ]


class Audited:
    """The daemon with an audit, and one tunnel up."""

    def __init__(self, made: KernelWorld, directory: Path, process: subprocess.Popen[str]) -> None:
        self._world, self._process, self._lag = made, process, directory / "lag"
        self.audit = directory / "audit.log"

    def measure(self, rate: int, seconds: float, idle: float) -> AuditResult:
        """Rest, send, and wait until the audit has said everything."""
        resting = self._cost(lambda: time.sleep(idle))
        sent = [0]
        working = self._cost(lambda: sent.append(self._send(rate, seconds)))
        generated = sent[-1]

        def settled() -> bool:
            said = self._told()
            return min(said["open"] + said["lost open"], said["close"] + said["lost close"]) >= generated

        with contextlib.suppress(AssertionError):
            eventually(settled, SETTLED, "every flow is told or counted", every=0.5)
        said = self._told()
        lost = Counter({kind: said[f"lost {kind}"] for kind in ("open", "close")})
        return AuditResult(
            generated,
            working[2],
            said["open"],
            said["close"],
            lost,
            working[0],
            resting[0],
            working[1],
            resting[1],
            pss_mib(self._process.pid),
        )

    def _cost(self, what: Any) -> tuple[float, float, float]:
        """Processor time per second, the loop's worst delay, and how long it took."""
        self._lag.write_bytes(bytes(DELAY.size)) if not self._lag.exists() else _zero(self._lag)
        cpu, began = cpu_seconds(self._process.pid), time.monotonic()
        what()
        took = time.monotonic() - began
        return (
            (cpu_seconds(self._process.pid) - cpu) / took,
            float(DELAY.unpack(self._lag.read_bytes())[0]),
            took,
        )

    def _send(self, rate: int, seconds: float) -> int:
        """So many flows a second; their number."""
        sent, began = 0, time.monotonic()
        with contextlib.ExitStack() as stack, self._world.staff.entered():
            sender = None
            while sent < rate * seconds:
                if sent % PORTS == 0:
                    sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                assert sender is not None
                sender.sendto(b"x", (SITE, FIRST_PORT + sent % PORTS))
                sent += 1
                if sent % 20 == 0:
                    time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        return sent

    def _told(self) -> Counter[str]:
        """Flows, and lost ones, in the whole audit."""
        said: Counter[str] = Counter()
        for path in sorted(self.audit.parent.glob(f"{self.audit.name}*")):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                said[entry["event"]] += entry.get("protocol") == "udp" and entry["destination"] == SITE
                said.update({f"lost {kind}": count for kind, count in (entry.get("lost") or {}).items()})
        return said


@contextlib.contextmanager
def audited() -> Iterator[Audited]:
    """A daemon between staff and a site, all in namespaces."""
    namespace = Namespace("audit")
    try:
        with tempfile.TemporaryDirectory(prefix="fcb") as name, world(namespace) as made:
            directory = Path(name)
            namespace.run("sysctl", "-qw", f"net.netfilter.nf_conntrack_udp_timeout={FORGOTTEN}")
            namespace.run(
                "ip", "address", "add", f"{TUNNEL}/32", "dev", "t-acme"
            )  # what tells that the command is up
            config = _configuration(directory)
            log = directory / "log"
            argv = (sys.executable, "-m", "tests.bench.audited", str(config), str(directory / "lag"))
            with log.open("w") as out:
                process = namespace.popen(*argv, stdout=out, stderr=out, cwd=REPOSITORY)
            try:
                eventually(lambda: _up(directory / "run" / "control.sock"), 20, f"the tunnel is up: {log}")
                yield Audited(made, directory, process)
            finally:
                process.terminate()
                process.wait(60)
    finally:
        namespace.remove()


def _configuration(directory: Path) -> Path:
    path = directory / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "facilitator": {
                    "name": "audit",
                    "state_dir": str(directory / "state"),
                    "runtime_dir": str(directory / "run"),
                },
                "staff": {"networks": ["10.8.0.0/24"], "segments": {"engineers": ["10.8.0.0/26"]}},
                "audit": {"file": str(directory / "audit.log"), "max_size": "8MB", "keep": 100},
                "drain": {"timeout": "1s"},
                "tunnels": {
                    "acme": {
                        "kind": "command",
                        "argv": ["/bin/sleep", "infinity"],
                        "up": {"device": "t-acme"},
                        "device": "t-acme",
                        "destinations": ["10.77.0.0/24"],
                    }
                },
            }
        )
    )
    return path


def _up(control: Path) -> bool:
    with contextlib.suppress(Unreachable):
        return bool(ControlClient(control).get("/api/v1/status")["tunnels"][0]["phase"] == "up")
    return False


def _zero(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(DELAY.size))


def main() -> None:
    """Measure and print."""
    with audited() as daemon:
        it = daemon.measure(RATE, SECONDS, 5.0)
    table = Table(title=f"audit of {it.generated} flows, {it.generated / it.seconds:.0f} new ones a second")
    for column in ("", "beginnings", "ends", "target"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("written", str(it.opened), str(it.closed), "-")
    table.add_row("lost, as the gaps say", str(it.lost["open"]), str(it.lost["close"]), "-")
    table.add_row("neither written nor in a gap", *map(str, it.missing), "0")
    table.add_row("daemon's CPU, ms per s", f"{it.cpu * 1000:.0f}", f"at rest {it.idle_cpu * 1000:.1f}", "-")
    table.add_row(
        "loop's worst delay, ms", f"{it.late * 1000:.1f}", f"at rest {it.idle_late * 1000:.1f}", "-"
    )
    table.add_row("PSS, MiB", f"{it.memory:.1f}", "", "-")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
