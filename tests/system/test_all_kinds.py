"""Every kind of tunnel and every login at once, in one daemon, each carrying staff's requests; and no
secret lies open meanwhile.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.customers import Customers, customers
from tests.lab.servers import ServerLogin

pytestmark = pytest.mark.root


@pytest.fixture
def everyone(lab: Lab) -> Iterator[Customers]:
    with customers(lab) as made:
        for login in (ServerLogin.CERTIFICATE, ServerLogin.PASSWORD, ServerLogin.STATIC, ServerLogin.DYNAMIC):
            made.openvpn(login)
        for auth in ("password", "code"):
            made.openconnect(auth)
        made.wireguard()
        made.ipsec()
        made.sshuttle()
        made.command()
        yield made


def test_all_of_them_carry_at_once(lab: Lab, config: Config, everyone: Customers) -> None:
    daemon = lab.daemon(everyone.config(config))
    with daemon:
        daemon.wait_well()
        for customer in everyone.all:
            reply = lab.request(f"http://{customer.web}/")
            assert (customer.name, reply.status) == (customer.name, 200), reply
        assert {
            tunnel["name"]: tunnel["reconnects"] for tunnel in daemon.status()["tunnels"]
        } == dict.fromkeys((customer.name for customer in everyone.all), 0)
        assert _secrets_in_the_open(daemon, everyone) == []
        before = daemon.sessions()
        daemon.kill9()
        daemon.start()
        daemon.wait_well()
        assert daemon.sessions() == before, "a crash ends no session of any kind"
        for customer in everyone.all:
            assert lab.request(f"http://{customer.web}/").status == 200
        assert _secrets_in_the_open(daemon, everyone) == []
    assert daemon.leftovers() == {}


@pytest.fixture
def without_ipv6(lab: Lab) -> Iterator[None]:
    """The facilitator's host has IPv6 switched off, as many have."""
    facilitator = lab.network["facilitator"]
    kept = facilitator.run("ip", "-6", "route", "show", "proto", "boot").stdout.splitlines()
    shown = json.loads(facilitator.run("ip", "-6", "-j", "address", "show", "scope", "global").stdout)
    addresses = [
        (link["ifname"], f"{each['local']}/{each['prefixlen']}")
        for link in shown
        for each in link.get("addr_info", ())
        if "local" in each
    ]
    for name in ("all", "default"):
        facilitator.run("sysctl", "-w", f"net.ipv6.conf.{name}.disable_ipv6=1")
    yield
    for name in ("all", "default"):
        facilitator.run("sysctl", "-w", f"net.ipv6.conf.{name}.disable_ipv6=0")
    for interface, address in addresses:
        facilitator.run("ip", "address", "add", address, "dev", interface, "nodad")
    for route in kept:
        facilitator.run("ip", "-6", "route", "add", *route.split(), check=False)


@pytest.mark.usefixtures("without_ipv6")
def test_all_of_them_carry_ipv4_on_a_host_without_ipv6(lab: Lab, config: Config, everyone: Customers) -> None:
    """Their servers assign and push IPv6 all the same."""
    with lab.daemon(everyone.config(config)) as daemon:
        daemon.wait_well(60)
        for customer in everyone.all:
            reply = lab.request(f"http://{customer.web}/")
            assert (customer.name, reply.status) == (customer.name, 200), reply
        reconnects = {tunnel["name"]: tunnel["reconnects"] for tunnel in daemon.status()["tunnels"]}
        assert reconnects == dict.fromkeys((customer.name for customer in everyone.all), 0)
    assert daemon.leftovers() == {}


def _secrets_in_the_open(daemon: LabDaemon, everyone: Customers) -> list[str]:
    """Where a secret stands: command lines, environments, the daemon's files, its answers."""
    secrets = [secret.encode() for secret in everyone.secrets()]
    places = {path: daemon.get(path)[1].encode() for path in ("/metrics", "/api/v1/status")}
    places |= {str(path): path.read_bytes() for path in daemon.directory.rglob("*") if path.is_file()}
    for process in psutil.Process(daemon.pid).children(recursive=True):
        with contextlib.suppress(OSError):
            for what in ("cmdline", "environ"):
                places[f"{process.pid} {what}"] = Path(f"/proc/{process.pid}/{what}").read_bytes()
    return [place for place, content in places.items() if any(secret in content for secret in secrets)]
