"""What sidecars report: sessions that are up or over, and heartbeats; and what they are told to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from uuid import uuid4

from hub.core import api
from hub.core.api import EndReason, StaffSessionState
from hub.core.people import no_access
from hub.core.roll_call import ALL_AS_KNOWN, roll_call
from hub.core.sessions import Happening, StaffSession, end_asked, gone, moved
from hub.service.logins import Logins
from hub.service.records import Records, groups_json

_UNKNOWN_TEXT = "this session is not known; connect again"
_EXPIRED_TEXT = "the maximum session time has been reached; connect again"


class LateMessage(Exception):
    """It is of a run of OpenVPN that has ended; nothing is changed."""


def up(records: Records, message: api.SessionUp) -> None:
    """A client has its address."""
    row = records.session(message.session)
    if row is None or (row.node, row.boot) != (message.node, message.boot):
        return
    risen = moved(row, Happening.UP, records.now)
    if risen is not None:
        records.save(replace(risen, decided=False), "up")


def ended(records: Records, message: api.SessionEnds) -> None:
    """Sessions that their node has seen end. Twice is as good as once."""
    for each in message.ended:
        row = records.session(each.session)
        if row is None or row.node != message.node:
            continue
        counted = replace(
            row,
            received_bytes=row.received_bytes if each.received_bytes is None else each.received_bytes,
            sent_bytes=row.sent_bytes if each.sent_bytes is None else each.sent_bytes,
        )
        close(records, counted, each.reason)


def close(records: Records, row: StaffSession, reason: EndReason) -> bool:
    """The session is over; False: it was already."""
    over = gone(row, reason, records.now)
    if over is None:
        return False
    records.release_address(over)
    records.save(replace(over, decided=False), "ended", {"reason": str(over.reason)})
    return True


def all_as_known(records: Records, message: api.Heartbeat) -> bool:
    """The node has the sessions that we have. Comparing thousands takes a while, and needs no writer.

    False where a difference may be: then they are compared row by row.
    """
    before = records.node(message.node)
    if before is None or before["boot"] != message.boot:
        return False
    named = set(message.sessions)
    for each in records.unsettled_on(message.node, message.boot):
        risen = each.id in named and each.id not in message.waiting
        if each.boot != message.boot or risen:
            return False
    return set(records.open_ids_on(message.node, message.sequence)) == named


def heartbeat(
    records: Records, logins: Logins, message: api.Heartbeat, as_known: bool = False
) -> api.HeartbeatAnswer:
    """Compare the node's sessions with ours; what it should do. LateMessage.

    `as_known`: they were compared a moment ago; what has changed since is found by the next heartbeat.
    """
    before = records.node(message.node)
    if before is not None and before["boot"] != message.boot:
        if records.earlier_boot(message.node, message.boot):
            raise LateMessage(f"{message.node} has restarted since {message.boot}")
        records.event("node started", None, None, {"node": message.node, "boot": message.boot})
    records.node_seen(message.node, message.boot, message.draining, message.version)
    drained = before is not None and bool(before["draining"])
    call = ALL_AS_KNOWN if as_known else roll_call(records.open_on(message.node), message)
    lost = EndReason.NODE_DRAINED if drained else EndReason.LOST_WITH_NODE
    closed = sum(close(records, row, lost) for row in records.sessions(call.lost))
    closed += sum(close(records, row, EndReason.LEFT) for row in records.sessions(call.gone))
    for row in records.sessions(call.up):
        risen = moved(row, Happening.UP, records.now)
        if risen is not None:
            records.save(replace(risen, decided=False), "up")
    if message.bytes:
        records.count_bytes(message.bytes)
    adopted = [_adopt(records, logins, message, client) for client in message.unknown]
    _told(records, message)
    return orders(records, logins, message).model_copy(
        update={"adopted": tuple(adopted), "closed": closed, "unknown": call.unknown}
    )


def orders(records: Records, logins: Logins, message: api.Heartbeat) -> api.HeartbeatAnswer:
    """What the node must do and is not doing yet."""
    waiting = (row for row in records.to_do(message.node) if row.boot == message.boot)
    todo = [row for row in waiting if row.id not in message.ending]
    end = tuple(
        api.EndOrder(
            session=row.id, client_id=row.client_id, person=row.person,
            reason=row.end_reason or EndReason.ENDED_BY_ADMIN, text=row.end_text,
        )
        for row in todo
        if row.end_asked is not None
    )  # fmt: skip
    decided = tuple(
        api.Decision(session=row.id, client_id=row.client_id, key_id=row.key_id, answer=logins.again(row))
        for row in todo
        if row.decided and row.end_asked is None
    )
    return api.HeartbeatAnswer(end=end, decided=decided)


def _told(records: Records, message: api.Heartbeat) -> None:
    """Decisions that the node acts on need not be told again."""
    for row in records.to_do(message.node):
        waits = row.id in message.waiting and row.id not in message.ending
        if row.decided and row.sequence <= message.sequence and not waits:
            records.update(replace(row, decided=False))


def _adopt(
    records: Records, logins: Logins, message: api.Heartbeat, client: api.UnknownClient
) -> api.Adopted:
    """A session for a client that is up and that the sidecar does not know: ours, or one that has to end."""
    row = records.of_client(message.node, message.boot, client.client_id)
    if row is not None and row.person == client.person:
        return api.Adopted(client_id=client.client_id, session=row.id)
    made = _unknown(records, logins, message, client)
    person = logins.rules.people.get(client.person)
    outside = no_access(person, records.block(client.person), records.now)
    rest = logins.rules.rest_seconds
    held = client.address is not None and records.take_address(client.address, client.person, made.id, rest)
    if person is not None and outside is None and held:
        saved = records.save(replace(made, address=str(client.address), since=records.now), "adopted")
        return api.Adopted(client_id=client.client_id, session=saved.id)
    reason, text = (
        (outside.reason, outside.text) if outside is not None else (EndReason.NOT_OURS, _UNKNOWN_TEXT)
    )
    if held and client.address is not None:
        made = replace(made, address=str(client.address), since=records.now)
    ending = end_asked(made, reason, text, None, records.now)
    assert ending is not None
    records.save(ending, "end asked", {"reason": reason})
    return api.Adopted(client_id=client.client_id, session=made.id)


def _unknown(
    records: Records, logins: Logins, message: api.Heartbeat, client: api.UnknownClient
) -> StaffSession:
    where = client.client or api.ClientAddress(address="unknown")
    person = logins.rules.people.get(client.person)
    return StaffSession(
        id=str(uuid4()), person=client.person, node=message.node, boot=message.boot,
        client_id=client.client_id, key_id=0, sequence=-1 - records.revision(), certificate=client.certificate,
        client_address=where.address, client_port=where.port, claims=json.dumps({}),
        method=person.method if person is not None else api.Method.CERTIFICATE,
        state=StaffSessionState.UP, asked=records.now, up=records.now,
        until=records.now + logins.rules.session_seconds,
        groups=groups_json(person.groups if person is not None else ()),
    )  # fmt: skip


def end_overdue(records: Records, _logins: Logins) -> None:
    """Ask for the end of sessions that are too long, and refuse logins that have waited too long."""
    for row in records.overdue():
        reason = EndReason.EXPIRED if row.address is not None else EndReason.TIMEOUT
        _ask(records, row, reason, _EXPIRED_TEXT)


@dataclass(frozen=True, slots=True)
class ChangedPeople:
    """`outside`: persons inside who have no access any more, and the sentence for each; `regrouped`: persons
    whose groups are others than those of their sessions.
    """

    outside: Mapping[str, str]
    regrouped: Mapping[str, str]


def changed_people(records: Records, logins: Logins) -> ChangedPeople:
    """Look for them; nothing is written."""
    blocks, people, claimed = records.blocks(), logins.rules.people, records.claimed_groups()
    outside, regrouped = {}, {}
    for name, groups in records.people_inside():
        person = people.get(name)
        reason = no_access(person, blocks.get(name), records.now)
        if reason is not None:
            outside[name] = reason.text
        elif person is not None:
            wanted = groups_json(logins.rules.grouped(person, claimed.get(name, ())).groups)
            regrouped.update({name: wanted} if wanted != groups else {})
    return ChangedPeople(outside, regrouped)


def apply_people(records: Records, logins: Logins) -> None:
    """Ask for the end of their sessions, and tell the facilitators the new groups."""
    found = changed_people(records, logins)
    for name, text in found.outside.items():
        for row in records.open_of(name):
            _ask(records, row, EndReason.OFFBOARDED, text)
    for name, groups in found.regrouped.items():
        _regroup(records, name, groups)


def _regroup(records: Records, name: str, groups: str) -> None:
    """The facilitators learn at once what groups the person has now."""
    for row in records.open_of(name):
        if row.groups != groups and row.address is not None:
            records.save(replace(row, groups=groups), "groups changed", {"groups": groups})


def _ask(records: Records, row: StaffSession, reason: EndReason, text: str, by: str | None = None) -> bool:
    ending = end_asked(row, reason, text, by, records.now)
    if ending is None:
        return False
    records.save(ending, "end asked", {"reason": reason, "by": by})
    return True


def end_sessions(records: Records, command: api.EndCommand, by: str) -> tuple[str, ...]:
    """An operator ends sessions; those whose end was ordered."""
    if command.session is not None:
        found = [row for row in (records.session(command.session),) if row is not None and row.live]
    elif command.person is not None:
        found = records.open_of(command.person)
    else:
        found = records.open_at(str(command.address))
    for person in {row.person for row in found}:
        records.forget_proofs(person)
    return tuple(row.id for row in found if _ask(records, row, EndReason.ENDED_BY_ADMIN, command.text, by))


def end_all_of(records: Records, person: str, text: str, by: str) -> tuple[str, ...]:
    """The person is offboarded: all of its sessions end, and no token lets it in again."""
    records.forget_proofs(person)
    return tuple(
        row.id for row in records.open_of(person) if _ask(records, row, EndReason.OFFBOARDED, text, by)
    )


def held_at(row: StaffSession) -> IPv4Address | None:
    """The session's address inside the VPN."""
    return IPv4Address(row.address) if row.address is not None else None
