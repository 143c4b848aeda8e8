"""Classifies what openconnect asks on its terminal, by the texts of the gateway's forms (sans I/O).

    lines -> Interview.hear                 a prompt (text without an end of line) -> Interview.wanted -> Wish

Every server words its forms as it likes, and two prompts may look the same: the second "Password:" of a form
is most often a one-time code. What decides is the text since the last request to the server, then whether the
same was asked and answered before.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_REQUEST = re.compile(r"(?:GET|POST) https://")
_USERNAME = re.compile(r"user ?name|\buser\b|log ?in\b|account", re.IGNORECASE)
_PASSWORD = re.compile(r"passw|passphrase", re.IGNORECASE)
# Atomic groups: only the first word of a kind begins something, so that a server cannot make us look again
# at each repetition of it.
_CHANGE = re.compile(r"^(?>.*?\b(?:new|current|old|verify|confirm|retype|change)\b).*passw", re.IGNORECASE)
_CODE = re.compile(
    r"\botp\b|one.?time|token|\bcode\b|passcode|verification|authenticator|second(?:ary)?\b|two.?factor|\b2(?:nd|fa)\b|\bmfa\b|challenge"
    r"|\bsms\b|response",
    re.IGNORECASE,
)
_CERTIFICATE = re.compile(r"^Enter '.*' to accept")
_OUR_KEY = re.compile(
    r"^(?>.*?(?:PEM|PKCS|TPM|private key)).* (?:pass ?phrase|password|PIN)|^PIN required", re.IGNORECASE
)
_CHOICE = re.compile(r" \[[^]]*\]: ?$")
_MAX_FORM_LINES = 20  # that are read


class Wish(enum.Enum):
    """What a prompt asks for."""

    USERNAME = "username"
    PASSWORD = "password"
    CODE = "code"
    TEXT = "text"  # something that only an operator knows
    REFUSED = "refused"  # asked again: the server refused the answer
    TRUST = "trust"  # whether an unknown certificate may be trusted
    PASSPHRASE = "passphrase"  # of our private key


# Prompts that can mean one thing only. Where the password is out of date, a new one is for a person to
# choose.
_CERTAIN = (
    (_CERTIFICATE, Wish.TRUST),
    (_OUR_KEY, Wish.PASSPHRASE),
    (_CHOICE, Wish.TEXT),
    (_CHANGE, Wish.REFUSED),
)


@dataclass(frozen=True, slots=True)
class FormPrompt:
    """One prompt: what it asks for, and the gateway's text about it."""

    wish: Wish
    text: str


class Interview:
    """The prompts of one login."""

    def __init__(self, appended: bool = False) -> None:
        """`appended`: the one-time password follows the password in its field, and has none of its own."""
        self._appended = appended
        self._said: list[str] = []  # of the form that is open
        self._asked: set[tuple[Wish, str]] = set()  # what was answered before this form, and its prompts

    def hear(self, line: str) -> None:
        """Take a line between prompts."""
        if _REQUEST.match(line):
            self._said.clear()
        elif line.strip() and len(self._said) < _MAX_FORM_LINES:
            self._said.append(line.strip())

    def wanted(self, prompt: str) -> FormPrompt:
        """What this prompt asks for. It counts as answered from now on."""
        wish = self._wish(prompt)
        key = (wish, "" if wish is Wish.CODE else prompt)
        text = (
            " ".join((*self._said[-2:], prompt.strip())) if wish in (Wish.CODE, Wish.TEXT) else prompt.strip()
        )
        if wish is Wish.REFUSED or (wish in (Wish.USERNAME, Wish.PASSWORD, Wish.CODE) and key in self._asked):
            return FormPrompt(Wish.REFUSED, self._said[-1] if self._said else prompt.strip())
        self._asked.add(key)
        return FormPrompt(wish, text)

    def _wish(self, prompt: str) -> Wish:
        for pattern, wish in _CERTAIN:
            if pattern.search(prompt):
                return wish
        if _CODE.search(prompt) and not self._appended:
            return Wish.CODE
        if _PASSWORD.search(prompt):
            return self._password(prompt)
        return Wish.USERNAME if _USERNAME.search(prompt) else Wish.TEXT

    def _password(self, prompt: str) -> Wish:
        """A second password prompt is for a code if a hint says so, or if its label differs from the first
        one.
        """
        passwords = {label for wish, label in self._asked if wish is Wish.PASSWORD and not self._appended}
        hinted = any(_CODE.search(line) for line in self._said)
        return Wish.CODE if passwords and (hinted or prompt not in passwords) else Wish.PASSWORD
