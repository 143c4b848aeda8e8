"""Decides logins, renewals and typed codes, each within one transaction."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from uuid import uuid4

from hub.core import api
from hub.core.api import EndReason, Method, StaffSessionState
from hub.core.codes import CodeVerdict, judge
from hub.core.identity import Identity, same_place
from hub.core.passwords import Typed, decoded, from_password
from hub.core.people import NoAccess, Person, no_access
from hub.core.sessions import Happening, StaffSession, end_asked, moved, refused
from hub.service.records import Records, groups_json
from hub.service.rules import Rules

_MINUTE = 60.0
_BACKOFF_SECONDS = {EndReason.TOO_MANY_LOGINS: 15, EndReason.NO_ADDRESS: 5, EndReason.REPLACED: 5}
_SENTENCES = {
    EndReason.WRONG_CODE: "that code is not right",
    EndReason.LOCKED: "too many wrong codes: this account is locked for 15 minutes",
    EndReason.NO_ADDRESS: "no address is free at the moment; try again in a minute",
    EndReason.TOO_MANY_LOGINS: "too many logins in a short time; wait a minute",
    EndReason.TIMEOUT: "nobody answered in time; connect again",
    EndReason.DENIED: "the login was denied",
    EndReason.NOT_OURS: "this session is not known here; connect again",
    EndReason.CHALLENGED: "a code is needed; connect again",
    EndReason.REPLACED: "your other session is being ended; connect again",
}
_REFUSED = "the login was refused"
_BY_LINK = (Method.NOTIFICATION, Method.OIDC)
_NO_SEED = "codes are not set up for this account; ask your administrator"
_NOT_SET_UP = "this way to log in is not set up; ask your administrator"
_CANNOT_ASK = (
    "a code is needed, and this VPN client cannot ask for one; add `auth-user-pass` and `auth-retry interact` to its "
    "profile"
)
_CANNOT_OPEN = (
    "this account logs in with a browser, and this VPN client cannot open one; use OpenVPN Connect, Tunnelblick or "
    "another client with web authentication"
)
_ASK = "Code of your authenticator:"
_ASK_AGAIN = "That code is not right. Code of your authenticator:"


@dataclass(frozen=True, slots=True)
class Ask:
    """A person to be asked by notification; the token is secret."""

    token: str
    number: str
    session: StaffSession


class NotTheirs(Exception):
    """Somebody else has come with a link; nothing is changed."""


@dataclass(frozen=True, slots=True)
class ProvedIdentity:
    """What a browser has brought back from the identity provider. `address`: the browser's."""

    identity: Identity
    address: str


