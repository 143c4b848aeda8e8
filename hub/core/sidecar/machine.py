"""The sidecar's state machine: what happens at the server and what the service says -> what is to be done.

Pure: time, sockets and the disk are elsewhere (hub.sidecar). Every method yields the effects in their order;
a client is journaled before the server hears that it may enter, so a sidecar that dies in between is followed
by one that knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hub.core import api
from hub.core.api import EndReason
from hub.core.openvpn import commands
from hub.core.openvpn.clients import ClientFacts, ClientRow, client_facts
from hub.core.openvpn.messages import AddressMessage, ClientEvent, ClientMessage
from hub.core.sidecar.answers import denial_text, question
from hub.core.sidecar.clients import (
    AskAnswer,
    AskLogin,
    ClientPhase,
    CutLater,
    Effect,
    Forget,
    Note,
    Remember,
    ReportEnd,
    ReportUp,
    Send,
    ServerClient,
    StopLater,
)

CUT_SECONDS = 0.3  # between HALT and the cut: a client that obeys has ended by itself
MOVE_SECONDS = 2.0  # for clients to leave for another server when a drain's time is over
MAX_CLIENTS = 10_000
UNDEFINED = "UNDEF"  # the name of a client whose certificate the server has not seen: its login will come
_GONE = "your access has ended"


@dataclass(frozen=True, slots=True)
class NodeDrain:
    """No new logins; `deadline` in Unix seconds, None: it waits until the last client has left."""

    deadline: float | None


class SidecarMachine:
    """The clients of one run of the server, and whether it drains."""

    def __init__(self, clients: Iterable[ServerClient] = (), drain: NodeDrain | None = None) -> None:
        self.clients = {client.cid: client for client in clients}
        self.drain = drain
        self._stopping = False

    # --- what the server says ---

    def client(self, message: ClientMessage) -> Iterator[Effect]:
        """An event of a client."""
        known = self.clients.get(message.cid)
        match message.event:
            case ClientEvent.CONNECT if message.kid is not None:
                yield from self._connect(message.cid, message.kid, client_facts(message.env))
            case ClientEvent.REAUTH if message.kid is not None:
                yield from self._renegotiate(known, message.cid, message.kid, client_facts(message.env))
            case ClientEvent.CR_RESPONSE if known is not None:
                if known.phase is ClientPhase.WAITING and message.kid == known.kid:
                    yield AskAnswer(known.cid, known.kid, known.session, message.answer)
            case ClientEvent.ESTABLISHED if known is not None:
                yield from self._up(known)
            case ClientEvent.DISCONNECT if known is not None:
                yield from self._gone(known, message.env)

    def address(self, message: AddressMessage) -> Iterator[Effect]:
        """A client uses an address: it must be the one that it was given."""
        known = self.clients.get(message.cid)
        if known is None or not message.primary or message.address == known.address:
            return
        yield _note("wrong address", known, address=message.address)
        yield from self.end(known.cid, EndReason.NO_ADDRESS)

    def _connect(self, cid: int, kid: int, facts: ClientFacts) -> Iterator[Effect]:
        refusal = self._refusal(facts)
        if refusal is not None:
            yield from _refused(cid, kid, facts, refusal)
            return
        self.clients[cid] = ServerClient(cid, kid, facts.person, facts.digest, facts.real, facts.flags)
        yield AskLogin(cid, kid, facts)

    def _refusal(self, facts: ClientFacts) -> api.Denied | None:
        """What is refused without a question."""
        if self.drain is not None:
            return _denied(EndReason.NODE_DRAINED, "this server is draining, please try another one", 1)
        if not facts.person or not facts.serial:
            return _denied(EndReason.METHOD_UNUSABLE, "a certificate is needed")
        if len(self.clients) >= MAX_CLIENTS:
            return _denied(EndReason.TOO_MANY_LOGINS, "this server is full, please try another one", 5)
        return None

    def _renegotiate(
        self, known: ServerClient | None, cid: int, kid: int, facts: ClientFacts
    ) -> Iterator[Effect]:
        if known is None or not (known.established or known.phase is ClientPhase.UNKNOWN):
            yield from _refused(cid, kid, facts, _denied(EndReason.LEFT, _GONE))
        elif facts.person != known.person or (known.digest and facts.digest != known.digest):
            yield from _refused(cid, kid, facts, _denied(EndReason.DENIED, _GONE))
            yield from self.end(cid, EndReason.DENIED)
        else:
            self.clients[cid] = renewed = replace(known, kid=kid, real=facts.real or known.real)
            yield Remember(renewed)
            yield AskLogin(cid, kid, facts, known.session)

    def _up(self, known: ServerClient) -> Iterator[Effect]:
        if known.phase is not ClientPhase.ALLOWED:
            return
        yield from self._put(replace(known, phase=ClientPhase.UP))
        yield ReportUp(known.session, known.address)
        yield _note("up", known, address=known.address)

    def _gone(self, known: ServerClient, env: Mapping[str, str]) -> Iterator[Effect]:
        del self.clients[known.cid]
        yield Forget(known.cid)
        if known.session:
            reason = self._reason(known)
            yield ReportEnd(known.session, reason, _count(env, "bytes_received"), _count(env, "bytes_sent"))
            yield _note("ended", known, reason=reason)
        yield from self._perhaps_drained()

    def _reason(self, client: ServerClient) -> EndReason:
        if client.ending is not None:
            return client.ending
        if client.phase in (ClientPhase.WAITING, ClientPhase.ALLOWED):
            return EndReason.TIMEOUT
        return EndReason.NODE_DRAINED if self._stopping else EndReason.LEFT

    # --- what the service says ---

    def decided(self, cid: int, kid: int, answer: api.LoginAnswer) -> Iterator[Effect]:
        """The service's answer about a client. One that comes too late changes nothing here; the session
        that it opened is closed.
        """
        known = self.clients.get(cid)
        if known is None or known.kid != kid or known.phase is ClientPhase.ENDING:
            yield from _too_late(known, answer)
        elif known.phase in (ClientPhase.ASKED, ClientPhase.WAITING):
            yield from self._login_decided(known, answer)
        else:
            yield from self._renewal_decided(known, answer)

    def unanswered(self, cid: int, kid: int) -> Iterator[Effect]:
        """The service cannot be reached: nobody new enters, who is in may stay."""
        known = self.clients.get(cid)
        if known is None or known.kid != kid or known.phase is ClientPhase.ENDING:
            return
        if known.phase in (ClientPhase.ASKED, ClientPhase.WAITING):
            text = "the login service is not reachable, please try again later"
            yield from self.decided(cid, kid, _denied(EndReason.TIMEOUT, text, 1))
        else:
            yield Send(_yes(known))
            yield _note("renewed without the service", known)

    def acts_on(self, answer: api.HeartbeatAnswer) -> frozenset[str]:
        """Sessions with a decision that `orders` carries out. The answer to a login may come after its
        decision, which is of no use before.
        """
        known = {client.session for client in self.clients.values()}
        return frozenset([decision.session for decision in answer.decided]) & known

    def orders(self, asked: Iterable[int], answer: api.HeartbeatAnswer) -> Iterator[Effect]:
        """What the answer to a heartbeat asks for. `asked`: the clients that were named as unknown; one that
        the service does not adopt logs in again.
        """
        yield from self._not_open(answer.unknown)
        for adopted in answer.adopted:
            known = self.clients.get(adopted.client_id)
            if known is not None and known.phase is ClientPhase.UNKNOWN:
                yield from self._put(replace(known, session=adopted.session, phase=ClientPhase.UP))
                yield _note("adopted", self.clients[known.cid])
        for order in answer.end:
            for client in [each for each in self.clients.values() if each.session == order.session]:
                yield from self.end(client.cid, order.reason, order.text)
        for decision in answer.decided:
            known = self.clients.get(decision.client_id)
            if known is not None and known.session == decision.session:
                yield from self.decided(decision.client_id, decision.key_id, decision.answer)
        for cid in asked:
            known = self.clients.get(cid)
            if known is not None and known.phase is ClientPhase.UNKNOWN:
                yield Send(commands.reconnect(cid))
                yield _note("sent round again", known)

    def _not_open(self, sessions: Iterable[str]) -> Iterator[Effect]:
        """The service has no such sessions (its database is an older one): it is asked whose clients these
        are, and who only waits logs in again.
        """
        lost = set(sessions)
        for client in [each for each in self.clients.values() if each.session in lost]:
            match client.phase:
                case ClientPhase.UP:
                    yield from self._put(replace(client, session="", phase=ClientPhase.UNKNOWN))
                case ClientPhase.ALLOWED | ClientPhase.WAITING:
                    yield Send(commands.reconnect(client.cid))
                    yield _note("sent round again", client)

    def end_person(self, person: str) -> Iterator[Effect]:
        """Somebody on this host wants a person's sessions to end (the service may be away)."""
        for client in [each for each in self.clients.values() if each.person == person]:
            yield from self.end(client.cid, EndReason.ENDED_BY_ADMIN)

    def end(self, cid: int, reason: EndReason, shown: str = _GONE) -> Iterator[Effect]:
        """End one client: it is told, and cut off 0.3 s later. May be repeated."""
        known = self.clients.get(cid)
        if known is None:
            return
        ending = replace(known, phase=ClientPhase.ENDING, ending=known.ending or reason)
        yield from self._put(ending)
        yield Send(commands.halt(cid, shown))
        yield CutLater(CUT_SECONDS, cid, known.session)
        yield _note("ending", ending, reason=ending.ending or reason)

    def cut(self, cid: int, session: str) -> Iterator[Effect]:
        """The time between HALT and the cut is over."""
        known = self.clients.get(cid)
        if known is None or known.session != session or known.phase is not ClientPhase.ENDING:
            return
        kill = commands.cut(known.real)
        if kill is not None:
            yield Send(kill)
        else:  # `kill` takes no IPv6 address: a refused key stops the traffic as well
            yield Send(commands.deny(cid, known.kid, "ended", _GONE))
            yield Send(commands.halt(cid, _GONE))

    def _login_decided(self, known: ServerClient, answer: api.LoginAnswer) -> Iterator[Effect]:
        match answer:
            case api.Allowed():
                yield from self._admit(known, answer)
            case api.Denied():
                yield from self._refuse(known, answer.reason, denial_text(answer, known.flags))
            case api.Challenged(by="crv1"):
                yield from self._refuse(known, "challenge", question(answer, known))
            case api.Challenged() | api.Waiting():
                yield from self._hold_on(known, answer)

    def _admit(self, known: ServerClient, answer: api.Allowed) -> Iterator[Effect]:
        allowed = replace(
            known,
            session=answer.session,
            address=str(answer.address),
            netmask=str(answer.netmask),
            phase=ClientPhase.ALLOWED,
        )
        others = (each for each in self.clients.values() if each.cid != known.cid)
        if any(each.address == allowed.address for each in others):
            # OpenVPN itself would give it to both, and the later one takes the route of the earlier one.
            shown = denial_text(_denied(EndReason.NO_ADDRESS, "your address is in use", 2), known.flags)
            yield from self._refuse(allowed, "address in use", shown)
            yield ReportEnd(allowed.session, EndReason.NO_ADDRESS)
            return
        yield from self._put(allowed)
        yield Send(_yes(allowed))
        yield _note("allowed", allowed, address=allowed.address)

    def _hold_on(self, known: ServerClient, answer: api.Challenged | api.Waiting) -> Iterator[Effect]:
        command = commands.wait(known.cid, known.kid, question(answer, known), answer.timeout)
        if not commands.fits(command):
            yield from self._refuse(known, "question too long", "the login failed")
            yield ReportEnd(answer.session, EndReason.METHOD_UNUSABLE)
            return
        waiting = replace(known, session=answer.session, phase=ClientPhase.WAITING)
        yield from self._put(waiting)
        yield Send(command)
        yield _note("waiting", waiting)

    def _refuse(self, known: ServerClient, reason: str, shown: str) -> Iterator[Effect]:
        del self.clients[known.cid]
        yield Forget(known.cid)
        yield Send(commands.deny(known.cid, known.kid, reason, shown))
        yield _note("refused", known, reason=reason)
        yield from self._perhaps_drained()

    def _renewal_decided(self, known: ServerClient, answer: api.LoginAnswer) -> Iterator[Effect]:
        match answer:
            case api.Allowed() if known.session in ("", answer.session):
                yield Send(_yes(known))
            case api.Denied():
                yield Send(commands.deny(known.cid, known.kid, answer.reason, answer.text))
                yield from self.end(known.cid, answer.reason, answer.text)
            case api.Waiting() | api.Challenged():
                # A question about a live session would stop its traffic until somebody answers.
                yield Send(_yes(known))
            case _:
                yield Send(commands.deny(known.cid, known.kid, "another session", _GONE))
                yield from self.end(known.cid, EndReason.REPLACED)

    # --- a sidecar that comes back ---

    def reconcile(self, rows: Iterable[ClientRow]) -> Iterator[Effect]:
        """Compare what the journal says with the clients that the server has now.

        A login whose question was lost is sent round again; one that was allowed is allowed once more
        (OpenVPN takes that twice); keys that were renegotiated meanwhile are accepted, because OpenVPN keeps
        the certificate's name of a session.
        """
        present = {row.cid: row for row in rows}
        for client in list(self.clients.values()):
            row = present.get(client.cid)
            if row is None or row.name != client.person:
                yield from self._unseen(client)
            else:
                yield from self._adopt(client, row)
        for row in present.values():
            if row.cid not in self.clients and row.name != UNDEFINED:
                yield from self._found(row)
        yield from self._perhaps_drained()

    def _unseen(self, client: ServerClient) -> Iterator[Effect]:
        del self.clients[client.cid]
        yield Forget(client.cid)
        if client.session:
            yield ReportEnd(client.session, client.ending or EndReason.LEFT)

    def _adopt(self, client: ServerClient, row: ClientRow) -> Iterator[Effect]:
        self.clients[client.cid] = client = replace(client, real=row.real)
        match client.phase:
            case ClientPhase.ENDING:
                yield from self.end(client.cid, client.ending or EndReason.LEFT)
            case ClientPhase.ALLOWED if row.address:
                yield from self._up(client)
            case ClientPhase.ALLOWED:
                yield Send(_yes(client))
            case ClientPhase.UP:
                for kid in (client.kid + 1, client.kid + 2):
                    yield Send(_yes(replace(client, kid=kid)))

    def _found(self, row: ClientRow) -> Iterator[Effect]:
        if row.address:
            self.clients[row.cid] = ServerClient(
                row.cid, 0, row.name, "", row.real, address=row.address, phase=ClientPhase.UNKNOWN
            )
            yield Note("unknown client", {"cid": row.cid, "person": row.name})
        else:
            yield Send(commands.reconnect(row.cid))
            yield Note("sent round again", {"cid": row.cid, "person": row.name})

    # --- draining ---

    def begin_drain(self, drain: NodeDrain) -> Iterator[Effect]:
        """No new logins from now on; the server is stopped after the last client."""
        self.drain = drain
        yield Note("draining", {"clients": len(self.clients)})
        yield from self._perhaps_drained()

    def drain_is_over(self) -> Iterator[Effect]:
        """The deadline: the clients are told to go to the next server, then this one stops."""
        if self.drain is None or self._stopping:
            return
        self._stopping = True
        yield Note("the drain's timeout has expired", {"clients": len(self.clients)})
        for cid in self.clients:
            yield Send(commands.move(cid))
        yield StopLater(MOVE_SECONDS)

    def _perhaps_drained(self) -> Iterator[Effect]:
        if self.drain is not None and not self.clients:
            self._stopping = True
            yield Note("drained")
            yield StopLater(0.0)

    def _put(self, client: ServerClient) -> Iterator[Effect]:
        self.clients[client.cid] = client
        yield Remember(client)


