"""What staff notice of the life of whoever runs the VPN clients: crash, upgrade, reload, planned
reconnect. Ours, and others, in one run.

A laptop sends 100 datagrams a second through a real OpenVPN tunnel, and asks a web server behind it every 10
ms.

    python -m tests.bench.life [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.rivals import RestartLoop, Rival, Supervisord
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.network import DATACENTRE_WEB
from tests.lab.wait import eventually

RATE = 100
WITHIN = 60.0  # seconds, after which an outage is called endless
Events = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class LifeResult:
    """What came of one event."""

    outage: float  # the longest time without an answer, in seconds; infinite when it did not end
    lost: int  # datagrams
    sent: int


@contextlib.contextmanager
def facilitator(lab: Lab, directory: Path) -> Iterator[Events]:
    """Ours, with the defaults but for the probe's interval, and what can happen to it."""
    config = lab.configuration()
    config["tunnels"]["acme-dc"]["probe"]["interval"] = "1s"
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        yield {
            "crash": partial(_crash, daemon),
            "upgrade": lambda: _done(daemon, "upgrade"),
            "reload": partial(_reload, daemon, config),
            "planned reconnect": partial(_planned, daemon, config),
        }


def _crash(daemon: LabDaemon) -> None:
    daemon.kill9()
    daemon.start()


def _reload(daemon: LabDaemon, config: Config) -> None:
    config["tunnels"]["own-cloud"]["workers"] = 2
    daemon.configure(config)
    _done(daemon, "reload")


def _planned(daemon: LabDaemon, config: Config) -> None:
    """The end of the session is near. The server has one session for each certificate, so the second one
    takes the place of the first.
    """
    replaced = daemon.replaced("acme-dc")
    config["tunnels"]["acme-dc"]["reconnect"] = {"planned": {"every": "60s", "before": "55s"}}
    daemon.configure(config)
    _done(daemon, "reload")
    eventually(replaced, WITHIN, "another session carries")


def _done(daemon: LabDaemon, *command: str) -> None:
    done = daemon.cli(*command)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def other(kind: type[Rival], lab: Lab, directory: Path) -> Iterator[Events]:
    """Another, and what can happen to it."""
    with kind(lab, directory) as rival:
        yield {
            "crash": rival.crash,
            "upgrade": rival.upgrade,
            "reload": rival.reload,
            "planned reconnect": rival.planned,
        }


CONTENDERS: Mapping[str, Callable[[Lab, Path], AbstractContextManager[Events]]] = {
    "facilitator": facilitator,
    Supervisord.name: partial(other, Supervisord),
    RestartLoop.name: partial(other, RestartLoop),
}
EVENTS = ("crash", "upgrade", "reload", "planned reconnect")


def seen(lab: Lab, event: Callable[[], object]) -> LifeResult:
    """Make it happen while the laptop uses the tunnel."""
    with lab.poller(DATACENTRE_WEB) as poller:
        poller.wait_settled(WITHIN)
        with lab.flood(DATACENTRE_WEB, rate=RATE) as flood:
            since = time.monotonic()
            event()
            try:
                poller.wait_settled(WITHIN, time.monotonic())
            except AssertionError:
                outage = float("inf")
            else:
                outage = poller.longest(since)
    return LifeResult(outage, flood.sent - flood.echoed, flood.sent)


def measured(lab: Lab, rounds: int) -> dict[str, dict[str, list[LifeResult]]]:
    """By contender and event. Each event meets a contender that has just been started: what one broke does
    not count for the next.
    """
    found: dict[str, dict[str, list[LifeResult]]] = {
        name: {event: [] for event in EVENTS} for name in CONTENDERS
    }
    for _ in range(rounds):
        for name, contender in CONTENDERS.items():
            for event in EVENTS:
                with (
                    tempfile.TemporaryDirectory(prefix="fcb") as directory,
                    contender(lab, Path(directory)) as events,
                ):
                    found[name][event].append(seen(lab, events[event]))
    return found


def show(found: dict[str, dict[str, list[LifeResult]]]) -> None:
    """Medians: a row for each event."""
    table = Table(
        title=f"life cycle: what staff see through one OpenVPN tunnel, {RATE} datagrams a second (medians)"
    )
    table.add_column("")
    for name in found:
        table.add_column(f"{name}: outage, s", justify="right")
        table.add_column("datagrams lost", justify="right")
    for event in EVENTS:
        cells = []
        for each in found.values():
            outage = statistics.median(one.outage for one in each[event])
            cells.append(f"{outage:.2f}" if outage < WITHIN else f"> {WITHIN:.0f}")
            cells.append(f"{statistics.median(one.lost for one in each[event]):.0f}")
        table.add_row(event, *cells)
    console = Console(width=150)
    console.print(table)
    console.print(
        "supervisord, crash: the client runs on, and the next supervisord knows nothing of it.\n"
        "Datagrams of a flow that met a closed tunnel stay lost where the tunnel is not ours: they left "
        "in clear, without masquerade,\n"
        "and connection tracking keeps to that.",
        highlight=False,
    )


def main(rounds: int = 3) -> None:
    """Measure and print."""
    with Lab() as lab:
        show(measured(lab, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
