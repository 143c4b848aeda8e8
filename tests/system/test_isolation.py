"""A customer that means harm hurts nobody else: not with the addresses it assigns, nor with the packets it
sends.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.lab import Lab, hostile, packets
from tests.lab import network as net
from tests.lab.config import Config
from tests.lab.customers import Customers, customers
from tests.lab.daemon import LabDaemon
from tests.lab.hostile import HostileCustomer
from tests.lab.strongswan import StrongSwanServer
from tests.lab.wait import eventually
from tests.lab.wireguard import WireGuardServer
from tests.netns import Namespace

pytestmark = pytest.mark.root
COUNT = 100
LAPTOP, SITE, TUNNEL = str(net.LAPTOP), str(net.DATACENTRE_WEB), "10.78.0.2"
OTHER, COLLEAGUE = "10.8.0.65", "10.8.0.66"  # more addresses of staff
HOST = str(net.FACILITATOR_UPLINK)


@pytest.fixture(scope="module")
def evil(lab: Lab) -> Iterator[HostileCustomer]:
    customer = HostileCustomer(lab)
    for destination in hostile.DESTINATIONS:
        gateway = "10.60.0.2" if "." in destination else "fd00:60::2"
        lab.network["hub"].run("ip", "route", "add", destination, "via", gateway)
    try:
        yield customer
    finally:
        customer.close()
        for destination in hostile.DESTINATIONS:
            lab.network["hub"].run("ip", "route", "del", destination)


@pytest.fixture
def daemon(lab: Lab, config: Config, evil: HostileCustomer) -> Iterator[LabDaemon]:
    """Both good tunnels and the hostile one, all well."""
    evil.assign()
    config["staff"]["networks"].append(str(net.STAFF6))
    config["tunnels"]["acme-dc"]["destinations"].append(str(net.DATACENTRE6))
    config["tunnels"]["evil"] = evil.tunnel()
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()
        yield daemon
    assert daemon.leftovers() == {}


def interface_addresses(facilitator: Namespace) -> dict[str, list[str]]:
    """Of the tunnels' interfaces, without link-local ones."""
    links = json.loads(facilitator.run("ip", "-j", "address").stdout)
    return {
        link["ifname"]: [each["local"] for each in link["addr_info"] if each["scope"] != "link"]
        for link in links
        if link["ifname"].startswith("t-")
    }


def main_routes(facilitator: Namespace) -> list[str]:
    """Of the main table, into tunnels; but for the kernel's own ones of link-local addresses."""
    text = "".join(
        facilitator.run("ip", version, "route", "show", "table", "main").stdout for version in ("-4", "-6")
    )
    return [line for line in text.splitlines() if " dev t-" in line and not line.startswith("fe80::")]


PUSHED = (
    "ifconfig-push 10.8.0.99 255.255.255.0",  # a network inside staff: more specific than the route to staff
    "ifconfig-push 10.8.0.2 255.255.255.255",  # a laptop
    "ifconfig-push 10.8.0.1 255.255.0.0",  # all of staff
    "ifconfig-push 203.0.113.2 255.255.255.255",  # another remote gateway
    "ifconfig-push 203.0.113.77 255.255.255.0",  # the network of two of them
    "ifconfig-push 203.0.113.5 255.255.255.252",  # the network of a resolver
    "ifconfig-push 198.51.100.1 255.255.255.252",  # this host's next hop
    "ifconfig-push 198.51.100.2 255.255.255.252",  # this host
    "ifconfig-push 10.77.0.10 255.255.255.0",  # an address behind another tunnel
    "ifconfig-push 10.78.0.2 255.255.255.0",  # the address of another tunnel
    "ifconfig-push 128.0.0.9 128.0.0.0",  # half of the Internet
    "ifconfig-ipv6-push fd00:8::99/64",
    "ifconfig-ipv6-push fd00:8::2/124",
    "ifconfig-ipv6-push fd00:77::10/64",
    "ifconfig-ipv6-push fd00:51::1/64",
)


