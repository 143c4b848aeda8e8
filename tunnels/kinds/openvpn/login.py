"""Answers OpenVPN's questions for a login: password, one-time code, challenge, approval elsewhere, or a token
of an earlier session.

    >PASSWORD, >INFOMSG -> Credentials -> Say (user name, password, response) | Question | Keep | Failed

Used by tunnels.kinds.openvpn.management, which decides when OpenVPN may go on. A refused login is never
retried here.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tunnels.base import Failed, Keep, Observation, Question, Reason, Say, Wanted
from tunnels.kinds.openvpn.patterns import refusal
from tunnels.kinds.openvpn.syntax import quote

Answer = Say | Observation

_ROUNDS = 3  # questions in a row in one login: a server that asks for ever must not use up our codes

_CHALLENGE = re.compile(r"CRV1:(?P<flags>[^:]*):(?P<state>[^:]*):(?P<user>[^:]*):(?P<text>.*)")
_TEXT_CHALLENGE = re.compile(r"CR_TEXT:(?P<flags>[^:]*):(?P<text>.*)")
_ADDRESS = re.compile(r"(?:OPEN_URL|WEB_AUTH:[^:]*):(?P<url>\w+://.*)")
_NOTE = re.compile(r"(?:NOTIFY:[^:]*:)?(?P<text>.*)")
_NOT_A_CODE = re.compile(r"(?i)\bnew (?:pin|password)|\b(?:choose|select|question)\b")


@dataclass(frozen=True, slots=True)
class LoginIdentity:
    """The account and its secrets."""

    username: str | None
    password: str | None = field(repr=False)
    append_code: bool = False  # a one-time code follows the password in the same field
    # of `Keep` in an earlier session: a token, and on a second line its user name
    kept: str = field(default="", repr=False)
    passphrase: str | None = field(default=None, repr=False)  # of our private key


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks after the password (CRV1): its state id and its user name come back with
    the answer.
    """

    needs_answer: bool
    state: str
    username: str | None
    text: str


