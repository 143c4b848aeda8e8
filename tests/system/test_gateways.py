"""Gateways that have moved, and many of which most are dead: what was learned at the login is dropped when it
is no longer true, and every server gets its turn. Real servers, and a real name server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.lab import CUSTOMER, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.name_server import LabNameServer
from tests.lab.network import BASTION
from tests.lab.ocserv import USER, OcservServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD
from tests.lab.strongswan import GROUP_SECRET, PRESHARED_KEY
from tests.lab.strongswan import USER as IPSEC_USER
from tests.lab.wait import NOISE, eventually
from tests.lab.wireguard import WireGuardServer
from tests.system.ipsec import carries, gateway, tunnel

pytestmark = pytest.mark.root

NAME, HOST = "acme-office", "vpn.acme.example"
MOVED = IPv4Address("203.0.113.34")
DEAD = [IPv4Address(f"203.0.113.{number}") for number in range(40, 47)]  # nobody has them


@pytest.fixture
def resolver(lab: Lab) -> Iterator[LabNameServer]:
    directory = lab.directory / "resolver"
    directory.mkdir(exist_ok=True)
    with LabNameServer(lab.network["facilitator"], directory) as resolver:
        yield resolver


@pytest.fixture
def elsewhere(lab: Lab) -> Iterator[None]:
    """The customer has a second public address, and the path to some others drops everything."""
    customer, transport = lab.network["customer"], lab.network["transport"]
    customer.run("ip", "address", "add", f"{MOVED}/32", "dev", "lo")
    transport.run("ip", "route", "add", "203.0.113.32/27", "via", str(CUSTOMER))
    customer.run("nft", "add table ip dead; add chain ip dead f { type filter hook forward priority 0; }")
    customer.run("nft", "add rule ip dead f ip daddr 203.0.113.32/27 drop")
    yield
    customer.run("nft", "delete table ip dead")
    transport.run("ip", "route", "del", "203.0.113.32/27")
    customer.run("ip", "address", "del", f"{MOVED}/32", "dev", "lo")


def resolving_daemon(lab: Lab, config: Config) -> LabDaemon:
    """One that starts with the resolv.conf of its namespace, and with the usual pauses between attempts."""
    usual = {name: value for name, value in config["defaults"].items() if name != "reconnect"}
    return LabDaemon(lab.network["facilitator"], lab.directory, {**config, "defaults": usual})


def office(lab: Lab, server: OcservServer) -> dict[str, object]:
    lab.set_secret("office-password", f"{PASSWORD}\n")
    login = {"username": USER, "password": {"file": str(lab.directory / "office-password")}}
    return tunnel("openconnect", server=HOST, server_certificate=server.pin, login=login)


def serving(lab: Lab, name: str, address: IPv4Address, like: OcservServer | None = None) -> OcservServer:
    """An ocserv; `like`: with the key of another one."""
    directory = lab.directory / name
    directory.mkdir(exist_ok=True)
    key = {} if like is None else {"server-cert": like.identity.certificate, "server-key": like.identity.key}
    server = OcservServer(lab.network["customer"], directory, Authority(directory), address, **key)
    server.start()
    return server


@pytest.mark.timed
@pytest.mark.usefixtures("elsewhere")
def test_an_openconnect_gateway_that_has_moved_is_found_by_its_name(
    lab: Lab, config: Config, resolver: LabNameServer
) -> None:
    """It was gone for longer than pauses take to grow, and its old address is silent."""
    resolver.set(HOST, CUSTOMER)
    before = serving(lab, "oc-before", CUSTOMER)
    with resolving_daemon(lab, {**config, "tunnels": {NAME: office(lab, before)}}) as daemon:
        carries(lab, daemon, NAME)
        before.kill()
        lab.blackhole(CUSTOMER)
        after = serving(lab, "oc-after", MOVED, before)
        try:
            lab.network["transport"].run("nft", "flush set inet faults sites")
            silent = "add table ip silent; add chain ip silent i { type filter hook input priority 0; };"
            lab.network["customer"].run("nft", f"{silent} add rule ip silent i ip daddr {CUSTOMER} drop")
            daemon.wait_silent(NAME, 60)
            eventually(lambda: daemon.tunnel(NAME)["reconnects"] >= 4, 200, "the pauses have grown")
            resolver.set(HOST, MOVED)
            moved = time.monotonic()
            daemon.wait_for(NAME, 90, phase="up", health="healthy")
            seconds = time.monotonic() - moved
            print(f"back {seconds:.1f} s after the name had changed")
            assert seconds <= 30.0 * NOISE
            assert after.logins == 1
        finally:
            lab.network["customer"].run("nft", "delete table ip silent", check=False)
            after.kill()


@pytest.mark.usefixtures("elsewhere")
def test_one_living_address_of_eight_is_found(lab: Lab, config: Config, resolver: LabNameServer) -> None:
    resolver.set(HOST, *DEAD, MOVED)
    server = serving(lab, "oc-eighth", MOVED)
    try:
        begun = time.monotonic()
        with resolving_daemon(lab, {**config, "tunnels": {NAME: office(lab, server)}}) as daemon:
            daemon.wait_for(NAME, 120, phase="up", health="healthy")
            print(f"healthy after {time.monotonic() - begun:.1f} s")
    finally:
        server.kill()


@pytest.mark.timed
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("named", [False, True], ids=["eight remotes", "eight addresses"])
def test_the_first_servers_of_an_openvpn_profile_may_be_dead(
    lab: Lab, config: Config, resolver: LabNameServer, named: bool
) -> None:
    """They are silent, so each costs its time."""
    resolver.set(HOST, *DEAD, CUSTOMER)
    profile = Path(config["tunnels"]["acme-dc"]["config"]).read_text()
    (last,) = (line for line in profile.splitlines() if line.startswith("remote "))
    _, _, port = last.split()
    dead = "" if named else "".join(f"remote {address} {port}\n" for address in (*DEAD, DEAD[0]))
    remotes = f"remote {HOST} {port}" if named else f"{dead}{last}"
    lab.set_secret("acme-many.ovpn", profile.replace(last, remotes))
    many = {**config["tunnels"]["acme-dc"], "config": str(lab.directory / "acme-many.ovpn")}
    with resolving_daemon(lab, {**config, "tunnels": {"acme-dc": many}}) as daemon:
        begun = time.monotonic()
        daemon.wait_for("acme-dc", 180, phase="up", health="healthy")
        seconds = time.monotonic() - begun
        print(f"healthy after {seconds:.1f} s")
        assert seconds <= 120.0 * NOISE


@pytest.mark.timed
@pytest.mark.usefixtures("elsewhere")
def test_the_first_addresses_of_an_ssh_host_may_be_dead(
    lab: Lab, config: Config, resolver: LabNameServer
) -> None:
    """They are silent, so each costs ssh its ConnectTimeout."""
    resolver.set(HOST, *DEAD, BASTION)
    cloud = config["tunnels"]["own-cloud"]
    known = Path(cloud["known_hosts"]).read_text().replace(str(BASTION), HOST)
    lab.set_secret("many-known-hosts", known)
    remote = cloud["remote"].replace(str(BASTION), HOST)
    many = {**cloud, "remote": remote, "known_hosts": str(lab.directory / "many-known-hosts")}
    with resolving_daemon(lab, {**config, "tunnels": {"own-cloud": many}}) as daemon:
        begun = time.monotonic()
        daemon.wait_for("own-cloud", 180, phase="up", health="healthy")
        seconds = time.monotonic() - begun
        print(f"healthy after {seconds:.1f} s")
        assert seconds <= 120.0 * NOISE


def healthy_in_time(daemon: LabDaemon, name: str) -> None:
    begun = time.monotonic()
    daemon.wait_for(name, 180, phase="up", health="healthy")
    seconds = time.monotonic() - begun
    print(f"healthy after {seconds:.1f} s")
    assert seconds <= 120.0 * NOISE
    assert daemon.tunnel(name)["session"]["peer"] == str(CUSTOMER)


@pytest.mark.timed
@pytest.mark.usefixtures("elsewhere")
def test_the_first_addresses_of_a_vpnc_gateway_may_be_dead(
    lab: Lab, config: Config, resolver: LabNameServer
) -> None:
    """They are silent, and vpnc would wait 15 s for each."""
    resolver.set(HOST, *DEAD, CUSTOMER)
    with gateway(lab) as server:
        secrets = {
            "many.vpnc": server.vpnc_config().replace(str(CUSTOMER), HOST),
            "many-group": f"{GROUP_SECRET}\n",
            "many-xauth": f"{PASSWORD}\n",
        }
        for name, text in secrets.items():
            lab.set_secret(name, text)
        many = tunnel(
            "vpnc",
            config=str(lab.directory / "many.vpnc"),
            group_secret={"file": str(lab.directory / "many-group")},
            login={"username": IPSEC_USER, "password": {"file": str(lab.directory / "many-xauth")}},
        )
        with resolving_daemon(lab, {**config, "tunnels": {NAME: many}}) as daemon:
            healthy_in_time(daemon, NAME)
        assert server.attempts == ["accepted"]


@pytest.mark.timed
@pytest.mark.usefixtures("elsewhere")
def test_the_first_addresses_of_a_strongswan_gateway_may_be_dead(
    lab: Lab, config: Config, resolver: LabNameServer
) -> None:
    """They are silent, and charon would wait 11 s for each."""
    resolver.set(HOST, *DEAD, CUSTOMER)
    with gateway(lab) as server:
        lab.set_secret("many-swanctl.conf", server.swanctl_config("psk").replace(str(CUSTOMER), HOST))
        lab.set_secret("many-psk", f"{PRESHARED_KEY}\n")
        psk = {"file": str(lab.directory / "many-psk")}
        many = tunnel("strongswan", config=str(lab.directory / "many-swanctl.conf"), psk=psk)
        with resolving_daemon(lab, {**config, "tunnels": {NAME: many}}) as daemon:
            healthy_in_time(daemon, NAME)


@pytest.mark.timed
@pytest.mark.usefixtures("elsewhere")
def test_the_first_addresses_of_a_wireguard_endpoint_may_be_dead(
    lab: Lab, config: Config, resolver: LabNameServer
) -> None:
    """They are silent, as is one that does not know our key: nothing but a handshake tells."""
    resolver.set(HOST, *DEAD, CUSTOMER)
    server = WireGuardServer(lab.network["customer"], lab.directory)
    server.start()
    try:
        lab.set_secret("many.conf", server.client_config(HOST))
        # sockets of wireguard-go lie in one directory, whatever the network namespace
        many = tunnel("wireguard", config=str(lab.directory / "many.conf"), device=f"t-{os.getpid()}")
        with resolving_daemon(lab, {**config, "tunnels": {NAME: many}}) as daemon:
            healthy_in_time(daemon, NAME)
    finally:
        server.stop()


def test_a_gateway_inside_of_a_destination_is_named(lab: Lab, config: Config) -> None:
    """Nothing leaves for it but through the very tunnel: by `check`, in `status` and by `why`."""
    inside = {**config["tunnels"]["acme-dc"]}
    inside["destinations"] = [*inside["destinations"], "203.0.113.0/30"]
    with lab.daemon({**config, "tunnels": {"acme-dc": inside}}) as daemon:
        text = f"{CUSTOMER} lies inside 203.0.113.0/30, a destination of acme-dc"
        assert text in daemon.cli("check").stderr
        eventually(lambda: text in str(daemon.status()["conditions"]), 30, "a condition says so")
        answer = daemon.cli("why", "10.77.0.10")
        assert text in answer.stdout