def test_whatever_address_it_assigns(lab: Lab, daemon: LabDaemon, evil: HostileCustomer) -> None:
    facilitator, mine = lab.network["facilitator"], [ip_network(each) for each in hostile.DESTINATIONS]
    with lab.poller(net.DATACENTRE_WEB, 2.0) as one, lab.poller(net.CLOUD_WEB, 2.0) as other:
        for poller in (one, other):
            poller.wait_settled(20)
        start = time.monotonic()
        for pushed in PUSHED:
            evil.assign(pushed)
            before = daemon.tunnel("evil")["session"]["id"]
            with evil.received() as received:
                assert daemon.cli("restart", "evil").returncode == 0
                tunnel = eventually(lambda: _again(daemon, before), 20, f"it is up again with {pushed}")  # noqa: B023
                assert lab.request(f"http://{hostile.SITE}/").body.startswith("evil sees "), (
                    pushed
                )  # a colliding customer simply works
                if "ipv6" in pushed:
                    assert lab.request(f"http://[{hostile.SITE6}]/").status == 200, pushed
                    assert lab.request("http://[fd00:77::10]/").status == 200, pushed
            assert tunnel["session"]["address"] in pushed or "ipv6" in pushed
            assert interface_addresses(facilitator) == {"t-acme-dc": [], "t-evil": []}, pushed
            assert main_routes(facilitator) == [], pushed
            leaked = [
                packet for packet in received if not any(packet.destination in network for network in mine)
            ]
            assert leaked == [], pushed
            assert not daemon.status()["conditions"]
            assert daemon.cli("why", SITE, "--from", LAPTOP).returncode == 0, pushed
        for poller in (one, other):
            assert poller.outage(start).failed == 0


def _again(daemon: LabDaemon, before: str) -> dict[str, object] | None:
    tunnel = daemon.tunnel("evil")
    well = tunnel["phase"] == "up" and tunnel["health"] == "healthy" and tunnel["session"]["id"] != before
    return tunnel if well else None


def test_the_same_with_other_clients(lab: Lab, config: Config) -> None:
    """Of those that leave the address to source NAT even a colliding one works; for those that do not the
    session ends.
    """
    facilitator, customer = lab.network["facilitator"], lab.network["customer"]
    lab.network["datacentre"].run("ip", "route", "add", str(net.STAFF), "via", str(net.DATACENTRE_GATEWAY))
    with customers(lab) as others:
        others.openconnect(**{"ipv4-network": "10.8.0.0/30"})
        others.wireguard()
        others.ipsec()
        others.command()
        (others.directory / "command-clients" / "DEFAULT").write_text(
            f"ifconfig-push {COLLEAGUE} 255.255.255.0\n"
        )
        _collide_wireguard(others, customer)
        gateway = others.named("strongswan").server
        assert isinstance(gateway, StrongSwanServer)
        gateway.assign(f"{COLLEAGUE}/32")
        working, conflicting = {"openconnect-password": LAPTOP, "wireguard": OTHER}, ("strongswan", "command")
        config["tunnels"] |= {name: others.named(name).settings for name in working}
        with (
            lab.daemon(config) as daemon,
            lab.poller(net.DATACENTRE_WEB, 2.0) as one,
            lab.poller(net.CLOUD_WEB, 2.0) as other,
        ):
            daemon.wait_well()
            for poller in (one, other):
                poller.wait_settled(20)
            start = time.monotonic()
            for name, address in working.items():
                assert daemon.tunnel(name)["session"]["address"] == address
                assert lab.request(f"http://{others.named(name).web}/").body == f"datacentre sees {address}"
            config["tunnels"] |= {name: others.named(name).settings for name in conflicting}
            daemon.configure(config)
            assert daemon.cli("reload").returncode == 0
            for name in conflicting:
                tunnel = daemon.wait_for(name, 20.0, phase="backoff", reason="address-conflict")
                words = f"the remote gateway assigned {COLLEAGUE}, which is in staff.networks ({net.STAFF})"
                assert tunnel["last_error"] == f"address-conflict: {words}"
            assert not any(interface_addresses(facilitator).values())
            assert main_routes(facilitator) == []
            for poller in (one, other):
                assert poller.outage(start).failed == 0
        assert daemon.leftovers() == {}
    lab.network["datacentre"].run("ip", "route", "del", str(net.STAFF))


