"""What the service remembers of how people prove who they are: codes, challenges, links, proofs.

Of a state or a link, only a digest is stored.
"""

from __future__ import annotations

import hashlib
import json

from hub.core.api import Method
from hub.core.codes import CodeRecord
from hub.core.sessions import StaffSession
from hub.service.database import Row, Transaction

_MAX_ATTEMPTS = 10  # that one link has at a time


class ProofRecords:
    """Within one transaction."""

    def __init__(self, transaction: Transaction, now: float) -> None:
        self._run = transaction.rows
        self.now = now

    def codes(self, person: str) -> CodeRecord:
        """What is remembered of a person's codes."""
        found = self._run("SELECT person, last_step, wrong, locked_until FROM codes WHERE person = ?", person)
        return CodeRecord(**found[0]) if found else CodeRecord(person)

    def save_codes(self, record: CodeRecord) -> None:
        """Remember it."""
        self._run(
            "INSERT INTO codes (person, last_step, wrong, locked_until) VALUES (?, ?, ?, ?) ON CONFLICT (person) DO "
            "UPDATE SET last_step = excluded.last_step, wrong = excluded.wrong, locked_until = excluded.locked_until",
            record.person, record.last_step, record.wrong, record.locked_until,
        )  # fmt: skip

    def add_challenge(self, state: str, person: str, certificate: str, expires: float) -> None:
        """A challenge is open; only a digest of its state is stored."""
        self._run("DELETE FROM challenges WHERE expires <= ?", self.now)
        self._run(
            "INSERT INTO challenges (state, person, certificate, expires) VALUES (?, ?, ?, ?)",
            digest(state), person, certificate, expires,
        )  # fmt: skip

    def use_challenge(self, state: str, person: str, certificate: str) -> bool:
        """The challenge is this client's and still open; it is not from now on."""
        found = self._run(
            "DELETE FROM challenges WHERE state = ? AND person = ? AND certificate = ? AND expires > ? RETURNING state",
            digest(state), person, certificate, self.now,
        )  # fmt: skip
        return bool(found)

    def proved(self, person: str, certificate: str, method: Method, after: float) -> bool:
        """The person has proved with this certificate, by this method and after that moment, who it is."""
        return bool(
            self._run(
                "SELECT at FROM proofs WHERE person = ? AND certificate = ? AND method = ? AND at > ?",
                person, certificate, method, after,
            )
        )  # fmt: skip

    def save_proof(self, person: str, certificate: str, method: Method) -> None:
        """It has, now."""
        self._run(
            "INSERT INTO proofs (person, certificate, method, at) VALUES (?, ?, ?, ?) ON CONFLICT (person, certificate) "
            "DO UPDATE SET method = excluded.method, at = excluded.at",
            person, certificate, method, self.now,
        )  # fmt: skip

    def add_approval(self, token: str, session: StaffSession, number: str) -> None:
        """A link is open; only a digest of it is stored."""
        self._run("DELETE FROM approvals WHERE expires <= ?", self.now)
        self._run(
            "INSERT INTO approvals (token, session, person, boot, number, expires) VALUES (?, ?, ?, ?, ?, ?)",
            digest(token), session.id, session.person, session.boot, number, session.until,
        )  # fmt: skip

    def approval(self, link: str) -> Row | None:
        """What an open link is for; `link`: its digest."""
        found = self._run(
            "SELECT session, person, boot, number, expires FROM approvals WHERE token = ? AND expires > ?",
            link, self.now,
        )  # fmt: skip
        return next(iter(found), None)

    def use_approval(self, link: str) -> Row | None:
        """The same, and the link is not open from now on."""
        found = self._run(
            "DELETE FROM approvals WHERE token = ? AND expires > ? RETURNING session, person, boot, number, expires",
            link, self.now,
        )  # fmt: skip
        return next(iter(found), None)

    def close_approvals(self, session: str) -> None:
        """No link decides this login any more."""
        self._run("DELETE FROM approvals WHERE session = ?", session)

    def forget_proofs(self, person: str) -> None:
        """Its clients are asked again."""
        self._run("DELETE FROM proofs WHERE person = ?", person)

    # --- identity providers

    def add_attempt(self, state: str, browser: str, link: str, number: str, expires: float) -> bool:
        """A browser begins to log in at the identity provider; False: too many do for this link.

        `number`: what was pressed on the page of the link.
        """
        self._run("DELETE FROM attempts WHERE expires <= ?", self.now)
        if self._run("SELECT count(*) AS n FROM attempts WHERE link = ?", link)[0]["n"] >= _MAX_ATTEMPTS:
            return False
        self._run(
            "INSERT INTO attempts (state, browser, link, number, expires) VALUES (?, ?, ?, ?, ?)",
            digest(state), digest(browser), link, number, expires,
        )  # fmt: skip
        return True

    def use_attempt(self, state: str, browser: str) -> Row | None:
        """What this browser's attempt is for; it is used up. Another browser's is not touched."""
        found = self._run(
            "DELETE FROM attempts WHERE state = ? AND browser = ? AND expires > ? RETURNING link, number",
            digest(state), digest(browser), self.now,
        )  # fmt: skip
        return next(iter(found), None)

    def claimed_groups(self) -> dict[str, tuple[str, ...]]:
        """The groups that the identity provider has named, by person."""
        return {
            row["person"]: tuple(json.loads(row["groups"]))
            for row in self._run("SELECT person, groups FROM claimed_groups")
        }

    def claimed_of(self, person: str) -> tuple[str, ...]:
        """The same of one person."""
        found = self._run("SELECT groups FROM claimed_groups WHERE person = ?", person)
        return tuple(json.loads(found[0]["groups"])) if found else ()

    def save_claimed_groups(self, person: str, groups: tuple[str, ...]) -> None:
        """It names these now."""
        self._run(
            "INSERT INTO claimed_groups (person, groups) VALUES (?, ?) ON CONFLICT (person) DO UPDATE SET "
            "groups = excluded.groups",
            person, json.dumps(groups),
        )  # fmt: skip


def digest(secret: str) -> str:
    """What is stored of a state or a link: enough to know it again."""
    return hashlib.sha256(secret.encode()).hexdigest()
