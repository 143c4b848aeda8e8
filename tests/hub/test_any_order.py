"""Any order of logins, ends, lost messages, restarts and heartbeats: after a heartbeat the open sessions of a
node are its clients, and no address is two persons' at a time, or changes its person without a rest.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hub.core import api
from hub.core.addresses import AddressPool
from hub.core.people import Block, Person
from hub.core.sessions import StaffSession
from hub.service import nodes
from hub.service.logins import Logins
from hub.service.records import Records
from hub.service.rules import Rules
from hub.service.sqlite import SqliteConnection

REST = 600.0
PEOPLE = ("alice", "bob", "carol")
RULES = Rules(
    AddressPool((IPv4Network("10.8.0.0/29"),)),  # five addresses
    {name: Person(name) for name in PEOPLE},
    attempts=1000,
    rest_seconds=REST,
)


@dataclass
class VpnClient:
    """A client that is up on a server. `session`: None while the sidecar does not know it."""

    client_id: int
    person: str
    address: str
    session: str | None


@dataclass
class VpnServer:
    """An OpenVPN server with its sidecar."""

    name: str
    boot: int = 0
    next_client: int = 0
    clients: dict[int, VpnClient] = field(default_factory=dict)


class HubWorld:
    """Servers, the service and a clock."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self.now, self.sequence = 1_800_000_000.0, 0
        self.servers = [VpnServer("hub-a"), VpnServer("hub-b")]

    def run(self, work):
        """In a transaction."""
        return self._connection.transact(
            lambda transaction: work(Records(transaction, self.now), Logins(RULES))
        )

    def login(self, server: VpnServer, person: str, answer_lost: bool) -> None:
        """A client comes. A lost answer: the client gives up, or the sidecar asks again."""
        self.sequence += 1
        request = api.LoginRequest(
            node=server.name, boot=str(server.boot), sequence=self.sequence, client_id=server.next_client, key_id=1,
            person=person, certificate="c", client=api.ClientAddress(address="192.0.2.1"),
        )  # fmt: skip
        server.next_client += 1
        answer = self.run(lambda records, logins: logins.login(records, request))
        assert self.run(lambda records, logins: logins.login(records, request)) == answer
        if isinstance(answer, api.Allowed) and not answer_lost:
            client = VpnClient(request.client_id, person, str(answer.address), answer.session)
            server.clients[client.client_id] = client

    def leave(self, server: VpnServer, number: int, lost: bool) -> None:
        """A client goes; the message may be lost."""
        if not server.clients:
            return
        client = server.clients.pop(sorted(server.clients)[number % len(server.clients)])
        if client.session is not None and not lost:
            ended = (api.SessionEnd(session=client.session),)
            message = api.SessionEnds(node=server.name, boot=str(server.boot), ended=ended)
            for _ in range(2):  # twice is as good as once
                self.run(lambda records, _logins: nodes.ended(records, message))

    def restart(self, server: VpnServer) -> None:
        """OpenVPN starts anew: all clients are gone."""
        server.boot += 1
        server.clients, server.next_client = {}, 0

    def forget(self, server: VpnServer) -> None:
        """The sidecar has lost its journal."""
        for client in server.clients.values():
            client.session = None

    def order(self, person: str, blocked: bool) -> None:
        """An operator ends or blocks."""

        def work(records: Records, _logins: Logins) -> None:
            if blocked:
                records.set_block(Block(person, records.now, "ops", records.now + 60))
                nodes.end_all_of(records, person, "", "ops")
            else:
                nodes.end_sessions(records, api.EndCommand(person=person), "ops")

        self.run(work)

    def heartbeat(self, server: VpnServer) -> None:
        """Until the service knows every client, and every end is done."""
        for _ in range(3):
            known = [client.session for client in server.clients.values() if client.session is not None]
            unknown = tuple(
                api.UnknownClient(client_id=client.client_id, person=client.person, address=client.address)
                for client in server.clients.values()
                if client.session is None
            )
            message = api.Heartbeat(
                node=server.name,
                boot=str(server.boot),
                sequence=self.sequence,
                sessions=tuple(known),
                unknown=unknown,
            )
            answer = self.run(lambda records, logins, sent=message: nodes.heartbeat(records, logins, sent))
            for adopted in answer.adopted:
                server.clients[adopted.client_id].session = adopted.session
            for client in server.clients.values():
                client.session = None if client.session in answer.unknown else client.session
            for order in answer.end:
                server.clients.pop(order.client_id, None)

    def open_sessions(self) -> list[StaffSession]:
        """What the service holds open."""
        return self.run(lambda records, _logins: records.open_sessions())

    def check_addresses(self) -> None:
        """One person at a time, and a rest between two."""
        rows = self.run(lambda records, _logins: records.history(None, None, 10_000))
        by_address: dict[str, list[StaffSession]] = {}
        for row in rows:
            if row.address is not None:
                by_address.setdefault(row.address, []).append(row)
        for held in by_address.values():
            held.sort(key=lambda row: (row.since, row.revision))
            for earlier, later in zip(held, held[1:], strict=False):
                assert earlier.ended is not None
                assert earlier.ended <= later.since
                assert earlier.person == later.person or earlier.ended + REST <= later.since


