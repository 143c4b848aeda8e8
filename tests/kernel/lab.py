"""A small world around a facilitator: staff on one side, the uplink and a customer's site on the other,
each in a namespace.

    staff 10.8.0.5, fd00:8::5 ---(s1)--- facilitator ---(u1)--- uplink, default route
                                             |
                                         (t-acme, MTU 1300)
                                             |
                                     site 10.77.0.10, fd00:77::10, 10.0.0.10 (presented as 100.64.0.10)

The tunnel is a virtual cable whose end vanishes like a client's device. The test's own thread is in the
facilitator's namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any

from supervisor.core.events import DeviceLost, Event
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.kernel.network import KernelNetwork
from tests.lab.packets import udp
from tests.netns import Namespace, link

STAFF, STAFF6 = "10.8.0.5", "fd00:8::5"
SITE, SITE6, HIDDEN, PRESENTED = "10.77.0.10", "fd00:77::10", "10.0.0.10", "100.64.0.10"
TUNNEL, TUNNEL6 = "10.78.0.2", "fd00:78::2"  # the facilitator inside the tunnel
ACME, OWN = 173001, 173002
SO_MARK = 36
DEADLINE = 60.0  # seconds; only against disasters: a busy machine may be slow
AT_ONCE = 0.9  # seconds: an answer to the first packet; TCP sends a second one after 1

_acme, _acme6, _own, _own6 = (
    ip_network(n) for n in ("10.77.0.0/24", "fd00:77::/64", "10.90.0.0/16", "fd00:90::/64")
)
PLAN = NetworkPlan(
    staff=(ip_network("10.8.0.0/24"), ip_network("fd00:8::/64")),
    lanes=(
        Lane("acme", ACME, "t-acme", True, addresses=(ip_address(TUNNEL), ip_address(TUNNEL6))),
        Lane("own", OWN, None, True, 17300, share=480),
    ),
    carries=(
        Carry(_acme, ACME, _acme),
        Carry(_acme6, ACME, _acme6),
        Carry(_own, OWN, _own),
        Carry(_own6, OWN, _own6),
        Carry(ip_network("100.64.0.0/16"), ACME, ip_network("10.0.0.0/16")),
    ),
)
# With so many lanes packets jump over the rules that are not about them.
MANY = replace(
    PLAN, lanes=(*PLAN.lanes, *(Lane(f"other-{i}", OWN + i, f"t-other{i}", False) for i in range(1, 60)))
)
DOWN = replace(
    PLAN, lanes=(replace(PLAN.lanes[0], up=False, addresses=()), replace(PLAN.lanes[1], up=False, port=None))
)


@dataclass
class KernelWorld:
    """The namespaces; `facilitator` is the one that the test runs in."""

    staff: Namespace
    facilitator: Namespace
    uplink: Namespace
    site: Namespace

    def tunnel_up(self) -> None:
        """The client's device appears, without an address: what the site takes for ours exists in source
        NAT only.
        """
        link(self.facilitator, "t-acme", self.site, "acme")
        answer_for(self.facilitator, "t-acme", self.site, "acme", TUNNEL, TUNNEL6)
        _commands(
            self.site,
            """
            addr add 10.78.0.1/24 dev acme
            addr add 10.77.0.10/32 dev acme
            addr add 10.0.0.10/32 dev acme
            addr add fd00:78::1/64 dev acme nodad
            addr add fd00:77::10/128 dev acme nodad
            route add default via 10.78.0.2
            route add ::/0 via fd00:78::2 dev acme""",
        )
        _commands(self.facilitator, "link set t-acme mtu 1300")

    def tunnel_down(self) -> None:
        """The client's device vanishes."""
        self.facilitator.run("ip", "link", "del", "t-acme")


