"""Names behind the tunnels: two customers with the same addresses and the same host, real name servers at
both, and staff who type the customer's name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.network import BASTION, CUSTOMER
from tests.lab.resolver import CustomerResolver
from tests.lab.servers import OpenVpnServer, Server, ServerLogin, program
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root

LISTEN = "10.60.0.2"  # an address of the facilitator
SERVER, DB = IPv4Address("10.0.0.53"), IPv4Address("10.0.0.80")  # at both customers
HOSTS, ASKED = 10_000, 3_000  # `python -m tests.bench.names` asks for all


@dataclass
class Site:
    """One of the two customers."""

    lab: Lab
    name: str
    namespace: str
    address: IPv4Address  # public
    number: int  # of its OpenVPN server

    def start(self, closing: contextlib.ExitStack) -> None:
        """Its OpenVPN server, its web server, and its name server."""
        host = self.lab.network[self.namespace]
        host.run("ip", "address", "replace", f"{DB}/32", "dev", "lo")
        options = (f'push "dhcp-option DNS {SERVER}"',)
        vpn = OpenVpnServer(
            host, self.lab.directory, self.lab.openvpn.authority, number=self.number, options=options
        )
        web = Server(host, self.lab.directory, f"web-{self.name}", program("web", self.name), "serving")
        hosts = {f"host{n}": IPv4Address(int(IPv4Address("10.0.16.0")) + n) for n in range(HOSTS)}
        extra = (
            f"www.{self.name}.internal. 300 IN CNAME db1.{self.name}.internal.",
            f"evil.{self.name}.internal. 300 IN A 10.8.0.2",
            f"_db._tcp.{self.name}.internal. 300 IN SRV 0 0 80 db1.{self.name}.internal.",
        )
        self.resolver = CustomerResolver(
            host, self.lab.directory, SERVER, f"{self.name}.internal", {"db1": DB, **hosts}, extra
        )
        self.vpn = vpn
        for server in (vpn, web, self.resolver):
            server.start()
            closing.callback(server.kill)
        self.lab.set_secret(f"names-{self.name}.ovpn", vpn.client_config(str(self.address)))

    def settings(self, presented: str, servers: object) -> dict[str, Any]:
        """The tunnel to it."""
        return {
            "kind": "openvpn",
            "config": str(self.lab.directory / f"names-{self.name}.ovpn"),
            "destinations": [{"network": "10.0.0.0/16", "presented_as": presented}],
            "probe": {"targets": [f"tcp://{DB}:80"]},
            "names": {"domains": [f"{self.name}.internal"], "servers": servers},
        }


@pytest.fixture(scope="module")
def sites(lab: Lab) -> Iterator[tuple[Site, Site]]:
    """Two customers; staff's router knows the way, and the laptop asks the facilitator for names."""
    first = len(ServerLogin) + 10
    made = (
        Site(lab, "acme", "customer", CUSTOMER, first),
        Site(lab, "globex", "bastion", BASTION, first + 1),
    )
    etc = Path("/etc/netns", lab.network["laptop"].name)
    with contextlib.ExitStack() as closing:
        for site in made:
            site.start(closing)
        lab.network["hub"].run("ip", "route", "replace", "100.65.0.0/16", "via", LISTEN)
        closing.callback(lab.network["hub"].run, "ip", "route", "delete", "100.65.0.0/16")
        etc.mkdir(parents=True)
        closing.callback(shutil.rmtree, etc)
        (etc / "resolv.conf").write_text(f"nameserver {LISTEN}\noptions timeout:2 attempts:2\n")
        yield made


@pytest.fixture
def named(lab: Lab, config: Config, sites: tuple[Site, Site]) -> Iterator[LabDaemon]:
    """A daemon with a tunnel to each of them."""
    acme, globex = sites
    config["staff"]["networks"] = ["10.8.0.0/17"]
    config["names"] = {"listen": [f"{LISTEN}:53"]}
    config["tunnels"] = {
        "acme-dc": acme.settings("100.64.0.0/16", [str(SERVER)]),
        "globex-dc": globex.settings("100.65.0.0/16", "pushed"),
    }
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        eventually(lambda: dig(lab, "db1.acme.internal") == ["100.64.0.80"], 10, "names are answered")
        yield daemon
    assert not name_processes(daemon), "the process ends with the daemon"


def dig(lab: Lab, *words: str) -> list[str]:
    """The answer section, one line a record."""
    return ask(lab, *words, "+short").splitlines()


def ask(lab: Lab, *words: str, source: str = "") -> str:
    """What dig prints on the laptop."""
    bound = ("-b", source) if source else ()
    done = lab.network["laptop"].run(
        "dig", f"@{LISTEN}", *bound, "+tries=1", "+time=2", *words, check=False, timeout=30
    )
    return done.stdout


