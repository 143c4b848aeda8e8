"""Rows as documents of the API."""

from __future__ import annotations

import json
from collections.abc import Collection
from ipaddress import IPv4Address

from hub.core import api
from hub.core.api import StaffSessionState
from hub.core.sessions import StaffSession
from hub.service.database import Row

_CLIENT_CLAIMS = ("IV_VER", "IV_PLAT", "IV_GUI_VER")
_LIVE = (StaffSessionState.ALLOWED, StaffSessionState.UP)


def address_entry(row: StaffSession, silent: Collection[str]) -> api.AddressEntry:
    """For the book of addresses; the session has an address."""
    return api.AddressEntry(
        revision=row.revision, address=IPv4Address(row.address or ""), person=row.person,
        groups=json.loads(row.groups), session=row.id, node=row.node, client=client_text(row),
        since=row.since or row.asked, ended=row.end_asked if row.ended is None else row.ended,
        reason=row.reason or row.end_reason,
        stale=row.ended is None and row.node in silent,
    )  # fmt: skip


def session_view(row: StaffSession, silent: Collection[str] = ()) -> api.SessionView:
    """For operators."""
    stale = row.node in silent and row.state in _LIVE
    return api.SessionView(
        session=row.id, person=row.person, groups=json.loads(row.groups),
        address=IPv4Address(row.address) if row.address is not None else None,
        node=row.node, certificate=row.certificate,
        client=api.ClientAddress(address=row.client_address, port=row.client_port),
        claims=json.loads(row.claims), method=row.method,
        state=StaffSessionState.STALE if stale else row.state,
        asked=row.asked, up=row.up, ended=row.ended, reason=row.reason, ended_by=row.ended_by,
        until=row.until, received_bytes=row.received_bytes, sent_bytes=row.sent_bytes,
    )  # fmt: skip


def node_view(row: Row, silent: Collection[str]) -> api.NodeView:
    """For operators."""
    return api.NodeView(**{**row, "draining": bool(row["draining"])}, silent=row["node"] in silent)


def event_view(row: Row) -> api.EventView:
    """For operators."""
    return api.EventView(**{**row, "detail": json.loads(row["detail"])})


def client_text(row: StaffSession) -> str:
    """What the client says of itself, in one line of printable text."""
    claims = json.loads(row.claims)
    said = " ".join(str(claims[name]) for name in _CLIENT_CLAIMS if name in claims)
    return "".join(each for each in said if each.isprintable())[:200]
