"""Silent drops of the whole path: when each kind carries again, and how many sessions that cost.

python -m tests.bench.silence [--seconds 60 120 600] [--times 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

from rich.console import Console
from rich.table import Table

from supervisor.app.watchers.endpoints import CHECK_SECONDS
from tests.lab import Lab
from tests.lab.customers import customers
from tests.system.test_silence import drop


def main() -> None:
    """Print a row for each length of silence and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[12.0, 60.0, 120.0])
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    table = Table(title="a silent drop of the whole path, default probes")
    for column in ("silence, s", "kind", "back after, s: median", "worst", "sessions begun"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    with Lab() as lab, customers(lab) as everyone:
        everyone.openvpn()
        everyone.openconnect()
        everyone.wireguard()
        everyone.ipsec(patient=True)
        everyone.sshuttle()
        config = {**everyone.config(lab.configuration()), "defaults": {}}
        for seconds in options.seconds:
            back: dict[str, list[float]] = {}
            with lab.daemon(config) as daemon:
                for _ in range(options.times):
                    daemon.wait_well(90)
                    time.sleep(2 * CHECK_SECONDS)
                    for name, meter in drop(lab, daemon, everyone, seconds).items():
                        back.setdefault(name, []).append(meter.seconds)
                for name, values in back.items():
                    begun = daemon.tunnel(name)["reconnects"]
                    shown = (f"{statistics.median(values):.2f}", f"{max(values):.2f}", str(begun))
                    table.add_row(f"{seconds:g}", name, *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