@contextlib.contextmanager
def world(facilitator: Namespace) -> Iterator[KernelWorld]:
    """Staff, uplink and site around the facilitator, the tunnel up."""
    made = KernelWorld(Namespace("staff"), facilitator, Namespace("uplink"), Namespace("site"))
    try:
        for namespace in (
            facilitator,
            made.site,
        ):  # as on a careful host: what must work must work with a strict filter
            namespace.run(
                "sysctl",
                "-qw",
                "net.ipv4.conf.all.rp_filter=0"
                if namespace is made.site
                else "net.ipv4.conf.all.rp_filter=1",
            )
        facilitator.run(
            "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"
        )  # a tunnel has no neighbours to ask first
        link(facilitator, "s1", made.staff, "s0")
        link(facilitator, "u1", made.uplink, "u0")
        _commands(
            facilitator,
            """
            addr add 10.8.0.1/24 dev s1
            addr add fd00:8::1/64 dev s1 nodad
            addr add 192.0.2.2/24 dev u1
            addr add 2001:db8::2/64 dev u1 nodad
            route add default via 192.0.2.1
            route add ::/0 via 2001:db8::1 dev u1""",
        )
        _commands(
            made.staff,
            f"""
            addr add {STAFF}/24 dev s0
            addr add {STAFF6}/64 dev s0 nodad
            addr add 10.9.0.5/32 dev s0
            route add default via 10.8.0.1
            route add ::/0 via fd00:8::1 dev s0""",
        )
        _commands(
            made.uplink,
            """
            addr add 192.0.2.1/24 dev u0
            addr add 2001:db8::1/64 dev u0 nodad""",
        )
        facilitator.run("ip", "route", "add", "10.9.0.5/32", "dev", "s1")
        made.tunnel_up()
        yield made
    finally:
        for namespace in (made.staff, made.uplink, made.site):
            namespace.remove()


def answer_for(here: Namespace, device: str, there: Namespace, its_device: str, *addresses: str) -> None:
    """A real tunnel has no link layer. A cable has one: the other end must be told where addresses are
    that nobody answers for.
    """
    link_layer = json.loads(here.run("ip", "-j", "link", "show", device).stdout)[0]["address"]
    _commands(
        there,
        "".join(
            f"neigh add {address} lladdr {link_layer} dev {its_device} nud permanent\n"
            for address in addresses
        ),
    )


def _commands(namespace: Namespace, text: str) -> None:
    namespace.run(
        "ip", "-batch", "-", input="".join(f"{line.strip()}\n" for line in text.strip().splitlines())
    )


# --- the daemon's part
# -------------------------------------------------------------------------------------------------------


@dataclass
class KernelUnderTest:
    """A `KernelNetwork` with what it said."""

    network: KernelNetwork
    posted: list[Event] = field(default_factory=list)
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    @property
    def lost(self) -> list[DeviceLost]:
        """The devices that vanished."""
        return [event for event in self.posted if isinstance(event, DeviceLost)]

    async def holds(self, plan: NetworkPlan) -> None:
        """Set a plan and see it through."""
        self.network.set(plan)
        await self.network.settled()
        await self.in_place()

    async def in_place(self) -> None:
        """Wait until the kernel really holds what is wanted."""
        deadline = time.monotonic() + DEADLINE
        while changes := (await self.network.compare())[1]:
            assert time.monotonic() < deadline, changes
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def kernel(plan: NetworkPlan, **options: Any) -> AsyncIterator[KernelUnderTest]:
    """The kernel layer, started with the plan; released at the end, with everything left in place."""
    posted: list[Event] = []
    notes: list[tuple[str, dict[str, object]]] = []
    network = KernelNetwork(
        posted.append, lambda text, details: notes.append((text, dict(details))), **options
    )
    await network.start(plan)
    try:
        yield KernelUnderTest(network, posted, notes)
    finally:
        await network.close(keep=True)


