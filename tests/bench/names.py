"""Name servers beside each other, in one run: the name service, dnsmasq and unbound, each on one core, in
front of the same unbound with 10,000 names. `python -m tests.bench.names` (root).

Forwarded: each name once. Cached: all of them three times more. Detour: what the service adds to a question
that is forwarded, at 200 questions a second, compared with asking the customer's server directly.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil

from tests.lab.name_process import name_process
from tests.lab.resolver import CustomerResolver
from tests.lab.servers import Server, program
from tests.netns import Namespace

NAMES, WINDOW, ROUNDS, SLOW = 10_000, 64, 3, 200.0
CUSTOMER, DNSMASQ, UNBOUND, OURS = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
_CORE = ("taskset", "-c", "0")


@contextlib.contextmanager
def servers(net: Namespace, directory: Path) -> Iterator[dict[str, Server]]:
    """All of them, running."""
    hosts = {f"host{n}": IPv4Address(int(IPv4Address("10.0.16.0")) + n) for n in range(NAMES)}
    customer = CustomerResolver(net, directory, IPv4Address(CUSTOMER), "acme.internal", hosts)
    forward = directory / "forward.conf"
    forward.write_text(
        f"server:\n interface: {UNBOUND}\n do-daemonize: no\n use-syslog: no\n username: ''\n chroot: ''\n"
        f" pidfile: ''\n num-threads: 1\n do-not-query-localhost: no\n domain-insecure: acme.internal\n"
        f" local-zone: internal. nodefault\nremote-control:\n control-enable: no\n"
        f"forward-zone:\n name: acme.internal\n forward-addr: {CUSTOMER}\n"
    )
    dnsmasq = ("dnsmasq", "-k", "-h", "-R", "-a", DNSMASQ, "-z", "-c", "10000", "-0", "1000", "--user=root")
    found = {
        "customer": customer,
        "dnsmasq": Server(
            net,
            directory,
            "dnsmasq",
            (*_CORE, *dnsmasq, "--log-facility=-", f"--server=/acme.internal/{CUSTOMER}", "--pid-file"),
            "started",
        ),
        "unbound": Server(
            net, directory, "unbound", (*_CORE, "unbound", "-d", "-c", str(forward)), "start of service"
        ),
    }
    with contextlib.ExitStack() as closing:
        for server in found.values():
            server.start()
            closing.callback(server.kill)
        yield found | {"ours": closing.enter_context(name_process(net, directory, OURS, CUSTOMER, _CORE))}


def flood(net: Namespace, server: str, rounds: int, rate: float = 0.0, names: int = NAMES) -> dict[str, Any]:
    """What `names.py` says."""
    first = "100.64.16.0" if server == OURS else "10.0.16.0"
    argv = program(
        "names", server, "53", "host{}.acme.internal", str(names), first, str(WINDOW), str(rounds), str(rate)
    )
    found: dict[str, Any] = json.loads(net.run("taskset", "-c", "1", *argv, timeout=300).stdout)
    return found


def measure(net: Namespace, running: dict[str, Server]) -> dict[str, dict[str, float]]:
    """Rates a second, times in milliseconds, memory in MiB."""
    results: dict[str, dict[str, float]] = {}
    direct = flood(net, CUSTOMER, 1, SLOW, 400)
    for name, address in (("dnsmasq", DNSMASQ), ("unbound", UNBOUND), ("ours", OURS)):
        slow = flood(net, address, 1, SLOW, 400)
        forwarded, cached = flood(net, address, 1), flood(net, address, ROUNDS)
        results[name] = {
            "forwarded": forwarded["rate"],
            "cached": cached["rate"],
            "p99 added": (slow["p99"] - direct["p99"]) * 1000,
            "p50 added": (slow["p50"] - direct["p50"]) * 1000,
            "not right": forwarded["wrong"] + forwarded["lost"] + cached["wrong"] + cached["lost"],
            "MiB": psutil.Process(running[name].pid).memory_info().rss / 2**20,
        }
    return results


def main() -> None:
    """Print a line for each server."""
    net, directory = Namespace("bench"), Path(tempfile.mkdtemp())
    try:
        with servers(net, directory) as running:
            time.sleep(0.5)
            for name, found in measure(net, running).items():
                print(name.ljust(8), "  ".join(f"{what} {value:.1f}" for what, value in found.items()))
    finally:
        net.remove()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