@dataclass(frozen=True, slots=True)
class Logins:
    """Decides by these rules."""

    rules: Rules
    asks: list[Ask] = field(default_factory=list)  # to be sent after the transaction

    def login(self, records: Records, request: api.LoginRequest) -> api.LoginAnswer:
        """Decide a login or a renewal. The same request gets the same answer."""
        earlier = records.of_request(request.node, request.boot, request.sequence)
        if earlier is not None:
            return self._linked_again(records, earlier) or self.again(earlier)
        person = self.rules.people.get(request.person)
        outside = no_access(person, records.block(request.person), records.now)
        if request.renewal:
            return self._renew(records, request, outside)
        if records.logins_since(request.person, records.now - _MINUTE) >= self.rules.attempts:
            return _denied(None, EndReason.TOO_MANY_LOGINS)
        row = _asked(request, records.now, person)
        if person is None or outside is not None:
            assert outside is not None
            return _refuse(records, row, outside.reason, outside.text)
        return self._decide(records, request, row, person)

    def _decide(
        self, records: Records, request: api.LoginRequest, row: StaffSession, person: Person
    ) -> api.LoginAnswer:
        """A login of somebody who has access: by the method of the person."""
        if person.method is Method.CERTIFICATE or self._proved(records, request, person):
            return self._allow(records, row, person)
        if person.method is Method.TOTP:
            return self._code(records, row, person, request)
        if person.method is Method.NOTIFICATION and self.rules.approval_seconds is not None:
            return self._notify(records, row, self.rules.approval_seconds, "crtext" in request.understands)
        if person.method is Method.OIDC and self.rules.identity_seconds is not None:
            if "webauth" not in request.understands:
                return _refuse(records, row, EndReason.METHOD_UNUSABLE, _CANNOT_OPEN)
            return self._open_browser(records, row, self.rules.identity_seconds)
        return _refuse(records, row, EndReason.METHOD_UNUSABLE, _NOT_SET_UP)

    def typed(self, records: Records, answer: api.ChallengeAnswer) -> api.LoginAnswer:
        """Decide by what a person typed on the connection that waits."""
        row = records.session(answer.session)
        if row is None or (row.node, row.boot) != (answer.node, answer.boot):
            return _denied(None, EndReason.NOT_OURS)
        if row.state is not StaffSessionState.PENDING or row.method is not Method.TOTP:
            return self.again(row)
        person = self.rules.people.get(row.person)
        outside = no_access(person, records.block(row.person), records.now)
        if person is None or outside is not None:
            assert outside is not None
            return _refuse(records, row, outside.reason, outside.text)
        code = decoded(answer.response.get_secret_value())
        wrong = self._wrong(records, row, Typed(code or ""))
        return self._allow(records, row, person) if wrong is None else _refuse(records, row, wrong)

    def decide(
        self, records: Records, link: str, number: str, proof: ProvedIdentity | None
    ) -> StaffSession | None:
        """Decide a login by its link (its digest), which is used up by that. None: it does not wait any more.

        NotTheirs: another person has come with the link, or from elsewhere; the login still waits.
        """
        opened = records.approval(link)
        row = records.session(opened["session"]) if opened is not None else None
        if opened is None or row is None or row.state is not StaffSessionState.PENDING:
            return None
        if row.method not in _BY_LINK:
            return None
        if self.rules.identity_seconds is not None or row.method is Method.OIDC:
            self._check(row, proof)
        records.use_approval(link)
        person = self.rules.people.get(row.person)
        outside = no_access(person, records.block(row.person), records.now)
        if number != opened["number"] or person is None or outside is not None:
            _refuse(records, row, EndReason.DENIED if outside is None else outside.reason)
        else:
            if proof is not None and proof.identity.groups is not None:
                records.save_claimed_groups(row.person, proof.identity.groups)
            self._allow(records, row, person)
        return records.session(row.id)

    def _check(self, row: StaffSession, proof: ProvedIdentity | None) -> None:
        if proof is None or proof.identity.person != row.person:
            raise NotTheirs("the identity provider knows this browser's user by another name")
        if not self.fits(row, proof.address):
            raise NotTheirs("the browser has another address than the VPN client")

    def fits(self, row: StaffSession, address: str) -> bool:
        """A browser with this address may decide the login."""
        free = row.method is not Method.OIDC or not self.rules.same_address
        return free or same_place(address, row.client_address)

    def again(self, row: StaffSession) -> api.LoginAnswer:
        """The answer that fits what has become of the login."""
        if row.address is not None and row.live and row.end_asked is None:
            return self._allowed(row)
        if row.state is StaffSessionState.PENDING:
            wait = max(1, int((row.until or row.asked) - row.asked))
            return api.Waiting(session=row.id, timeout=wait)
        return _denied(row, row.reason or EndReason.TIMEOUT)

    def _allowed(self, row: StaffSession) -> api.Allowed:
        address = IPv4Address(row.address or "")
        return api.Allowed(
            session=row.id, address=address, netmask=self.rules.netmask(address), groups=json.loads(row.groups),
            method=row.method, until=row.until,
        )  # fmt: skip

    def _renew(
        self, records: Records, request: api.LoginRequest, outside: NoAccess | None
    ) -> api.LoginAnswer:
        """A renewal asks nobody anything; a session whose person has no access any more ends."""
        known = records.session(request.session) if request.session is not None else None
        row = known or records.of_client(request.node, request.boot, request.client_id)
        if row is None or row.person != request.person or row.node != request.node or row.address is None:
            return _denied(None, EndReason.NOT_OURS)
        if outside is not None:
            ending = end_asked(row, outside.reason, outside.text, None, records.now)
            if ending is not None:
                records.save(ending, "end asked", {"reason": outside.reason})
            return _denied(row, outside.reason, outside.text)
        if not row.live or row.end_asked is not None:
            return _denied(row, row.end_reason or row.reason or EndReason.LEFT)
        return self._allowed(row)

    def _proved(self, records: Records, request: api.LoginRequest, person: Person) -> bool:
        """OpenVPN vouches for the token, and the service remembers that this certificate has earned one."""
        after = records.now - self.rules.remember_seconds
        return (
            request.token == "valid"  # noqa: S105 - what OpenVPN says of it
            and request.username == request.person
            and records.proved(person.name, request.certificate, person.method, after)
        )

    def _code(
        self, records: Records, row: StaffSession, person: Person, request: api.LoginRequest
    ) -> api.LoginAnswer:
        if person.name not in self.rules.seeds:
            return _refuse(records, row, EndReason.METHOD_UNUSABLE, _NO_SEED)
        password = request.password.get_secret_value() if request.password is not None else ""
        typed = from_password(password)
        if typed is None:
            return self._challenge(records, row, request, _ASK)
        if typed.state is not None and not records.use_challenge(typed.state, row.person, row.certificate):
            return self._challenge(records, row, request, _ASK)  # an old one, or somebody else's
        wrong = self._wrong(records, row, typed)
        if wrong is None:
            return self._allow(records, row, person)
        if wrong is EndReason.WRONG_CODE and typed.state is not None:
            return self._challenge(records, row, request, _ASK_AGAIN)
        return _refuse(records, row, wrong)

    def _challenge(
        self, records: Records, row: StaffSession, request: api.LoginRequest, text: str
    ) -> api.LoginAnswer:
        seconds = self.rules.challenge_seconds
        if "crtext" in request.understands:
            waiting = moved(row, Happening.WAITS, records.now)
            assert waiting is not None
            saved = records.save(replace(waiting, until=records.now + seconds), "code asked")
            return api.Challenged(session=saved.id, by="crtext", text=text, timeout=seconds)
        if "crv1" not in request.understands:
            return _refuse(records, row, EndReason.METHOD_UNUSABLE, _CANNOT_ASK)
        state = secrets.token_urlsafe(24)
        records.add_challenge(state, row.person, row.certificate, records.now + seconds)
        _refuse(records, row, EndReason.CHALLENGED)
        return api.Challenged(session=row.id, by="crv1", state=state, text=text, timeout=seconds)

    def _wrong(self, records: Records, row: StaffSession, typed: Typed) -> EndReason | None:
        """Why this code lets nobody in; None: it is right."""
        seed = self.rules.seeds.get(row.person)
        if seed is None:
            return EndReason.METHOD_UNUSABLE
        before = records.codes(row.person)
        verdict, after = judge(typed.code, seed, before, records.now)
        if after != before:
            records.save_codes(after)
        if after.locked_until > max(before.locked_until, records.now):
            records.event("locked", row.id, row.person, {"until": after.locked_until})
        if verdict is CodeVerdict.RIGHT:
            return None
        return EndReason.LOCKED if after.locked_until > records.now else EndReason.WRONG_CODE

    def _notify(self, records: Records, row: StaffSession, seconds: int, shows_text: bool) -> api.LoginAnswer:
        """A number to match is for clients that can show one."""
        if any(each.state is StaffSessionState.PENDING for each in records.open_of(row.person)):
            return _refuse(
                records, row, EndReason.TOO_MANY_LOGINS, "another login of yours waits for your approval"
            )
        waiting = moved(row, Happening.WAITS, records.now)
        assert waiting is not None
        saved = records.save(replace(waiting, until=records.now + seconds), "approval asked")
        number = str(secrets.randbelow(90) + 10) if shows_text else ""
        ask = Ask(secrets.token_urlsafe(32), number, saved)
        records.add_approval(ask.token, saved, ask.number)
        self.asks.append(ask)
        text = f"Approve the login with the number {number}" if number else ""
        return api.Waiting(session=saved.id, timeout=seconds, text=text)

    def _open_browser(self, records: Records, row: StaffSession, seconds: int) -> api.LoginAnswer:
        """The client opens the link. Its earlier login that still waits has been given up."""
        for each in records.open_of(row.person):
            if each.state is StaffSessionState.PENDING and each.certificate == row.certificate:
                _refuse(records, each, EndReason.TIMEOUT)
        waiting = moved(row, Happening.WAITS, records.now)
        assert waiting is not None
        saved = records.save(replace(waiting, until=records.now + seconds), "browser asked")
        return self._linked(records, saved)

    def _linked_again(self, records: Records, row: StaffSession) -> api.LoginAnswer | None:
        """The answer with the link was lost: another link."""
        if row.state is not StaffSessionState.PENDING or row.method is not Method.OIDC:
            return None
        records.close_approvals(row.id)
        return self._linked(records, row)

    def _linked(self, records: Records, row: StaffSession) -> api.LoginAnswer:
        token = secrets.token_urlsafe(32)
        records.add_approval(token, row, "")
        left = max(1, int((row.until or records.now) - records.now))
        return api.Waiting(session=row.id, timeout=left, link=f"{self.rules.login_url}{token}")

    def _allow(self, records: Records, row: StaffSession, person: Person) -> api.LoginAnswer:
        person = self.rules.grouped(person, records.claimed_of(person.name))
        if row.method is not Method.CERTIFICATE:
            records.save_proof(row.person, row.certificate, row.method)
        others = [
            each
            for each in records.open_of(row.person)
            if each.address is not None and each.end_asked is None
        ]
        fixed = person.address is not None
        for oldest in others[: max(0, len(others) + 1 - (1 if fixed else self.rules.per_person))]:
            ending = end_asked(oldest, EndReason.REPLACED, "you have logged in elsewhere", None, records.now)
            if ending is not None:
                records.save(ending, "end asked", {"reason": EndReason.REPLACED})
        address = records.give_address(person, row.id, self.rules.pool, self.rules.rest_seconds)
        if address is None:
            reason = EndReason.REPLACED if fixed and others else EndReason.NO_ADDRESS
            return _refuse(records, row, reason)
        allowed = moved(row, Happening.ALLOWED, records.now)
        assert allowed is not None
        session = replace(
            allowed,
            address=str(address),
            since=records.now,
            until=records.now + self.rules.session_seconds,
            groups=groups_json(person.groups),
            decided=row.state is StaffSessionState.PENDING and row.method in _BY_LINK,
        )
        return self._allowed(records.save(session, "allowed", {"address": str(address)}))