async def until(true: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        await asyncio.sleep(0.005)


# --- traffic
# ----------------------------------------------------------------------------------------------------------


def made_in(namespace: Namespace, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket that lives in another namespace."""
    with namespace.entered():
        made = make()
    made.setblocking(False)
    return made


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


_TRANSPARENT = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 75),
}


def listener(port: int, family: socket.AddressFamily, *, transparent: bool = True) -> socket.socket:
    """A socket that listens; redirected connections reach only transparent ones."""
    made = socket.socket(family)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        made.setsockopt(*_TRANSPARENT[family], 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.listen()
    return made


@contextlib.asynccontextmanager
async def server(
    namespace: Namespace, port: int = 80, answer: Callable[[socket.socket], str] | None = None
) -> AsyncIterator[None]:
    """TCP servers for both families; each connection is told what `answer` says, by default the address it
    came from.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        writer.write((answer(sock) if answer else str(sock.getpeername()[0])).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    def listening(family: socket.AddressFamily) -> socket.socket:
        return made_in(namespace, lambda: listener(port, family))

    servers = [
        await asyncio.start_server(serve, sock=listening(family))
        for family in (socket.AF_INET, socket.AF_INET6)
    ]
    try:
        yield
    finally:
        for one in servers:
            one.close()


async def ask(
    namespace: Namespace,
    address: str,
    port: int = 80,
    mark: int = 0,
    source: str = "",
    seconds: float = DEADLINE,
    look: Callable[[socket.socket], object] | None = None,
) -> str:
    """Connect and read the answer. OSError or TimeoutError when that is not possible."""
    sock = made_in(namespace, lambda: socket.socket(_family(address)))
    try:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        if source:
            sock.bind((source, 0))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            await loop.sock_connect(sock, (address, port))
            text = (await loop.sock_recv(sock, 200)).decode().strip()
        return text if look is None else str(look(sock))
    finally:
        sock.close()


class UplinkCapture:
    """What leaves by the uplink for these networks, in the order of the wire; a planted packet proves that
    it sees.
    """

    MARKER = 4242

    def __init__(self, lab: KernelWorld) -> None:
        self._lab = lab
        networks = " or ".join(
            f"net {n}" for n in ("10.77.0.0/24", "10.0.0.0/16", "100.64.0.0/16", "10.90.0.0/16", "fd00::/8")
        )
        self._tcpdump = lab.uplink.popen(
            "tcpdump",
            "-lnqi",
            "u0",
            "--immediate-mode",
            f"(({networks}) and not net fd00:8::/64) or udp port {self.MARKER}",
            stdout=-1,
            stderr=-1,
        )
        assert self._tcpdump.stderr is not None
        for line in self._tcpdump.stderr:
            if "listening on" in line:
                break

    async def leaked(self) -> list[str]:
        """Everything that was seen before a packet that is sent now."""
        with self._lab.facilitator.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as planted:
            planted.sendto(b"planted", ("192.0.2.1", self.MARKER))
        lines: list[str] = []
        assert self._tcpdump.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while True:
                line = await asyncio.to_thread(self._tcpdump.stdout.readline)
                if f".{self.MARKER}:" in line:
                    break
                lines.append(line)
        self._tcpdump.terminate()
        self._tcpdump.wait()
        return lines


class PacketStream:
    """About a thousand packets a second from staff into the tunnel: one old flow and many new ones, in
    both families.
    """

    def __init__(self, lab: KernelWorld) -> None:
        self._sockets = {
            a: made_in(lab.staff, lambda a=a: socket.socket(_family(a), socket.SOCK_DGRAM))
            for a in (SITE, SITE6, PRESENTED)
        }
        self._task = asyncio.create_task(self._send())
        self.sent = 0

    async def _send(self) -> None:
        start = time.monotonic()
        while True:
            while self.sent < (time.monotonic() - start) * 1000:
                for address, sock in self._sockets.items():
                    port = 9 if self.sent % 2 else 1000 + self.sent % 60000
                    with contextlib.suppress(OSError):
                        sock.sendto(b"x" * 32, (address, port))
                self.sent += 1
            await asyncio.sleep(0.001)

    @property
    def forged(self) -> list[bytes]:
        """Answers to the old flows, as a site would send them. Nobody answers them."""
        tunnels = {SITE: (SITE, TUNNEL), SITE6: (SITE6, TUNNEL6), PRESENTED: (HIDDEN, TUNNEL)}
        ports = {address: sock.getsockname()[1] for address, sock in self._sockets.items()}
        return [
            udp(site, 9, tunnel, ports[address], b"forged") for address, (site, tunnel) in tunnels.items()
        ]

    def received(self) -> list[bytes]:
        """What came to the sockets of staff since this was last asked."""
        found = []
        for sock in self._sockets.values():
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(sock.recv(100))
        return found

    async def packets(self, count: int) -> None:
        """Wait until so many more were sent."""
        goal = self.sent + count
        await until(lambda: self.sent >= goal)

    async def stop(self) -> None:
        """End."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for sock in self._sockets.values():
            sock.close()