def _collide_wireguard(others: Customers, customer: Namespace) -> None:
    wireguard, server = others.named("wireguard"), others.named("wireguard").server
    assert isinstance(server, WireGuardServer)
    profile = Path(wireguard.settings["config"])
    profile.write_text(
        re.sub(r"^Address = .*$", f"Address = {OTHER}/24", profile.read_text(), flags=re.MULTILINE)
    )
    server.let_in(addresses=(OTHER,))
    customer.run("ip", "route", "add", f"{OTHER}/32", "dev", server.device)


# --- packets
# ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def heard(
    namespace: Namespace, kind: int = socket.SOCK_RAW, protocol: int = socket.IPPROTO_UDP, port: int = 0
) -> Iterator[socket.socket]:
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, kind, protocol)
    with sock:
        if kind != socket.SOCK_RAW:
            sock.bind(("", port))
        sock.settimeout(5)
        yield sock


def arrived(sock: socket.socket, word: bytes, last: bytes) -> int:
    """How many packets with this word came before the last one that is sent."""
    count = 0
    while True:
        data = sock.recv(65536)
        if last in data:
            return count
        count += word in data


@pytest.fixture
def flow(lab: Lab, daemon: LabDaemon) -> Iterator[socket.socket]:
    """A datagram flow of the laptop through the tunnel of another customer."""
    with heard(lab.network["laptop"], socket.SOCK_DGRAM, 0, 40001) as sock:
        sock.connect((SITE, 7))
        sock.send(b"hello")
        assert b"hello" in sock.recv(100)
        yield sock


def test_forged_answers_to_a_flow_of_another_tunnel(
    lab: Lab, evil: HostileCustomer, flow: socket.socket
) -> None:
    forged = packets.udp(SITE, 7, TUNNEL, 40001, b"FORGED BAD")
    right = packets.udp(SITE, 7, TUNNEL, 40001, b"FORGED OWN")
    evil.inject([forged] * COUNT)
    hostile.inject(lab.network["customer"], "tun-1194", [right] * COUNT)
    flow.send(b"the last one")
    bad = own = 0
    while b"the last one" not in (data := flow.recv(100)):
        bad, own = bad + (b"BAD" in data), own + (b"OWN" in data)
    assert (bad, own) == (0, COUNT)


def test_forged_requests_in_the_name_of_staff(lab: Lab, evil: HostileCustomer, flow: socket.socket) -> None:
    with heard(lab.network["datacentre"]) as site:
        evil.inject([packets.udp(LAPTOP, 40001, SITE, 7, b"FORGED BAD")] * COUNT)
        for _ in range(COUNT):
            flow.send(b"FORGED OWN")
        flow.send(b"the last one")
        bad = own = 0
        while b"the last one" not in (data := site.recv(65536)):
            bad, own = bad + (b"BAD" in data), own + (b"OWN" in data)
    assert (bad, own) == (0, COUNT)


def test_a_forged_message_about_the_path(lab: Lab, evil: HostileCustomer, flow: socket.socket) -> None:
    about = packets.udp(TUNNEL, 40001, SITE, 7, b"x" * 40)
    laptop = lab.network["laptop"]
    before = hostile.counter(laptop, "IcmpInDestUnreachs")
    evil.inject([packets.too_big(SITE, TUNNEL, about, 600)] * COUNT)
    flow.send(b"after")
    assert b"after" in flow.recv(100)  # what was sent before has had its time on the same way
    assert hostile.counter(laptop, "IcmpInDestUnreachs") == before
    assert "mtu" not in laptop.run("ip", "route", "get", SITE).stdout
    hostile.inject(lab.network["customer"], "tun-1194", [packets.too_big(SITE, TUNNEL, about, 600)] * COUNT)
    eventually(
        lambda: hostile.counter(laptop, "IcmpInDestUnreachs") == before + COUNT,
        5,
        "the right tunnel may say so",
    )
    laptop.run("ip", "route", "flush", "cache")