class Credentials:
    """The logins of one OpenVPN process."""

    def __init__(self, account: LoginIdentity) -> None:
        self._account = account
        self._token, _, self._token_user = account.kept.partition("\n")
        self._resumed = False  # the login used a token, not a password
        self._challenge: Challenge | None = None
        self._reply: tuple[Say, ...] = ()  # for the next time that OpenVPN asks
        self._given: tuple[Say, ...] = ()  # what was sent the last time
        self._asked: list[str] = []  # questions of this login so far
        self.unanswered: str | None = None  # an approval that somebody was asked for and may not have given
        self._answering: Callable[[str], Iterator[Answer]] | None = None
        self.waits = False  # OpenVPN must not go on before the answer

    # --- what OpenVPN says
    # ---------------------------------------------------------------------------------------------------

    def need(self, what: str, kind: str, flags: int, challenge: str | None) -> Iterator[Answer]:
        """OpenVPN asks for a login; `challenge` is the text of a static challenge, whose answer goes with the
        password.
        """
        if what == "Private Key" and self._account.passphrase is not None:
            yield Say(f'password "Private Key" {quote(self._account.passphrase)}', secret=True)
        elif what == "Private Key":
            yield Failed(
                Reason.KEY,
                "the private key is encrypted; give a key without a passphrase, or `askpass FILE` in the "
                "profile",
            )
        elif what != "Auth" or kind != "username/password":
            yield Failed(Reason.CLIENT_CONFIG, f"asks for the {kind} of {what!r}, which cannot be given")
        elif self._reply:
            self._reply, reply = (), self._reply
            yield from self._give(reply)
        elif (
            self._token
            and (user := self._token_user or self._account.username)
            and _one_line(self._token + user)
        ):
            self._resumed = True
            yield from self._give(_login(user, self._token))
        else:
            yield from self._need_account(flags, challenge)

    def challenged(self, text: str) -> bool:
        """Note a refusal that contains a challenge; False: it contains none."""
        match = _CHALLENGE.fullmatch(text)
        if match is not None:
            user = _decoded(match["user"]) or self._account.username
            self._challenge = Challenge("R" in match["flags"].split(","), match["state"], user, match["text"])
        return match is not None

    def ask_challenge(self) -> Iterator[Answer] | None:
        """Ask the noted challenge; None: there is none."""
        challenge, self._challenge = self._challenge, None
        return None if challenge is None else self._ask_challenge(challenge)

    def refused(self, what: str, text: str) -> Iterator[Answer]:
        """The server refused the login."""
        failed = refusal(what, text)
        if self._resumed and failed.reason is Reason.AUTH:
            failed = Failed(
                Reason.SESSION_EXPIRED,
                f"the server no longer takes the session that was kept{text and ': '}{text}",
            )
        if failed.reason is Reason.SESSION_EXPIRED:
            yield Keep("")
        yield failed

    def pending(self, text: str) -> Iterator[Answer]:
        """The server asks for more during the connection (INFOMSG)."""
        if match := _TEXT_CHALLENGE.fullmatch(text):
            if "R" in match["flags"].split(","):
                yield from self._ask(Question(_wanted(match["text"]), match["text"]), self._respond)
            else:
                yield from self._ask(Question(Wanted.APPROVAL, match["text"]), None)
        elif match := _ADDRESS.fullmatch(text):
            yield from self._ask(Question(Wanted.APPROVAL, f"log in with a browser at {match['url']}"), None)
        elif match := _NOTE.fullmatch(text):
            yield from self._ask(Question(Wanted.APPROVAL, match["text"]), None)

    def undecided(self) -> Iterator[Answer]:
        """The server has our login and does not decide: most likely somebody has to approve it."""
        if self._given and not self._asked:
            yield from self._ask(
                Question(
                    Wanted.APPROVAL,
                    "the server is waiting for approval of this login, on a phone for instance",
                ),
                None,
            )
            self.unanswered = None  # the server may have died instead

    def token(self, token: str, user: str | None) -> Iterator[Answer]:
        """The server sent a token that spares the next login, and a user name for it (base64)."""
        self._token, self._token_user, self._resumed = token, _decoded(user or ""), True
        yield Keep("\n".join(filter(None, (self._token, self._token_user))))

    @property
    def spent(self) -> bool:
        """A person's answer was used for this login: another server needs another one."""
        return bool(self._asked)

    def unused(self) -> None:
        """The attempt ended before the server saw the login, so its one-time code is still valid."""
        if not self._resumed:
            self._reply = self._given

    def accepted(self) -> None:
        """The server accepted the login."""
        self._asked, self._given, self._reply, self._answering, self._challenge = [], (), (), None, None
        self.unanswered, self.waits = None, False

    # --- what a person says
    # --------------------------------------------------------------------------------------------------

    def answer(self, text: str) -> Iterator[Answer]:
        """Send the answer; nothing without an open question."""
        answering, self._answering, self.waits = self._answering, None, False
        if answering is not None:
            self.unanswered = None
            yield from answering("".join(letter for letter in text.strip() if letter.isprintable()))

    # --- inside
    # ------------------------------------------------------------------------------------------------------

    def _need_account(self, flags: int, challenge: str | None) -> Iterator[Answer]:
        user, password = self._account.username, self._account.password
        self._resumed = False
        if user is None or (password is None and not self._account.append_code):
            yield Failed(
                Reason.AUTH,
                "the remote gateway requires a user name and a password; set login.username and login.password",
            )
        elif not _one_line(user) or not _one_line(password or ""):
            yield Failed(Reason.MISSING_INPUT, "login.username or login.password has more than one line")
        elif challenge is not None and not flags & 2:  # the second bit: password and code as one text
            first = f"SCRV1:{_encoded(password or '')}:"
            yield from self._ask(
                Question(_wanted(challenge), challenge),
                lambda code: self._give(_login(user, first + _encoded(code))),
            )
        elif challenge is not None or self._account.append_code:
            question = Question(
                Wanted.CODE, challenge or f"the one-time password that follows the password of {user}"
            )
            yield from self._ask(question, lambda code: self._give(_login(user, f"{password or ''}{code}")))
        else:
            yield from self._give(_login(user, password or ""))

    def _give(self, login: tuple[Say, ...]) -> Iterator[Answer]:
        self._given = login
        yield from login

    def _ask(
        self, question: Question, answering: Callable[[str], Iterator[Answer]] | None
    ) -> Iterator[Answer]:
        self._asked.append(question.text)
        self._answering, self.unanswered = answering, question.text
        yield question

    def _ask_challenge(self, challenge: Challenge) -> Iterator[Answer]:
        """A wrong answer to a challenge must not become a loop: the same question a second time is a
        refusal.
        """
        if challenge.username is None or not _one_line(challenge.username + challenge.state):
            yield Failed(Reason.AUTH, f"asks in a way that cannot be answered: {challenge.text}")
        elif challenge.text in self._asked or len(self._asked) >= _ROUNDS:
            yield Failed(Reason.AUTH, f"the answer was refused: it asks again: {challenge.text}")
        elif challenge.needs_answer:
            self.waits = True
            yield from self._ask(
                Question(_wanted(challenge.text), challenge.text),
                lambda code: self._reply_with(challenge, code),
            )
        else:
            yield from self._reply_with(challenge, "")
            yield from self._ask(Question(Wanted.APPROVAL, challenge.text), None)

    def _reply_with(self, challenge: Challenge, code: str) -> Iterator[Answer]:
        self._reply = _login(challenge.username or "", f"CRV1::{challenge.state}::{code}")
        return iter(())

    def _respond(self, code: str) -> Iterator[Answer]:
        yield Say("verb 2")  # else its log would contain the next command
        yield Say(f"cr-response {_encoded(code)}", secret=True)
        yield Say("verb 3")


def _login(username: str, password: str) -> tuple[Say, ...]:
    return Say(f'username "Auth" {quote(username)}'), Say(f'password "Auth" {quote(password)}', secret=True)


def _wanted(text: str) -> Wanted:
    """Most challenges ask for a one-time code, whatever they call it."""
    return Wanted.TEXT if _NOT_A_CODE.search(text) else Wanted.CODE


def _one_line(text: str) -> bool:
    """Remove line breaks: what follows one would be a command of its own."""
    return not set(text) & set("\r\n\0")


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


def _decoded(text: str) -> str:
    """The decoded text; empty if it is not base64 of text."""
    with contextlib.suppress(ValueError):
        return base64.b64decode(text, validate=True).decode()
    return ""