def name_processes(daemon: LabDaemon) -> list[int]:
    """Of the name service of this daemon."""
    found = subprocess.run(
        ["ip", "netns", "pids", daemon.namespace.name], capture_output=True, text=True
    ).stdout.split()
    mine = str(daemon.runtime_dir / "names").encode()
    return [int(pid) for pid in found if mine in _command(int(pid)).split(b"\0")]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_staff_reach_the_right_customer_by_name(lab: Lab, named: LabDaemon, sites: tuple[Site, Site]) -> None:
    for site, presented in (("acme", "100.64"), ("globex", "100.65")):
        assert dig(lab, f"db1.{site}.internal") == [f"{presented}.0.80"]
        assert dig(lab, "+tcp", f"www.{site}.internal") == [f"db1.{site}.internal.", f"{presented}.0.80"]
        assert dig(lab, "-x", f"{presented}.0.80") == [f"db1.{site}.internal."]
        page = lab.network["laptop"].run("curl", "-sS", "--max-time", "10", f"http://db1.{site}.internal/")
        assert page.stdout.startswith(f"{site} sees "), page.stdout + page.stderr
        assert dig(lab, f"evil.{site}.internal") == [], "an address of staff is not let through"
        assert "EDE: 17" in ask(lab, f"evil.{site}.internal")
    assert "status: REFUSED" in ask(lab, "www.example.com")
    assert "status: NXDOMAIN" in ask(lab, "nobody.acme.internal")
    assert "timed out" in ask(lab, "db1.acme.internal", source=_stranger(lab)), "strangers get no answer"
    _all_names(lab)
    _explained(named)


def _explained(daemon: LabDaemon) -> None:
    """`why`, `status` and metrics."""
    said = daemon.cli("why", "db1.globex.internal", "--from", "10.8.0.2")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "db1.globex.internal is 100.65.0.80, asked of 10.0.0.53 inside globex-dc" in said.stdout
    assert said.stdout.startswith("db1.globex.internal: 100.65.0.80")
    assert "is carried by globex-dc" in said.stdout
    said = daemon.cli("why", "www.example.com")
    assert (said.returncode, "is in no tunnel's" in said.stdout) == (1, True)
    assert "name servers pushed: 10.0.0.53" in daemon.cli("status", "globex-dc").stdout
    eventually(
        lambda: daemon.metric("facilitator_names_responses_total", tunnel="acme-dc", rcode="NOERROR") > ASKED,
        10,
        "they are counted",
    )
    assert daemon.metric("facilitator_names_dropped_records_total", tunnel="acme-dc") >= 1
    assert daemon.metric("facilitator_names_strangers_total") >= 1
    assert daemon.status()["names"]["failures_per_second"] == 0.0


def _stranger(lab: Lab) -> str:
    """An address of the laptop outside of staff's networks."""
    lab.network["laptop"].run("ip", "address", "replace", "10.8.200.2/16", "dev", "lan")
    return "10.8.200.2"


def _all_names(lab: Lab) -> None:
    """Many names of ten thousand, each with its own address."""
    argv = program("names", LISTEN, "53", "host{}.acme.internal", str(ASKED), "100.64.16.0", "64")
    done = json.loads(lab.network["laptop"].run(*argv, timeout=120).stdout)
    assert (done["right"], done["wrong"]) == (ASKED, 0), done


def test_a_tunnel_that_is_down_is_said_at_once_and_the_process_outlives_the_daemon(
    lab: Lab, named: LabDaemon, config: Config
) -> None:
    (process,) = name_processes(named)
    assert named.cli("stop", "acme-dc").returncode == 0
    eventually(lambda: "SERVFAIL" in ask(lab, "db1.acme.internal"), 5, "the end is known")
    said = ask(lab, "host77.acme.internal")
    assert "EDE: 22" in said, said
    assert "acme-dc is down since" in said
    assert int(said.partition("Query time: ")[2].split()[0]) <= 5 * NOISE
    assert dig(lab, "db1.globex.internal") == ["100.65.0.80"]
    assert named.cli("start", "acme-dc").returncode == 0
    named.wait_for("acme-dc", phase="up", health="healthy")
    eventually(lambda: dig(lab, "host78.acme.internal") == ["100.64.16.78"], 5, "it is back")
    named.kill9()
    assert dig(lab, "host79.acme.internal") == ["100.64.16.79"], "names go on without the daemon"
    named.start()
    named.wait_well()
    assert name_processes(named) == [process], "it is adopted"
    os.kill(process, signal.SIGKILL)
    eventually(lambda: dig(lab, "host80.acme.internal") == ["100.64.16.80"], 10, "another one is started")
    config["tunnels"]["acme-dc"]["names"]["domains"] = ["acme.example"]
    named.configure(config)
    assert named.cli("reload").returncode == 0
    eventually(lambda: "REFUSED" in ask(lab, "db1.acme.internal"), 5, "a reload is taken over")