def test_forged_answers_to_a_flow_of_the_host_itself(
    lab: Lab, evil: HostileCustomer, daemon: LabDaemon
) -> None:
    resolver = str(net.BASTION)
    with heard(lab.network["facilitator"], socket.SOCK_DGRAM, 0, 40053) as host:
        host.connect((resolver, 53))
        host.send(b"QUERY")
        with contextlib.suppress(
            ConnectionRefusedError
        ):  # nobody serves there; the flow is known all the same
            host.send(b"QUERY")
        evil.inject([packets.udp(resolver, 53, HOST, 40053, b"FORGED BAD")] * COUNT)
        with heard(lab.network["bastion"], socket.SOCK_DGRAM, 0, 53) as server:
            with contextlib.suppress(ConnectionRefusedError):
                host.send(b"QUERY")
            host.send(b"QUERY")
            _, asker = server.recvfrom(100)
            for _ in range(COUNT):
                server.sendto(b"FORGED OWN", asker)
            server.sendto(b"the last one", asker)
            assert arrived(host, b"FORGED OWN", b"the last one") == COUNT
            evil.inject([packets.udp(resolver, 53, HOST, 40053, b"FORGED BAD")] * COUNT)
            server.sendto(b"the last one", asker)
            assert arrived(host, b"BAD", b"the last one") == 0


def test_new_packets_of_any_kind(lab: Lab, evil: HostileCustomer, daemon: LabDaemon) -> None:
    """To the host, to staff, to other customers: whatever sender they name."""
    facilitator = lab.network["facilitator"]
    with (
        heard(facilitator, socket.SOCK_DGRAM, 0, 5353) as host,
        heard(lab.network["laptop"], socket.SOCK_DGRAM, 0, 5353) as laptop,
    ):
        evil.inject(
            packets.udp(source, 1000, destination, 5353, b"FORGED")
            for source in (LAPTOP, str(hostile.SITE), "127.0.0.1", "10.60.0.1", SITE)
            for destination in ("10.60.0.2", HOST, LAPTOP, "10.79.19.2")
            for _ in range(COUNT)
        )
        for namespace, sock, address in (
            (lab.network["hub"], host, "10.60.0.2"),
            (lab.network["hub"], laptop, LAPTOP),
        ):
            with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"the last one", (address, 5353))
            assert arrived(sock, b"FORGED", b"the last one") == 0


def test_redirects(lab: Lab, evil: HostileCustomer, daemon: LabDaemon) -> None:
    facilitator = lab.network["facilitator"]
    about = packets.udp(HOST, 40053, str(net.BASTION), 53, b"QUERY")
    before = hostile.counter(facilitator, "IcmpInRedirects")
    evil.inject([packets.redirect("10.79.19.1", HOST, "10.79.19.1", about)] * COUNT)
    lab.request(f"http://{hostile.SITE}/")  # it has had its time on the same way
    assert hostile.counter(facilitator, "IcmpInRedirects") == before
    control = [packets.redirect("198.51.100.1", HOST, "198.51.100.1", about)] * COUNT
    hostile.inject(lab.network["transport"], "fac", control, hostile.link_layer(facilitator, net.UPLINK))
    eventually(
        lambda: hostile.counter(facilitator, "IcmpInRedirects") == before + COUNT,
        5,
        "the counter sees those of the uplink",
    )


@pytest.fixture
def host_without_ipv6_forwarding(lab: Lab) -> Iterator[Namespace]:
    facilitator = lab.network["facilitator"]
    facilitator.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    yield facilitator
    facilitator.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")


