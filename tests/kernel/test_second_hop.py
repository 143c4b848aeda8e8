"""Connections that another member knows go on through it: two members' kernels, real packets.

    staff 10.8.0.5 --- router 172.31.0.1 -+- a 172.31.0.2 --(t-acme)--- site 10.77.0.10, fd00:77::10
                                          +- b 172.31.0.3 --(t-acme)---

The route of a destination is the router's. The test's own thread is in the namespace of b, which has the
destination after the move. The site's firewall drops what belongs to no connection, as those of customers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest

from common.netlink import NetlinkSocket
from common.rtnetlink import link_query, read_link
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.network.second_hop import OtherMember, handed_over, interface_name, member_lanes
from supervisor.kernel.conntrack.dump import conntrack_socket
from supervisor.kernel.conntrack.flow_moves import ALL_LANES, end
from supervisor.kernel.maintenance import cleanup, remove_devices
from supervisor.kernel.network import KernelNetwork
from tests.kernel.lab import (
    ACME,
    DEADLINE,
    OWN,
    KernelUnderTest,
    answer_for,
    kernel,
    listener,
    made_in,
    until,
)
from tests.netns import Namespace, link

pytestmark = pytest.mark.root
SITE, SITE6, PROXIED, PROXIED6 = "10.77.0.10", "fd00:77::10", "10.90.0.10", "fd00:90::10"
PORT, PROXY_PORT, VXLAN_PORT = 80, 17300, 4790
STAFF = (ip_network("10.8.0.0/24"), ip_network("fd00:8::/64"))
NETWORKS = tuple(map(ip_network, ("10.77.0.0/24", "fd00:77::/64")))
PROXIED_NETWORKS = tuple(map(ip_network, ("10.90.0.0/16", "fd00:90::/64")))
MEMBERS = {"a": ("172.31.0.2", "fd00:31::2"), "b": ("172.31.0.3", "fd00:31::3")}
ASSIGNED = {"a": ("10.78.1.2", "fd00:78:1::2"), "b": ("10.78.2.2", "fd00:78:2::2")}


def plan(name: str, *, via: str, alive: bool = True, version: int = 4) -> NetworkPlan:
    """What this member's kernel should hold; `version`: of the members' addresses."""
    (other,) = MEMBERS.keys() - {name}
    address = ip_address(MEMBERS[other][version == 6])
    member = OtherMember(other, address, None, VXLAN_PORT if via == "vxlan" else 0)
    lanes = member_lanes((member,), frozenset({other}) if alive else frozenset())
    carries = (
        *(Carry(network, ACME, network) for network in NETWORKS),
        *(Carry(network, OWN, network) for network in PROXIED_NETWORKS),
    )
    return NetworkPlan(
        staff=STAFF,
        lanes=(
            Lane("acme", ACME, "t-acme", True, addresses=tuple(map(ip_address, ASSIGNED[name]))),
            Lane("own", OWN, None, True, PROXY_PORT, share=480),
        ),
        carries=carries,
        members=lanes,
        handed_over=handed_over(lanes, carries, {}),
    )


@dataclass
class Fleet:
    """The namespaces of two members and of what is around them."""

    staff: Namespace
    router: Namespace
    a: Namespace
    b: Namespace
    site: Namespace

    def lead_to(self, name: str) -> None:
        """The router sends the destinations to this member from now on."""
        for networks, address in zip(((4, 0), (6, 1)), MEMBERS[name], strict=True):
            version, _ = networks
            for network in (*NETWORKS, *PROXIED_NETWORKS):
                if network.version == version:
                    self.router.run("ip", f"-{version}", "route", "replace", str(network), "via", address)


FIREWALL = """
table inet firewall {
  chain forward {
    type filter hook prerouting priority filter;
    ct state new tcp flags & (fin|syn|rst|ack) != syn drop;
    ct state invalid drop;
  }
}
"""


@pytest.fixture
def fleet(netns: Namespace) -> Iterator[Fleet]:
    made = Fleet(Namespace("staff"), Namespace("router"), Namespace("a"), netns, Namespace("site"))
    others = (made.staff, made.router, made.a, made.site)
    try:
        for namespace in (*others, netns):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        _around(made)
        for name in MEMBERS:
            _member(made, name, made.a if name == "a" else made.b)
        made.site.run("nft", "-f", "-", input=FIREWALL)
        made.lead_to("a")
        yield made
    finally:
        for namespace in others:
            namespace.remove()


def _around(made: Fleet) -> None:
    """Staff, the router and the subnet of the members."""
    made.router.run("ip", "link", "add", "members", "up", "type", "bridge")
    link(made.router, "s1", made.staff, "s0")
    ip(made.router, "addr add 172.31.0.1/24 dev members", "addr add fd00:31::1/64 dev members nodad")
    ip(made.router, "addr add 10.8.0.1/24 dev s1", "addr add fd00:8::1/64 dev s1 nodad")
    ip(made.staff, "addr add 10.8.0.5/24 dev s0", "addr add fd00:8::5/64 dev s0 nodad")
    ip(made.staff, "route add default via 10.8.0.1", "route add ::/0 via fd00:8::1 dev s0")
    for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
        made.router.run("sysctl", "-qw", setting)
    ip(made.site, f"addr add {SITE}/32 dev lo", f"addr add {SITE6}/128 dev lo nodad")


def _member(made: Fleet, name: str, here: Namespace) -> None:
    """One of them: an interface to the router, and a tunnel to the site."""
    (address, address6), (tunnel, tunnel6), its = MEMBERS[name], ASSIGNED[name], f"acme-{name}"
    link(here, "u0", made.router, f"to-{name}")
    made.router.run("ip", "link", "set", f"to-{name}", "master", "members")
    here.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")  # as on a careful host
    ip(here, f"addr add {address}/24 dev u0", f"addr add {address6}/64 dev u0 nodad")
    ip(here, "route add 10.8.0.0/24 via 172.31.0.1", "route add fd00:8::/64 via fd00:31::1 dev u0")
    link(here, "t-acme", made.site, its)
    answer_for(here, "t-acme", made.site, its, tunnel, tunnel6)
    ip(made.site, f"route add {tunnel}/32 dev {its}", f"route add {tunnel6}/128 dev {its}")
    # A tunnel has no link layer; a cable has one.
    site = made.site.run("cat", f"/sys/class/net/{its}/address").stdout.strip()
    ip(here, *(f"neigh add {each} lladdr {site} dev t-acme nud permanent" for each in (SITE, SITE6)))


def ip(namespace: Namespace, *lines: str) -> None:
    namespace.run("ip", "-batch", "-", input="".join(f"{line}\n" for line in lines))


@contextlib.asynccontextmanager
async def kernels(fleet: Fleet, **how: str | int) -> AsyncIterator[KernelUnderTest]:
    """Both kernels hold their plans. That of a stands still, as after a crash of its daemon."""
    with fleet.a.entered():
        network = KernelNetwork(lambda event: None, lambda text, details: None)
        await network.start(plan("a", **how))  # type: ignore[arg-type]
        await network.close(keep=True)
    async with kernel(plan("b", **how)) as held:  # type: ignore[arg-type]
        await held.in_place()
        yield held


class Stream:
    """A TCP connection from staff that sends messages and gets them back."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._sock, self._count = sock, 0
        self.peer = peer  # the address that the server saw

    @classmethod
    async def opened(cls, fleet: Fleet, address: str, port: int = PORT) -> Stream:
        """To this address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = made_in(fleet.staff, lambda: socket.socket(family))
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return cls(sock, await _line(sock))

    async def talk(self) -> float:
        """Send a message and get it back; how long that took in seconds."""
        loop = asyncio.get_running_loop()
        started, self._count = loop.time(), self._count + 1
        async with asyncio.timeout(DEADLINE):
            await loop.sock_sendall(self._sock, f"{self._count}\n".encode())
            assert await _line(self._sock) == str(self._count)
        return loop.time() - started

    def close(self) -> None:
        """Close it."""
        self._sock.close()


async def _line(sock: socket.socket) -> str:
    text = b""
    while not text.endswith(b"\n"):
        if not (part := await asyncio.get_running_loop().sock_recv(sock, 100)):
            raise ConnectionResetError("closed")
        text += part
    return text.decode().strip()


@contextlib.asynccontextmanager
async def servers(fleet: Fleet) -> AsyncIterator[None]:
    """At the site, and where the members' proxies would be."""
    with contextlib.ExitStack() as running:
        for namespace, port in ((fleet.site, PORT), (fleet.a, PROXY_PORT), (fleet.b, PROXY_PORT)):
            for family in (socket.AF_INET, socket.AF_INET6):
                sock = made_in(namespace, lambda p=port, f=family: listener(p, f))  # type: ignore[misc]
                running.callback((await asyncio.start_server(_echo, sock=sock)).close)
        yield


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(f"{writer.get_extra_info('peername')[0]}\n".encode())
        while line := await reader.readline():
            writer.write(line)
    writer.close()


