"""What the service reads and writes within one transaction: sessions, addresses, nodes, events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, fields, replace
from ipaddress import IPv4Address

from hub.core.addresses import AddressPool
from hub.core.api import EndReason, Method, StaffSessionState
from hub.core.people import Block, Person
from hub.core.roll_call import OpenSession
from hub.core.sessions import StaffSession
from hub.service.database import Row, Transaction
from hub.service.proof_records import ProofRecords

_COLUMNS = tuple(field.name for field in fields(StaffSession))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM sessions"  # noqa: S608 - names of fields
_SAVE = (
    f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])}"
)
MAX_ROWS = 10_000

Detail = Mapping[str, str | float | None]
_NOTHING: Detail = {}


def _session(row: Row) -> StaffSession:
    return StaffSession(
        **{
            **row,
            "method": Method(row["method"]),
            "state": StaffSessionState(row["state"]),
            "reason": EndReason(row["reason"]) if row["reason"] is not None else None,
            "end_reason": EndReason(row["end_reason"]) if row["end_reason"] is not None else None,
            "decided": bool(row["decided"]),
        }
    )


def _values(session: StaffSession) -> tuple[object, ...]:
    return tuple(int(value) if isinstance(value, bool) else value for value in astuple(session))


class Records(ProofRecords):
    """The tables within one transaction."""

    def __init__(self, transaction: Transaction, now: float) -> None:
        super().__init__(transaction, now)
        self._transaction = transaction
        self.touched: set[str] = set()  # nodes that have something new to do

    # --- sessions

    def session(self, identifier: str) -> StaffSession | None:
        """The session with this id."""
        return self._one(f"{_SELECT} WHERE id = ?", identifier)

    def sessions(self, identifiers: Iterable[str]) -> Iterator[StaffSession]:
        """The sessions with these ids."""
        return (found for each in identifiers if (found := self.session(each)) is not None)

    def of_request(self, node: str, boot: str, sequence: int) -> StaffSession | None:
        """The session that this login request has made."""
        return self._one(f"{_SELECT} WHERE node = ? AND boot = ? AND sequence = ?", node, boot, sequence)

    def of_client(self, node: str, boot: str, client_id: int) -> StaffSession | None:
        """The open session of this client."""
        return self._one(
            f"{_SELECT} WHERE node = ? AND boot = ? AND client_id = ? AND ended IS NULL ORDER BY sequence DESC LIMIT 1",
            node, boot, client_id,
        )  # fmt: skip

    def open_on(self, node: str) -> list[OpenSession]:
        """The open sessions of a node."""
        found = self._run(
            "SELECT id, boot, state, sequence FROM sessions WHERE node = ? AND ended IS NULL", node
        )
        return [OpenSession(**row) for row in found]

    def open_ids_on(self, node: str, sequence: int) -> list[str]:
        """Ids of the open sessions of a node that began with this login or an earlier one."""
        return self._transaction.column(
            "SELECT id FROM sessions WHERE node = ? AND ended IS NULL AND sequence <= ?", node, sequence
        )

    def unsettled_on(self, node: str, boot: str) -> list[OpenSession]:
        """Open sessions of the node that are of another run of OpenVPN, or that are allowed and not up."""
        found = self._run(
            "SELECT id, boot, state, sequence FROM sessions WHERE node = ? AND ended IS NULL "
            "AND (boot <> ? OR state = ?)",
            node, boot, StaffSessionState.ALLOWED,
        )  # fmt: skip
        return [OpenSession(**row) for row in found]

    def open_of(self, person: str) -> list[StaffSession]:
        """The open sessions of a person, the oldest first."""
        return self._all(f"{_SELECT} WHERE person = ? AND ended IS NULL ORDER BY asked", person)

    def open_at(self, address: str) -> list[StaffSession]:
        """The open session that holds this address."""
        return self._all(f"{_SELECT} WHERE address = ? AND ended IS NULL", address)

    def open_sessions(self, limit: int = MAX_ROWS * 10) -> list[StaffSession]:
        """All open sessions, the newest first."""
        return self._all(f"{_SELECT} WHERE ended IS NULL ORDER BY asked DESC LIMIT ?", limit)

    def overdue(self) -> list[StaffSession]:
        """Open sessions and waiting logins whose time is over, and whose end nobody has asked for."""
        return self._all(
            f"{_SELECT} WHERE ended IS NULL AND end_asked IS NULL AND until IS NOT NULL AND until <= ?",
            self.now,
        )

    def people_inside(self) -> list[tuple[str, str]]:
        """The persons of open sessions whose end nobody has asked for, with the groups of their sessions."""
        found = self._run(
            "SELECT DISTINCT person, groups FROM sessions WHERE ended IS NULL AND end_asked IS NULL"
        )
        return [(row["person"], row["groups"]) for row in found]

    def to_do(self, node: str) -> list[StaffSession]:
        """The sessions of a node that should end, and the logins on it that are decided."""
        ending = self._all(f"{_SELECT} WHERE node = ? AND ended IS NULL AND end_asked IS NOT NULL", node)
        return ending + self._all(f"{_SELECT} WHERE node = ? AND decided = 1", node)

    def logins_since(self, person: str, moment: float) -> int:
        """How many logins of this person began after that."""
        return int(
            self._run("SELECT count(*) AS n FROM sessions WHERE person = ? AND asked > ?", person, moment)[0][
                "n"
            ]
        )

    def save(self, session: StaffSession, what: str, detail: Detail = _NOTHING) -> StaffSession:
        """Write the session, and an event that says what happened; it has the same revision."""
        revision = self.event(what, session.id, session.person, {"node": session.node, **detail})
        saved = replace(session, revision=revision)
        self._run(_SAVE, *_values(saved))
        if saved.end_asked is not None or saved.decided:
            self.touched.add(saved.node)
        return saved

    def update(self, session: StaffSession) -> None:
        """Write the session without an event."""
        self._run(_SAVE, *_values(session))

    def count_bytes(self, counters: Mapping[str, tuple[int, int]]) -> None:
        """Bytes received from and sent to clients."""
        self._transaction.many(
            "UPDATE sessions SET received_bytes = ?, sent_bytes = ? WHERE id = ? AND ended IS NULL",
            [(received, sent, session) for session, (received, sent) in counters.items()],
        )

    # --- the past

    def changed_after(self, revision: int) -> list[StaffSession]:
        """Sessions with an address that changed after this revision, in its order."""
        return self._all(
            f"{_SELECT} WHERE revision > ? AND address IS NOT NULL ORDER BY revision LIMIT ?",
            revision,
            MAX_ROWS,
        )

    def holding(self) -> list[StaffSession]:
        """All sessions that hold an address."""
        return self._all(f"{_SELECT} WHERE ended IS NULL AND address IS NOT NULL ORDER BY revision")

    def holder(self, address: str, moment: float) -> StaffSession | None:
        """Who held the address at that moment: of those who ever did, the last one that had begun."""
        last = self._one(
            f"{_SELECT} WHERE address = ? AND since <= ? ORDER BY since DESC LIMIT 1", address, moment
        )
        return last if last is not None and (last.ended is None or last.ended > moment) else None

    def history(self, person: str | None, address: str | None, limit: int) -> list[StaffSession]:
        """Sessions that were or are, the newest first."""
        if address is not None:
            return self._all(f"{_SELECT} WHERE address = ? ORDER BY since DESC LIMIT ?", address, limit)
        if person is not None:
            return self._all(f"{_SELECT} WHERE person = ? ORDER BY asked DESC LIMIT ?", person, limit)
        return self._all(f"{_SELECT} ORDER BY asked DESC LIMIT ?", limit)

    def events_after(self, revision: int, person: str | None, limit: int) -> list[Row]:
        """Events in order."""
        of_person, parameters = ("AND person = ?", (person,)) if person is not None else ("", ())
        return self._run(
            f"SELECT revision, at, what, session, person, detail FROM events WHERE revision > ? {of_person} "  # noqa: S608 - no values
            "ORDER BY revision LIMIT ?",
            revision, *parameters, limit,
        )  # fmt: skip

    def revision(self) -> int:
        """That of the last event."""
        return int(self._run("SELECT revision FROM counter")[0]["revision"])

    def oldest_revision(self) -> int:
        """That of the oldest event that is kept."""
        return int(self._run("SELECT min(revision) AS oldest FROM events")[0]["oldest"] or 0)

    def event(
        self, what: str, session: str | None = None, person: str | None = None, detail: Detail = _NOTHING
    ) -> int:
        """Add an event to the trail; its revision."""
        revision = int(
            self._run("UPDATE counter SET revision = revision + 1 RETURNING revision")[0]["revision"]
        )
        self._run(
            "INSERT INTO events (revision, at, what, session, person, detail) VALUES (?, ?, ?, ?, ?, ?)",
            revision, self.now, what, session, person, json.dumps(dict(detail)),
        )  # fmt: skip
        return revision

    def forget_before(self, moment: float, limit: int) -> bool:
        """Delete events and ended sessions from before that, at most so many; True: there are more."""
        self._run(
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE asked < ? AND ended < ? LIMIT ?)",
            moment, moment, limit,
        )  # fmt: skip
        self._run(
            "DELETE FROM events WHERE revision IN (SELECT revision FROM events WHERE at < ? ORDER BY revision LIMIT ?)",
            moment, limit,
        )  # fmt: skip
        return bool(self._run("SELECT revision FROM events WHERE at < ? LIMIT 1", moment))

    # --- addresses

    def give_address(
        self, person: Person, session: str, pool: AddressPool, rest: float
    ) -> IPv4Address | None:
        """Reserve an address for this session; None: there is none."""
        wanted = (
            iter((person.address,))
            if person.address is not None
            else self._candidates(person.name, pool, rest)
        )
        return next((each for each in wanted if self.take_address(each, person.name, session, rest)), None)

    def take_address(self, address: IPv4Address, person: str, session: str, rest: float) -> bool:
        """Reserve this address; False: it is held already, or rests from another person."""
        found = self._run("SELECT person, session, released FROM addresses WHERE address = ?", int(address))
        if found and found[0]["session"] is not None:
            return False
        if found and found[0]["person"] != person and found[0]["released"] + rest > self.now:
            return False
        self._run(
            "INSERT INTO addresses (address, person, session, released) VALUES (?, ?, ?, 0) ON CONFLICT (address) "
            "DO UPDATE SET person = excluded.person, session = excluded.session",
            int(address), person, session,
        )  # fmt: skip
        return True

    def release_address(self, session: StaffSession) -> None:
        """The session is over: its address rests from now on."""
        if session.address is not None:
            self._run(
                "UPDATE addresses SET session = NULL, released = ? WHERE address = ? AND session = ?",
                self.now, int(IPv4Address(session.address)), session.id,
            )  # fmt: skip

    def _candidates(self, person: str, pool: AddressPool, rest: float) -> Iterator[IPv4Address]:
        """The person's own earlier ones, those that nobody had, those that have rested longest."""
        own = self._run(
            "SELECT address FROM addresses WHERE person = ? AND session IS NULL ORDER BY released DESC LIMIT 4",
            person,
        )
        yield from pool.clients(IPv4Address(row["address"]) for row in own)
        highest = self._run("SELECT address FROM counter")[0]["address"]
        while (unused := pool.unused_after(highest)) is not None:
            highest = int(unused)
            self._run("UPDATE counter SET address = ?", highest)
            yield unused
        rested = self._run(
            "SELECT address FROM addresses WHERE session IS NULL AND released <= ? ORDER BY released LIMIT ?",
            self.now - rest, MAX_ROWS,
        )  # fmt: skip
        yield from pool.clients(IPv4Address(row["address"]) for row in rested)

    # --- nodes and people

    def node(self, name: str) -> Row | None:
        """The node's row."""
        return next(
            iter(self._run("SELECT node, boot, seen, draining, version FROM nodes WHERE node = ?", name)),
            None,
        )

    def nodes(self) -> list[Row]:
        """All nodes, with how many sessions are open on each."""
        return self._run(
            "SELECT node, boot, seen, draining, version, (SELECT count(*) FROM sessions s WHERE s.node = nodes.node "
            "AND s.ended IS NULL) AS sessions FROM nodes ORDER BY node"
        )

    def nodes_seen(self) -> list[Row]:
        """Names of nodes, and when each sent its last heartbeat."""
        return self._run("SELECT node, seen FROM nodes")

    def earlier_boot(self, node: str, boot: str) -> bool:
        """This boot of the node was seen before."""
        return bool(self._run("SELECT boot FROM boots WHERE node = ? AND boot = ?", node, boot))

    def node_seen(self, node: str, boot: str, draining: bool, version: str) -> None:
        """The node has sent a heartbeat."""
        self._run("INSERT INTO boots (node, boot) VALUES (?, ?) ON CONFLICT DO NOTHING", node, boot)
        self._run(
            "INSERT INTO nodes (node, boot, seen, draining, version) VALUES (?, ?, ?, ?, ?) ON CONFLICT (node) DO UPDATE "
            "SET boot = excluded.boot, seen = excluded.seen, draining = excluded.draining, version = excluded.version",
            node, boot, self.now, int(draining), version,
        )  # fmt: skip

    def block(self, person: str) -> Block | None:
        """The order against this person."""
        found = self._run("SELECT person, at, by, until FROM blocks WHERE person = ?", person)
        return Block(**found[0]) if found else None

    def blocks(self) -> dict[str, Block]:
        """All orders by person."""
        return {row["person"]: Block(**row) for row in self._run("SELECT person, at, by, until FROM blocks")}

    def set_block(self, block: Block) -> None:
        """Block a person."""
        self._run(
            "INSERT INTO blocks (person, at, by, until) VALUES (?, ?, ?, ?) ON CONFLICT (person) DO UPDATE SET "
            "at = excluded.at, by = excluded.by, until = excluded.until",
            block.person, block.at, block.by, block.until,
        )  # fmt: skip

    def clear_block(self, person: str) -> None:
        """Block it no longer."""
        self._run("DELETE FROM blocks WHERE person = ?", person)

    def _one(self, sql: str, *parameters: object) -> StaffSession | None:
        return next(iter(self._all(sql, *parameters)), None)

    def _all(self, sql: str, *parameters: object) -> list[StaffSession]:
        return [_session(row) for row in self._run(sql, *parameters)]


def groups_json(groups: Iterable[str]) -> str:
    """Groups as they are stored."""
    return json.dumps(list(groups))
