"""What openconnect has printed about the progress of a session, and the sentences that explain its end. Pure.

The failure table of the kind reads openconnect's own lines. What only the course of events shows is added as
a line of ours: `facilitator: ...`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REFUSED_CODE = 2  # openconnect's exit code when its cookie is not accepted
NEAR_END_SECONDS = 15.0  # around the announced end of a session in which its end is expected

_REACHED = re.compile(r"Connected to (\S+):(\d+)$")
_LOST = re.compile(r"(?!DTLS|ESP)\S+ Dead Peer Detection detected dead peer")  # those two go on over TCP
_CONTACT = re.compile(r"SSL negotiation with ")  # in place openconnect does not say that it is connected
_SECURED = re.compile(r"Connected to HTTPS on ")
_BROKEN = re.compile(
    r"Error (?:reading|fetching) HTTP|Failed to (?:read from|write to) TLS|SSL (?:connection "
    r"failure|(?:read|write) error)"
    r"|Failed to open HTTPS"
)
_OTHER_KEY = re.compile(r"None of the \d+ fingerprint\(s\) ")
_EXPIRED = re.compile(r"Client certificate has expired at: (.*)")
_DISMISSED = re.compile(
    r"(?:Received server disconnect|received server terminate|Session terminated by server)(?:.*'(.+)')?"
)


@dataclass(slots=True)
class Progress:
    """How far openconnect has come."""

    reached: tuple[str, int] | None = None  # address and port that answered last
    contact: bool = False  # there is a connection, as far as is known
    secured: bool = False  # the TLS handshake with it succeeded
    broken: bool = False  # the connection broke
    expired: str = ""  # when our certificate expired
    farewell: str | None = None  # the server ended the session, with these words
    other_key: bool = False  # the server's key is not the one that openconnect was told

    def see(self, line: str) -> None:
        """Take one line of openconnect."""
        if match := _REACHED.search(line):
            self.reached, self.secured = (match[1].strip("[]"), int(match[2])), False
            self.contact = True
        elif _CONTACT.match(line):
            self.contact = True
        elif _LOST.match(line):
            self.contact = False
        elif match := _DISMISSED.match(line):
            self.farewell = self.farewell or match[1] or ""
        elif match := _EXPIRED.match(line):
            self.expired = match[1]
        self.other_key = self.other_key or _OTHER_KEY.match(line) is not None
        self.secured = self.secured or _SECURED.match(line) is not None
        self.broken = self.broken or _BROKEN.match(line) is not None

    def login_failure(self) -> str:
        """Why a login failed after a password or code was sent."""
        return "the connection broke during the login" if self.broken else "the login was refused"

    def handshake_failure(self, hung_up: bool, has_certificate: bool) -> str:
        """Why the server answered and then ended the connection; `hung_up`: it does so before the
        handshake.
        """
        if hung_up:
            return "the server hangs up before a word is said"
        if not self.secured:
            return "the TLS handshake failed"
        if self.expired:
            return f"our certificate has expired at {self.expired}, and the server ended the connection"
        if has_certificate:
            return "the server ended the connection after the handshake; it may not accept our certificate"
        return "the server ended the connection after the handshake; it may require a certificate"

    def session_end(self, up_seconds: float, lasts: float | None) -> str:
        """Why a session that was up for `up_seconds` ended; `lasts`: seconds that the server had
        announced.
        """
        if self.farewell is None:
            return "the connection to the server broke"
        if lasts is not None and up_seconds >= lasts - NEAR_END_SECONDS:
            return "the session has lasted as long as the server lets it"
        return f"the server ended the session{self.farewell and ': '}{self.farewell}"


def cookie_refused(known: bool) -> str:
    """Why openconnect's cookie was refused; `known`: the server has accepted it before."""
    if known:
        return "the server no longer takes this session"
    return "the server takes no further session of this account"
