"""Many real tunnels behind one uplink whose path is silent for a while: when all carry again, and how many
clients start at the same time. OpenVPN, default probes.

python -m tests.bench.crowd [--tunnels 200] [--seconds 20 60]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from tests.bench.columns import print_columns
from tests.bench.probed import configuration
from tests.lab import Lab
from tests.lab.daemon import LabDaemon
from tests.lab.network import CUSTOMER

LOOK_SECONDS = 0.1
WITHIN_SECONDS = 300.0
TARGETS = {"all back after, s": "<= 10", "most clients starting at once": "<= 20"}


def phases(daemon: LabDaemon) -> Counter[str]:
    """How many tunnels are in which phase, and how many are `healthy`."""
    shown = daemon.status()["tunnels"]
    return Counter([each["phase"] for each in shown] + [each["health"] for each in shown])


def silence(lab: Lab, daemon: LabDaemon, tunnels: int, seconds: float) -> dict[str, float]:
    """One drop of the path."""
    before = sum(each["reconnects"] for each in daemon.status()["tunnels"])
    lab.blackhole(CUSTOMER)
    end = time.monotonic() + seconds
    starting = 0
    while time.monotonic() < end:
        starting = max(starting, phases(daemon)["starting"])
        time.sleep(LOOK_SECONDS)
    lab.unblock(CUSTOMER)
    back = time.monotonic()
    while (found := phases(daemon))["healthy"] < tunnels:
        starting = max(starting, found["starting"])
        if time.monotonic() > back + WITHIN_SECONDS:
            raise TimeoutError(f"after {WITHIN_SECONDS:g} s: {dict(found)}")
        time.sleep(LOOK_SECONDS)
    return {
        "all back after, s": time.monotonic() - back,
        "most clients starting at once": starting,
        "sessions begun": sum(each["reconnects"] for each in daemon.status()["tunnels"]) - before,
    }


def main(tunnels: int, lengths: list[float]) -> None:
    """Measure and print."""
    with Lab() as lab:
        lab.shared_server()
        config = configuration(lab, tunnels)
        config["defaults"] = {"login": {"pause": "100ms"}}  # all log in at one gateway, one after the other
        with lab.daemon(config) as daemon:
            daemon.wait_well(WITHIN_SECONDS)
            rows = {}
            for seconds in lengths:
                time.sleep(5.0)
                rows[f"{seconds:g} s"] = silence(lab, daemon, tunnels, seconds)
    print_columns(f"{tunnels} tunnels behind one uplink whose path is silent", rows, TARGETS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunnels", type=int, default=200)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 60.0])
    options = parser.parse_args()
    main(options.tunnels, options.seconds)
