"""A scrape of a thousand tunnels: how long it takes, and how late the event loop is meanwhile.

    python -m tests.bench.scrape

See `tests.bench.scraped` for what is scraped. The scraper asks as Prometheus does, with gzip.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.cost import cpu_seconds
from tests.bench.scraped import DELAY, PORT
from tests.netns import Namespace

TUNNELS, SCRAPES = 1000, 40
PAUSE = 0.15  # seconds between two scrapes
TIMEOUT = 60.0
FORMATS = {"text": "text/plain", "OpenMetrics": "application/openmetrics-text;version=1.0.0"}


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape, in milliseconds and bytes."""

    took: float
    late: float  # the loop's worst delay meanwhile
    cpu: float  # of the scraped process
    size: int


class Scraper:
    """Asks over one connection, and reads the file of the loop's delays."""

    def __init__(self, lag: Path, pid: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT)
        self._lag, self._pid = lag, pid

    def scrape(self, accept: str) -> Scrape:
        """One of them."""
        self._forget()
        cpu, started = cpu_seconds(self._pid), time.monotonic()
        self._connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the scrape was answered with {response.status}")
        took = time.monotonic() - started
        return Scrape(took * 1000, self._worst(), (cpu_seconds(self._pid) - cpu) * 1000, len(body))

    def rest(self) -> float:
        """The loop's worst delay without a scrape."""
        self._forget()
        time.sleep(PAUSE)
        return self._worst()

    def _forget(self) -> None:
        with self._lag.open("r+b") as file:
            file.write(bytes(DELAY.size))

    def _worst(self) -> float:
        return float(DELAY.unpack(self._lag.read_bytes())[0]) * 1000


@contextlib.contextmanager
def scraped(tunnels: int) -> Iterator[Scraper]:
    """A scraper of a process with that many tunnels, in a namespace of its own."""
    namespace = Namespace("scrape")
    try:
        with tempfile.TemporaryDirectory(prefix="fcb") as name, namespace.entered():
            lag = Path(name) / "lag"
            argv = (sys.executable, "-m", "tests.bench.scraped", name, str(lag), str(tunnels))
            process = namespace.popen(*argv, stdout=subprocess.PIPE)
            assert process.stdout is not None
            if process.stdout.readline() != "serving\n":
                raise RuntimeError("it did not come to serve")
            yield Scraper(lag, process.pid)
            process.kill()
            process.wait()
    finally:
        namespace.remove()  # and the clients with it


def main() -> None:
    """Measure and print: one row for each format."""
    table = Table(title=f"/metrics of {TUNNELS} tunnels, {SCRAPES} scrapes")
    for column in (
        "",
        "median ms",
        "worst ms",
        "CPU ms",
        "loop's delay: median",
        "worst",
        "worst at rest",
        "KiB",
    ):
        table.add_column(column, justify="left" if not column else "right")
    with scraped(TUNNELS) as scraper:
        scraper.scrape("")
        for name, accept in FORMATS.items():
            rest, scrapes = [], []
            for _ in range(SCRAPES):
                rest.append(scraper.rest())
                scrapes.append(scraper.scrape(accept))
            took, late = [s.took for s in scrapes], [s.late for s in scrapes]
            table.add_row(
                name,
                f"{statistics.median(took):.0f}",
                f"{max(took):.0f}",
                f"{statistics.median(s.cpu for s in scrapes):.0f}",
                f"{statistics.median(late):.1f}",
                f"{max(late):.1f}",
                f"{max(rest):.1f}",
                f"{scrapes[0].size / 1024:.0f}",
            )
    table.add_row("target", "<= 150", "-", "-", "<= 20", "-", "-", "-")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
