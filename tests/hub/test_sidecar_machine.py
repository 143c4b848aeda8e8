"""The state machine of the sidecar against models of OpenVPN and the service, in any order of events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.core import api
from hub.core.api import EndReason
from hub.core.openvpn.clients import ClientRow
from hub.core.openvpn.messages import AddressMessage, ClientEvent, ClientMessage
from hub.core.sidecar.clients import (
    AskLogin,
    ClientPhase,
    CutLater,
    Effect,
    Forget,
    Remember,
    ReportEnd,
    ReportUp,
    Send,
    ServerClient,
    StopLater,
)
from hub.core.sidecar.journal import ServerRun, client_line, gone_line, read_journal, run_line
from hub.core.sidecar.machine import NodeDrain, SidecarMachine

NETMASK = IPv4Address("255.255.0.0")
PEOPLE = ("alice", "bob", "carol")


def variables(person: str, **more: str) -> dict[str, str]:
    return {
        "common_name": person,
        "tls_serial_hex_0": "0a",
        "tls_digest_sha256_0": f"digest of {person}",
        "untrusted_ip": "192.0.2.7",
        "untrusted_port": "40000",
        **more,
    }


def connect(cid: int, person: str, kid: int = 1, **more: str) -> ClientMessage:
    return ClientMessage(ClientEvent.CONNECT, cid, kid, env=variables(person, **more))


def happened(event: ClientEvent, cid: int, **more: str) -> ClientMessage:
    return ClientMessage(event, cid, env=more)


def allowed(session: str, address: str = "10.8.0.10") -> api.Allowed:
    return api.Allowed(session=session, address=IPv4Address(address), netmask=NETMASK)


def denied(**more: object) -> api.Denied:
    return api.Denied.model_validate({"reason": EndReason.BLOCKED, "text": "no", **more})


def sent(effects: Iterable[Effect]) -> list[str]:
    return [effect.command for effect in effects if isinstance(effect, Send)]


def up(machine: SidecarMachine, cid: int, person: str, address: str = "10.8.0.10") -> None:
    """A client whose session is `s{cid}`."""
    list(machine.client(connect(cid, person)))
    list(machine.decided(cid, 1, allowed(f"s{cid}", address)))
    list(machine.client(happened(ClientEvent.ESTABLISHED, cid)))


# --- tables


def test_a_login_is_asked_allowed_and_reported() -> None:
    machine = SidecarMachine()
    (question,) = machine.client(connect(3, "alice"))
    assert isinstance(question, AskLogin)
    assert (question.cid, question.kid, question.facts.person) == (3, 1, "alice")
    remembered, command, _ = machine.decided(3, 1, allowed("s3"))
    assert isinstance(remembered, Remember), "it is in the journal before the server hears of it"
    assert command == Send("client-auth 3 1\nifconfig-push 10.8.0.10 255.255.0.0\nEND")
    effects = list(machine.client(happened(ClientEvent.ESTABLISHED, 3)))
    assert ReportUp("s3", "10.8.0.10") in effects
    effects = list(machine.client(happened(ClientEvent.DISCONNECT, 3, bytes_received="5", bytes_sent="x")))
    assert ReportEnd("s3", EndReason.LEFT, 5, 0) in effects
    assert machine.clients == {}


def test_a_decision_that_overtakes_the_answer_to_its_login_is_repeated() -> None:
    machine = SidecarMachine()
    list(machine.client(connect(3, "alice")))
    decision = api.Decision(session="s3", client_id=3, key_id=1, answer=denied())
    answer = api.HeartbeatAnswer(decided=(decision,))
    assert machine.acts_on(answer) == frozenset(), "the service tells it once more"
    assert list(machine.orders((), answer)) == []
    list(machine.decided(3, 1, api.Waiting(session="s3", timeout=90)))
    assert machine.acts_on(answer) == {"s3"}
    assert sent(machine.orders((), answer)) == ['client-deny 3 1 "blocked" "no"']


@pytest.mark.parametrize(
    ("flags", "answer", "command"),
    [
        ("0", denied(), 'client-deny 3 1 "blocked" "no"'),
        ("990", denied(), 'client-deny 3 1 "blocked" "no"'),
        (
            "990",
            denied(elsewhere=True, backoff=4),
            'client-deny 3 1 "blocked" "TEMP[backoff 4,advance remote]:no"',
        ),
        ("2", denied(elsewhere=True, backoff=4), 'client-deny 3 1 "blocked" "no"'),
        ("x", denied(elsewhere=True, backoff=4), 'client-deny 3 1 "blocked" "no"'),
        (
            "990",
            api.Challenged(session="s3", by="crv1", state="Z", text='Your "code"', timeout=60),
            'client-deny 3 1 "challenge" "CRV1:R,E:Z:YWxpY2U=:Your \\"code\\""',
        ),
        (
            "990",
            api.Challenged(session="s3", by="crtext", echo=False, text="Your code", timeout=60),
            'client-pending-auth 3 1 "CR_TEXT:R:Your code" 60',
        ),
        (
            "990",
            api.Waiting(session="s3", timeout=90, link="https://hub/go/1"),
            'client-pending-auth 3 1 "WEB_AUTH::https://hub/go/1" 90',
        ),
        ("990", api.Waiting(session="s3", timeout=90), 'client-pending-auth 3 1 "" 90'),
        (
            "990",
            api.Waiting(session="s3", timeout=90, link="https://hub/" + "x" * 1200),
            'client-deny 3 1 "question too long" "the login failed"',
        ),
    ],
)
def test_answers_in_openvpns_words(flags: str, answer: api.LoginAnswer, command: str) -> None:
    machine = SidecarMachine()
    list(machine.client(connect(3, "alice", IV_PROTO=flags)))
    assert sent(machine.decided(3, 1, answer)) == [command]


def test_a_login_without_a_certificate_or_while_draining_is_refused_without_a_question() -> None:
    machine = SidecarMachine()
    assert sent(machine.client(connect(3, "", tls_serial_hex_0=""))) == [
        'client-deny 3 1 "method-unusable" "a certificate is needed"'
    ]
    list(machine.begin_drain(NodeDrain(None)))
    (command,) = sent(machine.client(connect(4, "alice", IV_PROTO="990")))
    assert "TEMP[backoff 1,advance remote]" in command


def test_one_address_is_never_given_to_two_clients() -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    list(machine.client(connect(4, "bob")))
    effects = list(machine.decided(4, 1, allowed("s4")))
    assert [command[:13] for command in sent(effects)] == ["client-deny 4"]
    assert ReportEnd("s4", EndReason.NO_ADDRESS) in effects


def test_a_client_with_another_address_than_its_own_is_ended() -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    assert sent(machine.address(AddressMessage(3, "10.8.0.10", primary=True))) == []
    assert sent(machine.address(AddressMessage(3, "10.8.0.66", primary=True))) == [
        'client-kill 3 "HALT,your access has ended"'
    ]


def test_an_end_is_told_first_and_cut_later() -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    order = api.EndOrder(
        session="s3", client_id=3, person="alice", reason=EndReason.OFFBOARDED, text="Good bye"
    )
    effects = list(machine.orders((), api.HeartbeatAnswer(end=(order,))))
    assert sent(effects) == ['client-kill 3 "HALT,Good bye"']
    (later,) = (effect for effect in effects if isinstance(effect, CutLater))
    assert 0.1 <= later.seconds <= 0.4
    assert sent(machine.cut(later.cid, "another")) == []
    assert sent(machine.cut(later.cid, later.session)) == ["kill 192.0.2.7:40000"]
    effects = list(machine.client(happened(ClientEvent.DISCONNECT, 3)))
    assert ReportEnd("s3", EndReason.OFFBOARDED) in effects


def test_a_session_that_is_not_ended_is_never_cut() -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    assert sent(machine.cut(3, "s3")) == []


@pytest.mark.parametrize(
    ("env", "answer", "commands"),
    [
        (variables("alice"), allowed("s3"), ["client-auth-nt 3 2"]),
        (variables("alice"), None, ["client-auth-nt 3 2"]),
        (
            variables("alice"),
            denied(),
            ['client-deny 3 2 "blocked" "no"', 'client-kill 3 "HALT,no"'],
        ),
        (
            variables("alice"),
            allowed("s9"),
            ['client-deny 3 2 "another session" "your access has ended"', 'client-kill 3 "HALT,your access has ended"'],
        ),
    ],
)  # fmt: skip
def test_a_renegotiation_is_asked_and_goes_on_without_the_service(
    env: dict[str, str], answer: api.LoginAnswer | None, commands: list[str]
) -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    effects = list(machine.client(ClientMessage(ClientEvent.REAUTH, 3, 2, env=env)))
    (question,) = (effect for effect in effects if isinstance(effect, AskLogin))
    assert question.session == "s3"
    decided = machine.unanswered(3, 2) if answer is None else machine.decided(3, 2, answer)
    assert sent(decided) == commands


def test_a_renegotiation_with_another_certificate_ends_the_session() -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    effects = list(machine.client(ClientMessage(ClientEvent.REAUTH, 3, 2, env=variables("bob"))))
    assert not [effect for effect in effects if isinstance(effect, AskLogin)]
    assert sent(effects) == [
        'client-deny 3 2 "denied" "your access has ended"',
        'client-kill 3 "HALT,your access has ended"',
    ]


def test_an_answer_that_comes_too_late_lets_nobody_in_and_closes_its_session() -> None:
    machine = SidecarMachine()
    list(machine.client(connect(3, "alice")))
    list(machine.client(happened(ClientEvent.DISCONNECT, 3)))
    assert list(machine.decided(3, 1, allowed("s3"))) == [ReportEnd("s3", EndReason.TIMEOUT)]


def test_a_successor_sends_lost_logins_round_again_and_repeats_what_may_be_lost() -> None:
    known = [
        ServerClient(1, 1, "alice", "d", "192.0.2.1:1", session="s1", address="10.8.0.1", netmask="255.255.0.0",
                     phase=ClientPhase.UP),
        ServerClient(2, 1, "bob", "d", "192.0.2.2:1", session="s2", address="10.8.0.2", netmask="255.255.0.0",
                     phase=ClientPhase.ALLOWED),
        ServerClient(3, 1, "carol", "d", "192.0.2.3:1", session="s3", phase=ClientPhase.UP),
    ]  # fmt: skip
    machine = SidecarMachine(known)
    rows = [
        ClientRow(1, "alice", "192.0.2.9:9", "10.8.0.1", 0, 0),
        ClientRow(2, "bob", "192.0.2.2:1", "", 0, 0),
        ClientRow(5, "dora", "192.0.2.5:1", "", 0, 0),
        ClientRow(6, "UNDEF", "192.0.2.6:1", "", 0, 0),
        ClientRow(7, "emil", "192.0.2.7:1", "10.8.0.7", 0, 0),
    ]
    effects = list(machine.reconcile(rows))
    assert sent(effects) == [
        "client-auth-nt 1 2",
        "client-auth-nt 1 3",
        "client-auth 2 1\nifconfig-push 10.8.0.2 255.255.0.0\nEND",
        "client-kill 5",
    ]
    assert ReportEnd("s3", EndReason.LEFT) in effects
    assert machine.clients[1].real == "192.0.2.9:9"
    assert machine.clients[7].phase is ClientPhase.UNKNOWN


def test_a_client_that_nobody_knows_is_adopted_or_logs_in_again() -> None:
    machine = SidecarMachine()
    rows = [
        ClientRow(1, "alice", "192.0.2.1:1", "10.8.0.1", 0, 0),
        ClientRow(2, "bob", "192.0.2.2:1", "10.8.0.2", 0, 0),
    ]
    list(machine.reconcile(rows))
    answer = api.HeartbeatAnswer(adopted=(api.Adopted(client_id=1, session="s1"),))
    assert sent(machine.orders((1, 2), answer)) == ["client-kill 2"]
    assert machine.clients[1].session == "s1"


def test_a_drain_ends_after_the_last_client_or_at_its_time() -> None:
    machine = SidecarMachine()
    up(machine, 3, "alice")
    assert not [effect for effect in machine.begin_drain(NodeDrain(9.0)) if isinstance(effect, StopLater)]
    effects = list(machine.client(happened(ClientEvent.DISCONNECT, 3)))
    assert StopLater(0.0) in effects
    machine = SidecarMachine()
    up(machine, 3, "alice")
    list(machine.begin_drain(NodeDrain(9.0)))
    effects = list(machine.drain_is_over())
    assert sent(effects) == ['client-kill 3 "RESTART,[N]"']
    assert [effect for effect in effects if isinstance(effect, StopLater)]


# --- any order of events


@dataclass
class ModelClient:
    """A client as OpenVPN has it."""

    person: str
    kid: int = 1
    address: str = ""  # that it was allowed
    established: bool = False
    pending: int | None = 1  # the key that nobody has decided


@dataclass
class ModelSession:
    """A session as the service has it."""

    person: str
    address: str
    cid: int
    sequence: int
    open: bool = True


@dataclass
class SidecarWorld:
    """OpenVPN, the service and the journal, which outlive the sidecar."""

    server: dict[int, ModelClient] = field(default_factory=dict)
    service: dict[str, ModelSession] = field(default_factory=dict)
    journal: list[str] = field(default_factory=lambda: [run_line(ServerRun("run", 1))])
    reports: list[ReportUp | ReportEnd] = field(default_factory=list)
    next_cid: int = 0
    next_session: int = 0


class AnyOrder(RuleBasedStateMachine):
    """Clients come, renew, leave; the service answers late, wrongly or not at all; the sidecar dies."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SidecarWorld()
        self.machine: SidecarMachine | None = None
        self.questions: list[tuple[int, AskLogin]] = []
        self.asked = 0

    @initialize()
    def begin(self) -> None:
        self.machine = SidecarMachine()

    # --- what effects do to the world

    def perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(command):
                    self.command(command)
                case AskLogin():
                    self.asked += 1
                    self.questions.append((self.asked, effect))
                case ReportUp() | ReportEnd():
                    self.world.reports.append(effect)
                case Remember(client) if client.session:
                    self.world.journal.append(client_line(client))
                case Forget(cid):
                    self.world.journal.append(gone_line(cid))

    def command(self, command: str) -> None:
        words = command.split()
        assert words[0] in ("client-auth", "client-auth-nt", "client-deny", "client-kill", "kill"), command
        if words[0] == "kill":
            return
        client = self.world.server.get(int(words[1]))
        if client is None:
            return
        match words[0]:
            case "client-auth" if client.pending == int(words[2]):
                push = re.search(r"\nifconfig-push ([0-9.]+) [0-9.]+\nEND$", command)
                assert push is not None, "an answer without an address"
                assert not client.established
                client.pending, client.address = None, push[1]
            case "client-auth-nt" if client.pending == int(words[2]):
                assert client.established, "let in without an address"
                client.pending = None
            case "client-deny" | "client-kill":
                self.gone(int(words[1]))

    def gone(self, cid: int) -> None:
        del self.world.server[cid]
        self.late.append(cid)

    @property
    def late(self) -> list[int]:
        """Clients whose DISCONNECT is still to be told."""
        return self.__dict__.setdefault("_late", [])  # type: ignore[no-any-return]

    def tell_late(self) -> None:
        while self.late:
            cid = self.late.pop()
            if self.machine is not None:
                self.perform(self.machine.client(happened(ClientEvent.DISCONNECT, cid)))

    # --- what happens

    @rule(person=st.sampled_from(PEOPLE))
    def a_client_connects(self, person: str) -> None:
        cid = self.world.next_cid
        self.world.next_cid += 1
        self.world.server[cid] = ModelClient(person)
        if self.machine is not None:
            self.perform(self.machine.client(connect(cid, person)))
        self.tell_late()

    @precondition(lambda self: self.world.server)
    @rule(data=st.data())
    def a_client_comes_up(self, data: st.DataObject) -> None:
        cid = data.draw(st.sampled_from(sorted(self.world.server)))
        client = self.world.server[cid]
        if not client.address or client.established:
            return
        client.established = True
        if self.machine is not None:
            self.perform(self.machine.address(AddressMessage(cid, client.address, primary=True)))
            self.perform(self.machine.client(happened(ClientEvent.ESTABLISHED, cid)))
        self.tell_late()

    @precondition(lambda self: self.world.server)
    @rule(data=st.data())
    def a_client_renews_its_keys(self, data: st.DataObject) -> None:
        cid = data.draw(st.sampled_from(sorted(self.world.server)))
        client = self.world.server[cid]
        if not client.established or client.pending is not None:
            return
        client.kid += 1
        client.pending = client.kid
        if self.machine is not None:
            env = variables(client.person)
            self.perform(self.machine.client(ClientMessage(ClientEvent.REAUTH, cid, client.kid, env=env)))
        self.tell_late()

    @precondition(lambda self: self.world.server)
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        self.gone(data.draw(st.sampled_from(sorted(self.world.server))))
        self.tell_late()

    @precondition(lambda self: self.questions)
    @rule(data=st.data(), how=st.sampled_from(["allow", "allow", "deny", "silent", "same address"]))
    def the_service_answers(self, data: st.DataObject, how: str) -> None:
        assert self.machine is not None
        number, question = self.questions.pop(data.draw(st.integers(0, len(self.questions) - 1)))
        cid, kid = question.cid, question.kid
        if how == "silent":
            self.perform(self.machine.unanswered(cid, kid))
        elif how == "deny":
            self.perform(self.machine.decided(cid, kid, denied()))
        elif question.session:
            self.perform(self.machine.decided(cid, kid, allowed(question.session)))
        else:
            self.perform(self.machine.decided(cid, kid, self.opened(number, question, how)))
        self.tell_late()

    def opened(self, number: int, question: AskLogin, how: str) -> api.Allowed:
        self.world.next_session += 1
        session, host = f"s{self.world.next_session}", self.world.next_session
        address = "10.8.0.1" if how == "same address" else f"10.8.1.{host % 250}"
        self.world.service[session] = ModelSession(question.facts.person, address, question.cid, number)
        return allowed(session, address)

    @precondition(lambda self: self.machine is not None and self.world.service)
    @rule(data=st.data())
    def the_service_ends_a_session(self, data: st.DataObject) -> None:
        assert self.machine is not None
        session = data.draw(st.sampled_from(sorted(self.world.service)))
        order = api.EndOrder(
            session=session, client_id=0, person="x", reason=EndReason.OFFBOARDED, text="bye"
        )
        self.perform(self.machine.orders((), api.HeartbeatAnswer(end=(order,))))
        self.tell_late()

    @precondition(lambda self: self.machine is not None)
    @rule(journal=st.sampled_from(["kept", "kept", "kept", "cut", "lost"]))
    def the_sidecar_dies(self, journal: str) -> None:
        self.machine = None
        self.questions.clear()
        if journal == "cut" and len(self.world.journal) > 1:
            self.world.journal[-1] = self.world.journal[-1][:-3]
        elif journal == "lost":
            del self.world.journal[1:]

    @precondition(lambda self: self.machine is None)
    @rule()
    def a_sidecar_starts(self) -> None:
        content = read_journal(self.world.journal)
        self.machine = SidecarMachine(content.clients.values())
        rows = [
            ClientRow(
                cid, client.person, "192.0.2.7:40000", client.address if client.established else "", 0, 0
            )
            for cid, client in self.world.server.items()
        ]
        self.perform(self.machine.reconcile(rows))
        self.tell_late()

    @precondition(lambda self: self.machine is not None)
    @rule()
    def a_heartbeat(self) -> None:
        """Until both agree: every client that is up has a session, and no other session is open."""
        if self.machine is None:
            return
        asked = [cid for cid, each in self.machine.clients.items() if each.phase is ClientPhase.UNKNOWN]
        named = {each.session for each in self.machine.clients.values() if each.session}
        complete_to = min((number for number, _ in self.questions), default=self.asked + 1) - 1
        for report in self.world.reports:
            if isinstance(report, ReportEnd) and report.session in self.world.service:
                self.world.service[report.session].open = False
        self.world.reports.clear()
        adopted = tuple(
            api.Adopted(client_id=cid, session=session)
            for cid in asked
            for session, each in self.world.service.items()
            if each.open and each.cid == cid and each.address == self.machine.clients[cid].address
        )
        for session, each in self.world.service.items():
            if session not in named | {one.session for one in adopted} and each.sequence <= complete_to:
                each.open = False
        self.perform(self.machine.orders(asked, api.HeartbeatAnswer(adopted=adopted)))
        self.tell_late()
        established = {
            self.machine.clients[cid].session for cid, each in self.world.server.items() if each.established
        }
        opened = {session for session, each in self.world.service.items() if each.open}
        assert established <= opened, "a client is up without a session"
        assert len(established) == sum(each.established for each in self.world.server.values())

    # --- what is always so

    @invariant()
    def no_address_has_two_clients(self) -> None:
        addresses = [each.address for each in self.world.server.values() if each.address]
        assert len(addresses) == len(set(addresses))

    def teardown(self) -> None:
        """In the end, with a sidecar and a service, the open sessions are the clients of the server."""
        if self.machine is None and self.world.journal:
            self.a_sidecar_starts()
        if self.machine is None:
            return
        while self.questions:
            number, question = self.questions.pop()
            answer = allowed(question.session) if question.session else self.opened(number, question, "allow")
            self.perform(self.machine.decided(question.cid, question.kid, answer))
            self.tell_late()
        for client in self.world.server.values():
            assert client.address, "a login hangs"
        self.a_heartbeat()
        self.a_heartbeat()
        opened = {session for session, each in self.world.service.items() if each.open}
        assert opened == {self.machine.clients[cid].session for cid in self.world.server}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
