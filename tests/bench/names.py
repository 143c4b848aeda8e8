"""Name servers beside each other, in one run: the name service, dnsmasq and unbound, each on one core, in
front of the same unbound with 10,000 names. `python -m tests.bench.names` (root).

Forwarded: each name once. Cached: all of them three times more. Detour: what the service adds to a question
that is forwarded, at 200 questions a second, compared with asking the customer's server directly.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import psutil

from common.configuration.notation import Listen
from common.plain import plain
from supervisor.core.names.values import AskingRules, MappedNetwork, NameServiceState
from tests.lab.resolver import CustomerResolver
from tests.lab.servers import Server, program
from tests.lab.wait import eventually
from tests.names.messages import ACME
from tests.netns import Namespace

NAMES, WINDOW, ROUNDS, SLOW = 10_000, 64, 3, 200.0
CUSTOMER, DNSMASQ, UNBOUND, OURS = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
_CORE = ("taskset", "-c", "0")
_START = "import sys; from supervisor.names.program import main; main()"


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
        yield found | {"ours": closing.enter_context(ours(net, directory))}


@contextlib.contextmanager
def ours(net: Namespace, directory: Path) -> Iterator[Server]:
    """The process of the name service, without a daemon, and told what to do."""
    home = directory / "ours"
    home.mkdir()
    (home / "key").write_text("key")
    server = Server(net, directory, "ours", (*_CORE, sys.executable, "-c", _START, str(home), "bench"), "")
    server.start()
    try:
        eventually((home / "control.sock").exists, 10, "it listens")
        about = replace(
            ACME,
            servers=(ip_address(CUSTOMER),),
            networks=(MappedNetwork(ip_network("10.0.0.0/16"), ip_network("100.64.0.0/16")),),
            mark=0,
            device="lo",
        )
        rules = AskingRules((ip_network("127.0.0.0/8"),), listen=(Listen(OURS, 53),))
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(home / "control.sock"))
            state = plain(NameServiceState(rules, {"acme-dc": about}))
            control.sendall(b"key\n" + json.dumps({"state": state}).encode() + b"\n")
            eventually(lambda: b"report" in control.recv(65536), 10, "it has taken its state")
            yield server
    finally:
        server.kill()


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
