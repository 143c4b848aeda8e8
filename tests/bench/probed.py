"""What the daemon costs at rest with real tunnels and the default probes: OpenVPN clients, all connected.

python -m tests.bench.probed [--idle 60]
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from tests.bench.weight import IDLE_SECONDS, Row, idle
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.network import DATACENTRE, DATACENTRE_WEB

SIZES = {1: "<= 1.0", 10: "<= 3.0"}  # tunnels -> ms of CPU per second


def configuration(lab: Lab, tunnels: int) -> Config:
    """So many sessions with one gateway, each with the data centre under another network."""
    one = {
        "kind": "openvpn",
        "config": str(lab.directory / "acme-shared.ovpn"),
        "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
    }
    every = {
        f"t{number}": {
            **one,
            "destinations": [{"network": str(DATACENTRE), "presented_as": f"100.64.{number}.0/24"}],
        }
        for number in range(tunnels)
    }
    return {**lab.configuration(), "defaults": {}, "tunnels": every}


def at_rest(lab: Lab, tunnels: int, seconds: float) -> Row:
    """The daemon's own cost, once all are well."""
    with lab.daemon(configuration(lab, tunnels)) as daemon:
        daemon.wait_well(60)
        return idle(daemon.pid, seconds)


def main(seconds: float = IDLE_SECONDS) -> None:
    """Measure and print."""
    table = Table(title="at rest, real OpenVPN tunnels, default probes")
    for column in ("", "facilitator", "target"):
        table.add_column(column, justify="left" if not column else "right")
    with Lab() as lab:
        lab.shared_server()
        for tunnels, target in SIZES.items():
            for name, value in at_rest(lab, tunnels, seconds).items():
                shown = target if name.startswith("idle") else "-"
                table.add_row(f"{name}, {tunnels} tunnel{'' if tunnels == 1 else 's'}", f"{value:.2f}", shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS)
    main(parser.parse_args().idle)
