"""The session service: each question and each command as one transaction, and who is woken by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from hub.core import api
from hub.core.api import StaffSessionState
from hub.core.identity import Attempt
from hub.core.people import Block
from hub.core.sessions import StaffSession
from hub.service import nodes, views
from hub.service.changes import Changes
from hub.service.database import Database, Transaction
from hub.service.followers import Followers
from hub.service.logins import Ask, Logins, ProvedIdentity
from hub.service.proof_records import digest
from hub.service.records import Records
from hub.service.rules import Rules

AnswerT = TypeVar("AnswerT")

ADDRESSES, EVENTS = "addresses", "events"  # topics of `Changes`; the others are names of nodes
_SILENT_HEARTBEATS = 3
_PRUNED_AT_ONCE = 1000


class SessionService:
    """Everything but HTTP. `ask`: sends a notification, and does not wait for it."""

    def __init__(
        self,
        database: Database,
        rules: Rules,
        heartbeat_seconds: float,
        ask: Callable[[Ask], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules
        self.changes = Changes()
        self.followers = Followers(time.monotonic)
        self._database, self._ask, self._now = database, ask, now
        self._seen = 0  # the newest revision that was looked at
        self._silent_seconds = heartbeat_seconds * _SILENT_HEARTBEATS

    # --- sidecars

    async def login(self, request: api.LoginRequest) -> api.LoginAnswer:
        """Decide a login or a renewal."""
        return await self._answered(lambda records, logins: logins.login(records, request))

    async def typed(self, answer: api.ChallengeAnswer) -> api.LoginAnswer:
        """Decide by what a person typed."""
        return await self._answered(lambda records, logins: logins.typed(records, answer))

    async def up(self, message: api.SessionUp) -> None:
        """A client has its address."""
        await self._write(lambda records, _: nodes.up(records, message))

    async def ended(self, message: api.SessionEnds) -> None:
        """Sessions that have ended on their node."""
        await self._write(lambda records, _: nodes.ended(records, message))

    async def heartbeat(self, message: api.Heartbeat) -> api.HeartbeatAnswer:
        """Compare with what the node has; while there is nothing to do the answer waits. LateMessage."""
        begun = self.changes.begin(message.node)
        known = await self._read(lambda records, _: nodes.all_as_known(records, message))
        answer = await self._write(lambda records, logins: nodes.heartbeat(records, logins, message, known))
        if message.wait == 0 or answer != api.HeartbeatAnswer(closed=answer.closed):
            await self.changes.wait(begun, message.node, 0)
            return answer
        await self.changes.wait(begun, message.node, message.wait)
        if not begun.done():
            return answer
        later = await self._read(lambda records, logins: nodes.orders(records, logins, message))
        return later.model_copy(update={"closed": answer.closed})

    # --- facilitators

    async def addresses(self, name: str, after: int, wait: float) -> api.AddressBook:
        """Who has which address: all, or what changed after a revision."""
        self.followers.asks(name, after)
        begun = self.changes.begin(ADDRESSES)
        book = await self._read(lambda records, _: self._book(records, after))
        if not book.entries and not book.complete:
            await self.changes.wait(begun, ADDRESSES, wait)
            book = await self._read(lambda records, _: self._book(records, after)) if begun.done() else book
        else:
            await self.changes.wait(begun, ADDRESSES, 0)
        return book

    def _book(self, records: Records, after: int) -> api.AddressBook:
        current = records.revision()
        complete = not records.oldest_revision() <= after <= current or after == 0
        rows = records.holding() if complete else records.changed_after(after)
        silent = self._silent(records)
        entries = tuple(views.address_entry(row, silent) for row in rows)
        partly = not complete and len(rows) > 0
        revision = rows[-1].revision if partly else current
        return api.AddressBook(revision=revision, complete=complete, entries=entries, time=records.now)

    # --- operators

    async def sessions(self, person: str | None, address: str | None, limit: int) -> api.SessionList:
        """Who is connected."""

        def found(records: Records) -> list[StaffSession]:
            if address is not None:
                return records.open_at(address)
            return records.open_of(person) if person is not None else records.open_sessions(limit)

        return await self._read(lambda records, _: self._list(records, found(records)[:limit]))

    async def history(
        self, person: str | None, address: str | None, at: float | None, limit: int
    ) -> api.SessionList:
        """Who was; with an address and a moment: who had it then."""

        def found(records: Records) -> list[StaffSession]:
            if address is not None and at is not None:
                holder = records.holder(address, at)
                return [holder] if holder is not None else []
            return records.history(person, address, limit)

        return await self._read(lambda records, _: self._list(records, found(records)))

    def _list(self, records: Records, rows: Iterable[StaffSession]) -> api.SessionList:
        silent = self._silent(records)
        return api.SessionList(
            sessions=tuple(views.session_view(row, silent) for row in rows), time=records.now
        )

    async def nodes(self) -> api.NodeList:
        """The OpenVPN servers."""

        def found(records: Records) -> api.NodeList:
            silent = self._silent(records)
            return api.NodeList(
                nodes=tuple(views.node_view(row, silent) for row in records.nodes()), time=records.now
            )

        return await self._read(lambda records, _: found(records))

    async def end(self, command: api.EndCommand, by: str) -> api.CommandAnswer:
        """End sessions."""
        found = await self._write(lambda records, _: nodes.end_sessions(records, command, by))
        return api.CommandAnswer(sessions=found)

    async def block(self, command: api.BlockCommand, by: str) -> api.CommandAnswer:
        """Block a person and end its sessions, or take that back."""

        def work(records: Records) -> tuple[str, ...]:
            if not command.blocked:
                records.clear_block(command.person)
                records.event("unblocked", None, command.person, {"by": by})
                return ()
            records.set_block(Block(command.person, records.now, by, command.until))
            records.event("blocked", None, command.person, {"by": by, "until": command.until})
            return nodes.end_all_of(records, command.person, command.text, by)

        return api.CommandAnswer(sessions=await self._write(lambda records, _: work(records)))

    async def events(self, after: int, person: str | None, limit: int, wait: float) -> api.EventList:
        """The trail."""
        begun = self.changes.begin(EVENTS)
        rows = await self._read(lambda records, _: records.events_after(after, person, limit))
        await self.changes.wait(begun, EVENTS, 0 if rows else wait)
        if not rows and begun.done():
            rows = await self._read(lambda records, _: records.events_after(after, person, limit))
        return api.EventList(
            revision=rows[-1]["revision"] if rows else after, events=tuple(map(views.event_view, rows))
        )

    # --- people's browsers

    async def approval(self, token: str) -> tuple[str, StaffSession] | None:
        """The number and the login that an open link is for; None: there is none."""

        def found(records: Records) -> tuple[str, StaffSession] | None:
            link = records.approval(digest(token))
            row = records.session(link["session"]) if link is not None else None
            if link is None or row is None or row.state is not StaffSessionState.PENDING:
                return None
            return str(link["number"]), row

        return await self._read(lambda records, _: found(records))

    async def approve(self, token: str, number: str) -> StaffSession | None:
        """Decide a login by its link alone, which is used up by that; None: nothing was decided."""
        return await self._write(lambda records, logins: logins.decide(records, digest(token), number, None))

    async def begin_proof(self, token: str, number: str, attempt: Attempt, seconds: float) -> bool:
        """A browser goes to the identity provider; False: too many have gone with this link."""
        return await self._write(
            lambda records, _: records.add_attempt(
                attempt.state, attempt.browser, digest(token), number, records.now + seconds
            )
        )

    async def end_proof(self, attempt: Attempt) -> tuple[str, str] | None:
        """This browser is back: the link, and what was pressed. None: it had not gone."""
        found = await self._write(lambda records, _: records.use_attempt(attempt.state, attempt.browser))
        return (found["link"], found["number"]) if found is not None else None

    async def proved(self, link: str, number: str, proof: ProvedIdentity) -> StaffSession | None:
        """Decide a login by its link (`link`: its digest) and an identity. NotTheirs: the link stays open."""
        return await self._write(lambda records, logins: logins.decide(records, link, number, proof))

    # --- by itself

    async def end_overdue(self) -> None:
        """Ask for the end of sessions that are too long, and refuse logins that have waited too long."""
        if await self._read(lambda records, _: records.overdue()):
            await self._write(nodes.end_overdue)

    async def apply_people(self) -> None:
        """Ask for the end of sessions of people who have no access any more, and publish changed groups."""
        found = await self._read(nodes.changed_people)
        if found.outside or found.regrouped:
            await self._write(nodes.apply_people)

    async def look_for_others(self) -> None:
        """Wake everybody who waits, if another process has written."""
        revision = await self._read(lambda records, _: records.revision())
        if revision != self._seen:
            self._seen = revision
            self.changes.tell_all()

    async def forget(self, retention_seconds: float) -> None:
        """Delete what is older."""
        before = self._now() - retention_seconds
        while await self._write(lambda records, _: records.forget_before(before, _PRUNED_AT_ONCE)):
            continue

    async def _answered(self, work: Callable[[Records, Logins], api.LoginAnswer]) -> api.LoginAnswer:
        """Facilitators have the name of the address before the client has the address."""
        revisions: list[int] = []

        def noted(records: Records, logins: Logins) -> api.LoginAnswer:
            answer = work(records, logins)
            revisions.append(records.revision())
            return answer

        answer = await self._write(noted)
        if isinstance(answer, api.Allowed):
            await self.followers.have(revisions[-1])
        return answer

    async def _write(self, work: Callable[[Records, Logins], AnswerT]) -> AnswerT:
        logins = Logins(self.rules)

        def transaction(transaction: Transaction) -> tuple[AnswerT, frozenset[str], bool]:
            records = Records(transaction, self._now())
            before = records.revision()
            answer = work(records, logins)
            return answer, frozenset(records.touched), records.revision() != before

        answer, touched, changed = await self._database.write(transaction)
        if changed:
            self.changes.tell((ADDRESSES, EVENTS, *touched))
        for ask in logins.asks:
            self._ask(ask)
        return answer

    async def _read(self, work: Callable[[Records, Logins], AnswerT]) -> AnswerT:
        return await self._database.read(
            lambda transaction: work(Records(transaction, self._now()), Logins(self.rules))
        )

    def _silent(self, records: Records) -> frozenset[str]:
        """Nodes that have not sent a heartbeat for three times their interval."""
        return frozenset(
            row["node"] for row in records.nodes_seen() if row["seen"] + self._silent_seconds < records.now
        )