def _yes(client: ServerClient) -> str:
    """Its login is allowed; the key of a client that is up is only renewed, its address stays."""
    if client.phase is ClientPhase.ALLOWED:
        return commands.allow(client.cid, client.kid, client.address, client.netmask)
    return commands.renew(client.cid, client.kid)


def _denied(reason: EndReason, text: str, retry: int | None = None) -> api.Denied:
    return api.Denied(reason=reason, text=text, elsewhere=retry is not None, backoff=retry or 0)


def _refused(cid: int, kid: int, facts: ClientFacts, refusal: api.Denied) -> Iterator[Effect]:
    yield Send(commands.deny(cid, kid, refusal.reason, denial_text(refusal, facts.flags)))
    yield Note("refused", {"cid": cid, "person": facts.person, "reason": refusal.reason})


def _too_late(known: ServerClient | None, answer: api.LoginAnswer) -> Iterator[Effect]:
    """The client is gone, or a newer key of it is asked about."""
    if answer.session is not None and (known is None or known.session != answer.session):
        yield ReportEnd(answer.session, EndReason.TIMEOUT)


def _count(env: Mapping[str, str], name: str) -> int:
    value = env.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else 0


def _note(what: str, client: ServerClient, **more: str | int) -> Note:
    return Note(what, {"cid": client.cid, "person": client.person, "session": client.session, **more})