@contextlib.asynccontextmanager
async def streams(fleet: Fleet, addresses: tuple[str, ...], each: int = 3) -> AsyncIterator[list[Stream]]:
    """Streams that have talked."""
    made = [await Stream.opened(fleet, address) for address in addresses for _ in range(each)]
    for stream in made:
        await stream.talk()
    yield made
    for stream in made:
        stream.close()


def counted(namespace: Namespace, *words: str) -> int:
    """Packets that the rule with these words has counted."""
    lines = namespace.run("nft", "list", "table", "inet", "facilitator").stdout.splitlines()
    found = [line.split() for line in lines if all(word in line for word in words)]
    return sum(int(line[line.index("packets") + 1]) for line in found)


EVERYWHERE = (SITE, SITE6, PROXIED, PROXIED6)


@pytest.mark.parametrize("version", [4, 6])
async def test_streams_go_on_through_the_member_that_knows_them(fleet: Fleet, version: int) -> None:
    async with (
        servers(fleet),
        kernels(fleet, via="vxlan", version=version),
        streams(fleet, EVERYWHERE) as running,
    ):
        assert [stream.peer for stream in running[:3]] == ["10.78.1.2"] * 3
        fleet.lead_to("b")
        for stream in running:
            await stream.talk()
        new = await Stream.opened(fleet, SITE)
        assert new.peer == ASSIGNED["b"][0], "what is new takes the new way"
        fleet.lead_to("a")
        for stream in running:
            await stream.talk()
        await new.talk()  # now a hands over to b
        new.close()


