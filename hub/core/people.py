"""The staff: who may log in, how, and until when; read from a file, never from a form of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from hub.core.api import EndReason, Method


@dataclass(frozen=True, slots=True)
class Person:
    """One of the staff. `until`: Unix time from which on the person has no access."""

    name: str  # the CN of its certificates
    disabled: bool = False
    groups: tuple[str, ...] = ()
    method: Method = Method.CERTIFICATE
    until: float | None = None
    address: IPv4Address | None = None  # always this one


People = Mapping[str, Person]


@dataclass(frozen=True, slots=True)
class Block:
    """An operator's order that a person should not log in. `until`: Unix time; None: for ever."""

    person: str
    at: float
    by: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class NoAccess:
    """Why a person has no access, and the sentence for it."""

    reason: EndReason
    text: str


def no_access(person: Person | None, block: Block | None, now: float) -> NoAccess | None:
    """None: the person has access."""
    if person is None:
        return NoAccess(EndReason.UNKNOWN_PERSON, "this account has no access to the VPN")
    if person.disabled or (person.until is not None and person.until <= now):
        return NoAccess(EndReason.OFFBOARDED, "the access of this account has ended")
    if block is not None and (block.until is None or block.until > now):
        return NoAccess(EndReason.BLOCKED, "this account is blocked; ask your administrator")
    return None
