"""The book of addresses as our session service sends it (`GET /api/v1/addresses`; docs/hub.openapi.json).

Nothing in it is trusted: it is bounded, each entry is checked by itself, and what is wrong is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from supervisor.core.identity.book import BookReading, Holding
from supervisor.core.identity.words import MAX_GROUPS, as_moment, is_name, shown
from tunnels.networks import IPAddress

MAX_ENTRIES = 25_000  # in one answer
_AHEAD_SECONDS = 300.0  # by which a session may begin later than the answer that names it
_LAST_REVISION = 1 << 62
# Ends after which the client may be there still, and may want to be: somebody has ordered them.
ORDERED_ENDS = frozenset(
    ("ended-by-admin", "offboarded", "expired", "replaced", "blocked", "not-ours", "unknown-person")
)


def read_book(body: bytes, accepted: Callable[[IPAddress], bool]) -> BookReading:
    """The reading in an answer. ValueError: it is none. `accepted`: may this address be one of staff."""
    try:
        document: Any = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or not isinstance(document.get("entries"), list):
        raise ValueError("it is not a book of addresses")
    revision, time, entries = document.get("revision"), as_moment(document.get("time")), document["entries"]
    if type(revision) is not int or not 0 <= revision < _LAST_REVISION or time is None:
        raise ValueError("its revision or its time is missing")
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"it has {len(entries)} entries; at most {MAX_ENTRIES} are read")
    found = [_holding(each, time, accepted) for each in entries]
    holdings = tuple(each for each in found if each is not None)
    complete = document.get("complete") is True
    return BookReading(
        revision, complete, complete or not entries, holdings, time, len(entries) - len(holdings)
    )


def _holding(entry: Any, now: float, accepted: Callable[[IPAddress], bool]) -> Holding | None:
    if not isinstance(entry, dict):
        return None
    address, groups = _address(entry.get("address")), entry.get("groups", [])
    since, ended = as_moment(entry.get("since")), as_moment(entry.get("ended"))
    usable = (
        address is not None
        and accepted(address)
        and is_name(entry.get("person"))
        and is_name(entry.get("session"))
        and (ended is not None or entry.get("ended") is None)
        and isinstance(groups, list)
    )
    if not usable or address is None or since is None or since > now + _AHEAD_SECONDS:
        return None
    return Holding(
        address.packed,
        entry["person"],
        entry["session"],
        since,
        None if ended is None else max(since, ended),
        tuple(each for each in groups[:MAX_GROUPS] if is_name(each)),
        shown(entry.get("node")),
        shown(entry.get("client")),
        ended is not None and entry.get("reason") in ORDERED_ENDS,
    )


def _address(text: object) -> IPAddress | None:
    try:
        return ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
