"""The cables and addresses of the lab, and the faults that happen on the way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from tests.netns import Namespace, link

STAFF = IPv4Network("10.8.0.0/16")
LAPTOP = IPv4Address("10.8.0.2")
STAFF6 = IPv6Network("fd00:8::/64")

FACILITATOR_UPLINK = IPv4Address("198.51.100.2")
UPLINK = "uplink"  # the facilitator's device towards the outside: where a leak would be seen

CUSTOMER = IPv4Address("203.0.113.2")  # public address of the customer's OpenVPN servers
DATACENTRE = IPv4Network("10.77.0.0/24")
DATACENTRE_GATEWAY = IPv4Address("10.77.0.1")
DATACENTRE_WEB = IPv4Address("10.77.0.10")
DATACENTRE6 = IPv6Network("fd00:77::/64")

BASTION = IPv4Address("203.0.113.6")  # public address of our own cloud's sshd
CLOUD = IPv4Network("10.90.0.0/16")
BASTION_INSIDE = IPv4Address("10.90.0.1")
CLOUD_WEB = IPv4Address("10.90.0.10")
CLOUD6 = IPv6Network("fd00:90::/64")

PRESENTED = IPv4Network("100.64.0.0/16")  # what staff use where the addresses of two sites are the same

DESTINATIONS = (DATACENTRE, CLOUD, PRESENTED)
DESTINATIONS6 = (DATACENTRE6, CLOUD6)

Cable = tuple[str, str, str, str, str, str]
_CABLES: tuple[Cable, ...] = (
    # end, device, address                          end, device, address
    ("laptop", "lan", f"{LAPTOP}/16", "hub", "lan", "10.8.0.1/16"),
    ("hub", "vpc", "10.60.0.1/30", "facilitator", "vpc", "10.60.0.2/30"),
    ("facilitator", UPLINK, f"{FACILITATOR_UPLINK}/30", "transport", "fac", "198.51.100.1/30"),
    ("transport", "site1", "203.0.113.1/30", "customer", "wan", f"{CUSTOMER}/30"),
    ("transport", "site2", "203.0.113.5/30", "bastion", "wan", f"{BASTION}/30"),
    ("customer", "inside", f"{DATACENTRE_GATEWAY}/24", "datacentre", "lan", f"{DATACENTRE_WEB}/24"),
    ("bastion", "inside", f"{BASTION_INSIDE}/16", "cloud", "lan", f"{CLOUD_WEB}/16"),
)
_ADDRESSES6 = (
    ("laptop", "lan", "fd00:8::2/64"),
    ("hub", "lan", "fd00:8::1/64"),
    ("hub", "vpc", "fd00:60::1/64"),
    ("facilitator", "vpc", "fd00:60::2/64"),
    ("facilitator", UPLINK, "fd00:51::2/64"),
    ("transport", "fac", "fd00:51::1/64"),
    ("customer", "inside", "fd00:77::1/64"),
    ("datacentre", "lan", "fd00:77::10/64"),
    ("bastion", "inside", "fd00:90::1/64"),
    ("cloud", "lan", "fd00:90::10/64"),
)
_ROUTES = (
    ("laptop", "default", "10.8.0.1"),
    ("hub", str(DATACENTRE), "10.60.0.2"),  # the cloud router's part: destinations go to the facilitator
    ("hub", str(CLOUD), "10.60.0.2"),
    ("hub", str(PRESENTED), "10.60.0.2"),
    ("facilitator", str(STAFF), "10.60.0.1"),
    ("facilitator", "default", "198.51.100.1"),
    ("customer", "default", "203.0.113.1"),
    ("bastion", "default", "203.0.113.5"),
    (
        "datacentre",
        "10.78.0.0/15",
        str(DATACENTRE_GATEWAY),
    ),  # only the tunnels' addresses: nobody there knows the staff network
    ("laptop", "::/0", "fd00:8::1"),
    ("hub", str(DATACENTRE6), "fd00:60::2"),
    ("hub", str(CLOUD6), "fd00:60::2"),
    ("facilitator", str(STAFF6), "fd00:60::1"),
    ("facilitator", "::/0", "fd00:51::1"),
    ("datacentre", "fd00:78::/63", "fd00:77::1"),
)
_ROUTERS = ("hub", "facilitator", "transport", "customer")
_DROPS = """
table inet faults {
  set sites { type ipv4_addr; }
  chain forward { type filter hook forward priority 0; ip saddr @sites drop; ip daddr @sites drop; }
}
"""


class LabNetwork:
    """The lab's namespaces, connected. `network["laptop"]` is one of them."""

    cables: tuple[Cable, ...] = _CABLES
    addresses6: tuple[tuple[str, str, str], ...] = _ADDRESSES6
    routes: tuple[tuple[str, str, str], ...] = _ROUTES
    routers: tuple[str, ...] = _ROUTERS

    def __init__(self) -> None:
        self._names: dict[str, Namespace] = {}
        try:
            self._build()
        except BaseException:
            self.remove()
            raise

    def __getitem__(self, name: str) -> Namespace:
        return self._names[name]

    def blackhole(self, site: IPv4Address) -> None:
        """From now on the transport silently drops everything from and to the site."""
        self["transport"].run("nft", f"add element inet faults sites {{ {site} }}")

    def unblock(self, site: IPv4Address) -> None:
        """The path to the site works; also if it did before."""
        element = f"element inet faults sites {{ {site} }}"
        self["transport"].run("nft", f"add {element}; delete {element}")

    @contextlib.contextmanager
    def mute(self, host: str) -> Iterator[None]:
        """The host behind a site answers nothing meanwhile; whoever leads to it goes on."""
        table = "table inet mute"
        self[host].run(
            "nft", f"add {table}; add chain inet mute i {{ type filter hook input priority 0; policy drop; }}"
        )
        try:
            yield
        finally:
            self[host].run("nft", f"delete {table}")

    @contextlib.contextmanager
    def lossy(self, host: str, share: int) -> Iterator[None]:
        """Of the echo requests to the host behind a site one in so many is lost meanwhile."""
        chain = "add table inet lossy; add chain inet lossy i { type filter hook input priority 0; };"
        self[host].run(
            "nft", f"{chain} add rule inet lossy i icmp type echo-request numgen inc mod {share} 0 drop"
        )
        try:
            yield
        finally:
            self[host].run("nft", "delete table inet lossy")

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """The facilitator's uplink has no carrier meanwhile."""
        self["transport"].run("ip", "link", "set", "fac", "down")
        try:
            yield
        finally:
            self["transport"].run("ip", "link", "set", "fac", "up")
            self["transport"].run("ip", "address", "replace", "fd00:51::1/64", "dev", "fac", "nodad")

    def remove(self) -> None:
        """End every process in the namespaces and delete them."""
        for namespace in self._names.values():
            with contextlib.suppress(OSError):
                namespace.remove()
        self._names.clear()

    def _build(self) -> None:
        for end in dict.fromkeys(name for a, _, _, b, _, _ in self.cables for name in (a, b)):
            with _uninterrupted():
                self._names[end] = Namespace(end)
        for a, a_device, a_address, b, b_device, b_address in self.cables:
            link(self[a], a_device, self[b], b_device)
            for end, device, address in ((a, a_device, a_address), (b, b_device, b_address)):
                if address:
                    self[end].run("ip", "address", "add", address, "dev", device)
        for name, device, address in self.addresses6:
            self[name].run("ip", "address", "add", address, "dev", device, "nodad")
        for name, destination, gateway in self.routes:
            self[name].run("ip", "route", "add", destination, "via", gateway)
        for name in self.routers:
            self[name].run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self["transport"].run("nft", "-f", "-", input=_DROPS)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until what was made is also known, so that it can be removed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