async def test_on_a_shared_subnet_no_tunnel_is_needed(fleet: Fleet) -> None:
    async with servers(fleet), kernels(fleet, via="direct"), streams(fleet, (SITE, PROXIED)) as running:
        fleet.lead_to("b")
        for stream in running:
            await stream.talk()


@pytest.mark.parametrize("via", ["vxlan", "direct"])
async def test_what_neither_knows_is_reset_and_goes_no_further(fleet: Fleet, via: str) -> None:
    async with servers(fleet), kernels(fleet, via=via), streams(fleet, (SITE, PROXIED), 1) as running:
        fleet.lead_to("b")
        with fleet.a.entered(), conntrack_socket() as netlink:
            end(netlink, ALL_LANES, flagged=True)
        for stream in running:
            with pytest.raises(ConnectionError):
                await stream.talk()
        assert counted(fleet.a, "ip saddr @staff4 counter", "tcp reset") >= 2
        assert counted(fleet.b, "ip saddr @staff4 counter", "tcp reset") == 0, "it never comes back"


async def test_of_a_member_that_is_gone_nothing_hangs(fleet: Fleet) -> None:
    async with servers(fleet), kernels(fleet, via="vxlan") as held, streams(fleet, EVERYWHERE) as running:
        fleet.lead_to("b")
        for stream in running[::3]:
            await stream.talk()  # so b has entries of these, and none of the others
        await held.holds(plan("b", via="vxlan", alive=False))
        for stream in running:
            with pytest.raises(ConnectionError):
                await stream.talk()
        (await Stream.opened(fleet, SITE)).close()


async def test_a_stream_waits_while_the_members_tunnel_is_away(fleet: Fleet) -> None:
    async with servers(fleet), kernels(fleet, via="vxlan"), streams(fleet, (SITE,), 1) as running:
        fleet.lead_to("b")
        fleet.a.run("ip", "route", "del", "default", "dev", "t-acme", "table", str(ACME), "proto", "173")
        fleet.a.run("ip", "route", "replace", "blackhole", "default", "table", str(ACME), "metric", "99")
        waiting = asyncio.create_task(running[0].talk())
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        fleet.a.run("ip", "route", "replace", "default", "dev", "t-acme", "table", str(ACME), "metric", "99")
        assert await waiting > 0.4


async def test_only_a_members_address_may_send_vxlan(fleet: Fleet) -> None:
    async with servers(fleet), kernels(fleet, via="vxlan"), streams(fleet, (SITE,), 1) as running:
        fleet.a.run("ip", "addr", "add", "172.31.0.9/24", "dev", "u0")
        with fleet.a.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
            foreign.bind(("172.31.0.9", 0))
            foreign.sendto(b"\x08\0\0\0" + bytes(60), (MEMBERS["b"][0], VXLAN_PORT))
        await until(lambda: counted(fleet.b, "udp dport @handover ip saddr != @members4") == 1)
        fleet.lead_to("b")
        await running[0].talk()
        assert counted(fleet.a, "udp dport @handover") == 0


async def test_the_way_to_a_member_is_repaired_and_removed(fleet: Fleet) -> None:
    name = interface_name("a")
    async with servers(fleet), kernels(fleet, via="vxlan") as held, streams(fleet, (SITE,), 1) as running:
        fleet.lead_to("b")
        for meddle in (("link", "del", name), ("link", "set", name, "down")):
            fleet.b.run("ip", *meddle)
            await until(lambda: _up(name))
            await held.in_place()
            await running[0].talk()
        await held.holds(replace(plan("b", via="vxlan"), members=(), handed_over=()))
        assert name not in fleet.b.run("ip", "link").stdout
        assert "1750" not in fleet.b.run("ip", "rule").stdout
        await held.holds(plan("b", via="vxlan"))
    await cleanup()
    assert await remove_devices() == (name,)
    assert fleet.b.run("ip", "route", "show", "table", "all", "proto", "173").stdout == ""


def _up(name: str) -> bool:
    with NetlinkSocket() as netlink, contextlib.suppress(OSError):
        (body,) = netlink.request(*link_query(name=name))
        return read_link(body).up
    return False
