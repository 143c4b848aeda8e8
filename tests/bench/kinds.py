"""How fast each kind is up, and back: seven tunnels side by side in one daemon, each with a real server
and a laptop that asks.

    python -m tests.bench.kinds [--rounds 3]

One fault at a time where the answer is traffic; servers and paths die all at once, because the answer is only
what the daemon says. Probes have the product's defaults. `stable_after` is a second, so that a round need not
wait for a minute, and pauses are short.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from rich.console import Console
from rich.table import Table

from supervisor.control.client import ControlClient
from tests.lab import BASTION, CUSTOMER, Lab, LabDaemon
from tests.lab.customers import Customer, Customers, customers

ROUNDS = 3
BACK = 120.0  # seconds that a tunnel may take to come back between two faults
LOOK = 0.01  # seconds between two looks at the daemon's status
RECONNECT = {"first": "100ms", "max": "2s", "stable_after": "1s"}
START, KILLED, ENDED = "start -> first answer", "client killed -> traffic", "session ended -> traffic"
DEAD, DARK = "server killed -> noticed", "silence -> noticed"
TARGETS = {START: "-", KILLED: "<= 1 (sshuttle 3)", ENDED: "<= 2", DEAD: "-", DARK: "<= 11"}
PACKAGES = ("openvpn", "openconnect", "wireguard-go", "vpnc", "charon-systemd", "openssh-client")

Samples = dict[tuple[str, str], list[float]]  # (fault, tunnel) -> seconds


class KindBench:
    """The running daemon, and what was measured."""

    def __init__(self, lab: Lab, daemon: LabDaemon, everyone: list[Customer]) -> None:
        self._lab, self._daemon, self._everyone = lab, daemon, everyone
        self._control = ControlClient(daemon.runtime_dir / "control.sock")
        self.samples: Samples = defaultdict(list)

    def round(self) -> None:
        """Every fault once for every tunnel."""
        for customer in self._everyone:
            self._note(START, customer, self._start)
            self._note(KILLED, customer, self._kill)
            self._note(ENDED, customer, lambda each: self._lab.outage(each.web, each.throw_out, BACK).seconds)
        self._servers_killed()
        self._silence()

    def _note(self, what: str, customer: Customer, measure: Callable[[Customer], float]) -> None:
        self._daemon.wait_for(customer.name, BACK, phase="up", health="healthy")
        time.sleep(
            1.5
        )  # past stable_after, so that the next retry is the first one: this is the schedule of the faults
        self.samples[what, customer.name].append(measure(customer))

    def _start(self, customer: Customer) -> float:
        """`stop`, then `start`: a whole login."""
        self._control.post(f"/api/v1/tunnels/{customer.name}/stop")
        self._daemon.wait_for(customer.name, BACK, phase="stopped")
        with self._lab.poller(customer.web) as poller:
            since = time.monotonic()
            self._control.post(f"/api/v1/tunnels/{customer.name}/start")
            return poller.wait_settled(BACK, since) - since

    def _kill(self, customer: Customer) -> float:
        victim = customer.client_pid(self._daemon)
        return self._lab.outage(customer.web, lambda: os.kill(victim, 9), BACK).seconds

    def _servers_killed(self) -> None:
        servers = {customer.server.name: customer.server for customer in self._everyone}.values()
        self._noticed(DEAD, [server.kill for server in servers])
        for server in servers:
            server.start()

    def _silence(self) -> None:
        self._noticed(DARK, [functools.partial(self._lab.blackhole, site) for site in (CUSTOMER, BASTION)])
        for site in (CUSTOMER, BASTION):
            self._lab.unblock(site)

    def _noticed(self, what: str, faults: Iterable[Callable[[], object]]) -> None:
        """How long each tunnel passes for well after faults that all happen at once."""
        self._daemon.wait_well(BACK)
        waiting = {customer.name for customer in self._everyone}
        with ThreadPoolExecutor() as pool:
            since = time.monotonic()
            done = [pool.submit(fault) for fault in faults]
            while waiting:
                for name in waiting & set(_unwell(self._control)):
                    self.samples[what, name].append(time.monotonic() - since)
                    waiting.remove(name)
                assert time.monotonic() - since < BACK, f"nobody notices at {waiting}"
                time.sleep(LOOK)
            for each in done:
                each.result()


def _unwell(control: ControlClient) -> Iterable[str]:
    tunnels = control.get("/api/v1/status")["tunnels"]
    return [tunnel["name"] for tunnel in tunnels if (tunnel["phase"], tunnel["health"]) != ("up", "healthy")]


def everyone(made: Customers) -> list[Customer]:
    """One tunnel of each kind."""
    for add in (made.openvpn, made.openconnect, made.wireguard, made.ipsec, made.sshuttle, made.command):
        add()
    return made.all


def measure(rounds: int) -> Samples:
    """All faults, `rounds` times."""
    with Lab() as lab, customers(lab) as made:
        all_of_them = everyone(made)
        config = made.config(lab.configuration())
        with lab.daemon({**config, "defaults": {"reconnect": RECONNECT}}) as daemon:
            daemon.wait_well(BACK)
            bench = KindBench(lab, daemon, all_of_them)
            for _ in range(rounds):
                bench.round()
            return bench.samples


def show(samples: Samples) -> None:
    """A row for each fault, a column for each kind."""
    names = list(dict.fromkeys(name for _, name in samples))
    rounds, load = len(next(iter(samples.values()))), os.getloadavg()[0]
    table = Table(
        title=f"kinds: seconds, medians of {rounds} rounds, {os.cpu_count()} cores, load {load:.0f}"
    )
    for column in ("", *names, "target"):
        table.add_column(
            column.removesuffix("-certificate").removesuffix("-password"),
            justify="left" if not column else "right",
        )
    for what, target in TARGETS.items():
        table.add_row(what, *(f"{statistics.median(samples[what, name]):.2f}" for name in names), target)
    console = Console(width=140)
    console.print(table)
    console.print(
        "wireguard knows no sessions: its server forgot its keys, which only probes notice", highlight=False
    )
    console.print(versions(), highlight=False)


def versions() -> str:
    """What was measured, as Debian and Python know it."""
    argv = ("dpkg-query", "-W", "-f", "${Package} ${Version}, ", *PACKAGES)
    return (
        subprocess.run(argv, capture_output=True, text=True).stdout
        + f"sshuttle {metadata.version('sshuttle')}"
    )


def main(rounds: int = ROUNDS) -> None:
    """Measure and print."""
    show(measure(rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    main(parser.parse_args().rounds)