def test_router_advertisements(
    host_without_ipv6_forwarding: Namespace, lab: Lab, config: Config, evil: HostileCustomer
) -> None:
    """Taken only where IPv6 is not forwarded, which is every host with IPv4 tunnels alone."""
    facilitator = host_without_ipv6_forwarding
    config["tunnels"] = {"evil": {**evil.tunnel(), "destinations": hostile.DESTINATIONS[:1]}}
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        assert facilitator.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").stdout.strip() == "0"
        evil.inject([packets.router_advertisement("fe80::1", "2001:db8:66::")] * COUNT)
        lab.request(f"http://{hostile.SITE}/")
        assert "proto ra" not in facilitator.run("ip", "-6", "route").stdout
        assert "2001:db8:66:" not in facilitator.run("ip", "-6", "address").stdout
        facilitator.run("sysctl", "-qw", "net.ipv6.conf.uplink.accept_ra=1")
        try:
            own = (
                lab.network["transport"]
                .run("ip", "-6", "-br", "address", "show", "dev", "fac")
                .stdout.split()
            )
            sender = next(text.partition("/")[0] for text in own if text.startswith("fe80:"))
            control = [packets.router_advertisement(sender, "2001:db8:67::")]
            hostile.inject(
                lab.network["transport"], "fac", control, "33:33:00:00:00:01"
            )  # RFC 2464: the address of all nodes
            eventually(
                lambda: "2001:db8:67:" in facilitator.run("ip", "-6", "address").stdout,
                10,
                "the kernel takes those of the uplink",
            )
        finally:
            facilitator.run("sysctl", "-qw", "net.ipv6.conf.uplink.accept_ra=0")
            facilitator.run("ip", "-6", "route", "del", "default", "proto", "ra", check=False)
            for line in facilitator.run(
                "ip", "-6", "-o", "address", "show", "dev", "uplink"
            ).stdout.splitlines():
                if "2001:db8:67:" in line:
                    facilitator.run("ip", "address", "del", line.split()[3], "dev", "uplink")


# --- ways around staff.networks
# ------------------------------------------------------------------------------------------------


def test_a_local_user_cannot_use_a_tunnel_by_its_interface(lab: Lab, daemon: LabDaemon) -> None:
    """SO_BINDTODEVICE needs no right (since Linux 5.7)."""
    facilitator = lab.network["facilitator"]
    for target in (SITE, "10.78.0.1", "10.99.9.9"):
        argv = (
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        )
        done = facilitator.run(
            *argv, "curl", "-s", "-m", "1", "--interface", "t-acme-dc", f"http://{target}/", check=False
        )
        assert done.returncode == 28, (target, done)  # timed out: not even a refusal came back


@pytest.mark.parametrize("rp_filter", ["0", "2"])
def test_nobody_on_the_side_of_the_uplink_is_staff(lab: Lab, daemon: LabDaemon, rp_filter: str) -> None:
    facilitator, transport = lab.network["facilitator"], lab.network["transport"]
    facilitator.run("sysctl", "-qw", f"net.ipv4.conf.{net.UPLINK}.rp_filter={rp_filter}")
    transport.run("ip", "route", "add", f"{SITE}/32", "via", HOST)
    try:
        with (
            heard(lab.network["datacentre"]) as site,
            heard(lab.network["laptop"], socket.SOCK_DGRAM, 0, 40002) as laptop,
        ):
            forged = [packets.udp(LAPTOP, 40003, SITE, 7, b"FORGED BAD")] * COUNT
            hostile.inject(transport, "fac", forged, hostile.link_layer(facilitator, net.UPLINK))
            laptop.connect((SITE, 7))
            laptop.send(b"the last one")
            assert arrived(site, b"FORGED BAD", b"the last one") == 0
        assert "packets of staff came in by another interface" in daemon.cli("why", SITE).stdout
    finally:
        transport.run("ip", "route", "del", f"{SITE}/32")
        facilitator.run("sysctl", "-qw", f"net.ipv4.conf.{net.UPLINK}.rp_filter=0")


def test_nobody_routes_into_a_tunnels_own_network(lab: Lab, daemon: LabDaemon, evil: HostileCustomer) -> None:
    hub = lab.network["hub"]
    hub.run("ip", "route", "add", "10.79.19.0/24", "via", "10.60.0.2")
    try:
        with evil.received() as received:
            for source in ("10.60.0.1", "10.8.0.1"):
                hub.run("ping", "-c", "3", "-i", "0.2", "-W", "0.2", "-I", source, "10.79.19.1", check=False)
        assert [packet for packet in received if packet.destination == ip_address("10.79.19.1")] == []
    finally:
        hub.run("ip", "route", "del", "10.79.19.0/24")