SERVER, PERSON = st.integers(0, 1), st.sampled_from(PEOPLE)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("login"), SERVER, PERSON, st.booleans()),
        st.tuples(st.just("leave"), SERVER, st.integers(0, 9), st.booleans()),
        st.tuples(st.just("restart"), SERVER),
        st.tuples(st.just("forget"), SERVER),
        st.tuples(st.just("order"), PERSON, st.booleans()),
        st.tuples(st.just("heartbeat"), SERVER),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 61.0, 601.0])),
    ),
    max_size=40,
)


@given(STEPS)
def test_sessions_are_the_servers_clients_and_addresses_are_one_persons(steps) -> None:
    with tempfile.TemporaryDirectory() as directory:
        connection = SqliteConnection(Path(directory) / "s.db")
        world = HubWorld(connection)
        for what, *arguments in steps:
            world.now += 0.5
            match what:
                case "wait":
                    world.now += arguments[0]
                case "order":
                    world.order(*arguments)
                case _:
                    getattr(world, what)(world.servers[arguments[0]], *arguments[1:])
            world.check_addresses()
        for server in world.servers:
            world.heartbeat(server)
            opened = {row.id: row for row in world.open_sessions() if row.node == server.name}
            assert opened.keys() == {client.session for client in server.clients.values()}
            for client in server.clients.values():
                row = opened[client.session]
                assert (row.person, row.address) == (client.person, client.address)
        connection.close()


@given(
    st.lists(st.tuples(PERSON, st.floats(1, 2000), st.floats(1, 2000)), min_size=1, max_size=12),
    st.floats(0, 30_000),
)
def test_the_holder_of_an_address_is_who_had_it_then(stays, later: float) -> None:
    """Compared with every session there was, one by one."""
    with tempfile.TemporaryDirectory() as directory:
        connection = SqliteConnection(Path(directory) / "s.db")
        world = HubWorld(connection)
        begun = world.now
        for person, pause, length in stays:
            world.now += pause
            world.login(world.servers[0], person, answer_lost=False)
            world.now += length
            world.servers[0].clients.clear()
            world.heartbeat(world.servers[0])
        at = begun + later
        rows = world.run(lambda records, _logins: records.history(None, None, 1000))
        for address in {row.address for row in rows if row.address is not None}:
            expected = [
                row.id
                for row in rows
                if row.address == address and row.since <= at and (row.ended is None or at < row.ended)
            ]
            found = world.run(lambda records, _logins, which=address: records.holder(which, at))
            assert ([found.id] if found is not None else []) == expected
        connection.close()
