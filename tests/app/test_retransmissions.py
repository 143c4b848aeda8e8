"""TCP connections to gateways are back at once after a silence: real ones, through a cable that is cut."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from supervisor.app.watchers.retransmissions import RetransmissionWatch
from supervisor.core.network.retransmission import (
    FEW,
    LONGEST_PAUSE_SECONDS,
    NOBODY,
    SHORT_SECONDS,
    SILENT_RETRANSMISSIONS,
    RetransmissionTimer,
    TcpConnection,
    helped,
)
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Health, Phase, Session
from supervisor.kernel.nft.foreign_tables import ForeignTableReader
from supervisor.kernel.nft.retransmission_table import RETRANSMISSION_TABLE
from tests.echo import serving
from tests.lab.wait import NOISE
from tests.netns import Namespace, link
from tests.states import tunnel_state
from tunnels.settings import Tunnel

GATEWAY, GATEWAY6, STRANGER = "10.77.0.2", "fd77::2", "10.77.0.3"
PORT = 4433
SILENCE_SECONDS = 8.0  # TCP alone tries again after 6.3 s, and then after 12.7 s
CONNECTION = TcpConnection(ip_address("10.77.0.1"), 40000, ip_address(GATEWAY), PORT)


def snapshot(*peers: str) -> Snapshot:
    """With a session to each of these gateways."""
    return Snapshot(
        {
            f"tunnel-{number}": (
                Tunnel(name=f"tunnel-{number}", kind="test", destinations=(f"10.{number}.0.0/16",)),
                tunnel_state(phase=Phase.UP, health=Health.HEALTHY, session=Session(1, peer=peer)),
            )
            for number, peer in enumerate(peers)
        },
        0.0,
    )


# --- who is helped
# ----------------------------------------------------------------------------------------------------------


def timer(retransmissions: int, pause: float = 0.2) -> dict[TcpConnection, RetransmissionTimer]:
    return {CONNECTION: RetransmissionTimer(retransmissions, pause)}


def test_one_lost_segment_is_no_silence() -> None:
    assert helped(NOBODY, timer(SILENT_RETRANSMISSIONS - 1), 0.0) == NOBODY


def test_a_silent_connection_is_helped_until_it_is_answered() -> None:
    state = helped(NOBODY, timer(SILENT_RETRANSMISSIONS), 10.0)
    assert state.connections == {CONNECTION}
    assert helped(state, timer(1), 11.0).connections == {
        CONNECTION
    }  # the kernel's counter begins anew at 256
    assert helped(state, timer(0), 11.0) == NOBODY
    assert helped(state, {}, 11.0) == NOBODY  # closed


def test_where_many_are_silent_pauses_grow_after_a_while_up_to_a_limit() -> None:
    later = 10.0 + SHORT_SECONDS
    many = [replace(CONNECTION, local_port=40000 + number) for number in range(FEW + 1)]
    timers = dict.fromkeys(many, RetransmissionTimer(99, 0.2))
    state = helped(NOBODY, timers, 10.0)
    assert helped(state, timers, later - 0.1).connections == frozenset(many)
    resting = helped(state, timers, later)
    assert not resting.connections
    assert resting.since == state.since
    late = {**timers, CONNECTION: RetransmissionTimer(99, 1.01 * LONGEST_PAUSE_SECONDS)}
    assert helped(resting, late, later + 5.0).connections == {CONNECTION}


def test_a_few_are_helped_for_as_long_as_tcp_tries() -> None:
    state = helped(NOBODY, timer(2), 10.0)
    assert helped(state, timer(99), 10.0 + 900.0).connections == {CONNECTION}


# --- on the real kernel
# ----------------------------------------------------------------------------------------------------------


class EchoClient:
    """Says something on a connection all the time, and hears the echo."""

    def __init__(self, address: str) -> None:
        self.address, self.heard_at = address, 0.0

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(self.address, PORT)

        async def hear() -> None:
            while await reader.read(4096):
                self.heard_at = time.monotonic()

        async with asyncio.TaskGroup() as both:
            both.create_task(hear())
            while True:
                writer.write(b"x" * 100)
                await asyncio.sleep(0.05)

    async def answered(self, since: float) -> float:
        """Seconds from that moment to the first echo after it."""
        async with asyncio.timeout(60):
            while self.heard_at <= since:
                await asyncio.sleep(0.01)
        return self.heard_at - since


@pytest.fixture
def site(netns: Namespace) -> Iterator[Namespace]:
    """A namespace with the gateways; the test is in the one at the other end of the cable."""
    other = Namespace("site")
    link(netns, "a1", other, "b1")
    for place, device, addresses in (
        (netns, "a1", ("10.77.0.1/24", "fd77::1/64")),
        (other, "b1", (f"{GATEWAY}/24", f"{STRANGER}/24", f"{GATEWAY6}/64")),
    ):
        for address in addresses:
            place.run("ip", "address", "add", address, "dev", device, *(("nodad",) if ":" in address else ()))
    try:
        with netns.entered(), serving(other, PORT):
            yield other
    finally:
        other.remove()


@contextlib.asynccontextmanager
async def running(*parts: RetransmissionWatch | EchoClient) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def cut(site: Namespace) -> None:
    """The cable swallows everything, both ways."""
    site.run("nft", "add table netdev cut")
    for hook in ("ingress", "egress"):
        chain = f"{hook} {{ type filter hook {hook} device b1 priority 0; policy drop; }}"
        site.run("nft", f"add chain netdev cut {chain}")


def tables(namespace: Namespace) -> str:
    return namespace.run("nft", "list", "tables").stdout


@pytest.mark.root
async def test_connections_to_gateways_are_back_at_once(netns: Namespace, site: Namespace) -> None:
    """And one to a stranger over the same cable only when TCP tries again by itself."""
    clients = [EchoClient(address) for address in (GATEWAY, GATEWAY6, STRANGER)]
    watch = RetransmissionWatch(lambda: snapshot(GATEWAY, GATEWAY6))
    async with running(watch, *clients):
        for client in clients:
            await client.answered(time.monotonic())
        assert RETRANSMISSION_TABLE not in tables(netns)
        silent_from = time.monotonic()
        cut(site)
        await asyncio.sleep(SILENCE_SECONDS)
        assert max(client.heard_at for client in clients) < silent_from + 1.0
        assert tables(netns).count(RETRANSMISSION_TABLE) == 2  # for IPv4 and for IPv6
        assert not ForeignTableReader().read().chains
        back = time.monotonic()
        site.run("nft", "delete table netdev cut")
        helped, helped6, stranger = [await client.answered(back) for client in clients]
        print(f"back after {helped:.2f} s (IPv6: {helped6:.2f} s); without help after {stranger:.2f} s")
        assert max(helped, helped6) < 0.5 * NOISE < stranger
        async with asyncio.timeout(10 * NOISE):
            while RETRANSMISSION_TABLE in tables(netns):
                await asyncio.sleep(0.1)


@pytest.mark.root
async def test_the_table_goes_with_the_daemon(netns: Namespace, site: Namespace) -> None:
    client, watch = EchoClient(GATEWAY), RetransmissionWatch(lambda: snapshot(GATEWAY))
    async with running(client):
        async with running(watch):
            await client.answered(time.monotonic())
            cut(site)
            async with asyncio.timeout(20 * NOISE):
                while RETRANSMISSION_TABLE not in tables(netns):
                    await asyncio.sleep(0.1)
        assert RETRANSMISSION_TABLE not in tables(netns)