def _asked(request: api.LoginRequest, now: float, person: Person | None) -> StaffSession:
    return StaffSession(
        id=str(uuid4()),
        person=request.person,
        node=request.node,
        boot=request.boot,
        client_id=request.client_id,
        key_id=request.key_id,
        sequence=request.sequence,
        certificate=request.certificate,
        client_address=request.client.address,
        client_port=request.client.port,
        claims=json.dumps(request.claims),
        method=person.method if person is not None else Method.CERTIFICATE,
        state=StaffSessionState.ASKED,
        asked=now,
        groups=groups_json(person.groups if person is not None else ()),
    )


def _refuse(records: Records, row: StaffSession, reason: EndReason, text: str | None = None) -> api.Denied:
    ended = refused(row, reason, records.now)
    if ended is None:
        return _denied(row, reason, text)
    told = replace(
        ended,
        decided=ended.method in _BY_LINK and ended.decided,
        end_text=text or _SENTENCES.get(reason, _REFUSED),
    )
    return _denied(records.save(told, "refused", {"reason": reason}), reason)


def _denied(row: StaffSession | None, reason: EndReason, text: str | None = None) -> api.Denied:
    said = row.end_text if row is not None else ""
    return api.Denied(
        session=row.id if row is not None else None,
        reason=reason,
        text=text or said or _SENTENCES.get(reason, _REFUSED),
        elsewhere=reason in (EndReason.NO_ADDRESS, EndReason.REPLACED),
        backoff=_BACKOFF_SECONDS.get(reason, 0),
    )
