"""Pritunl's API (Enterprise), as far as it is read here: who is connected, and what its profiles route.

Written from its handlers (handlers/user.py, server.py, auth/administrator.py) and its documentation
(https://docs.pritunl.com/kb/vpn/development/api). Nothing that it answers is trusted.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from supervisor.core.identity.book import Holding
from supervisor.core.identity.staff_routes import StaffRoute
from supervisor.core.identity.words import MAX_GROUPS, as_moment, is_name, shown
from tunnels.networks import IPAddress

MAX_ITEMS = 25_000  # of one answer
_IDENTIFIER_LENGTH = 64


def signed(token: str, secret: str, now: int, nonce: str, method: str, path: str) -> dict[str, str]:
    """The headers of a request. `path`: without its query; `nonce`: 8 to 32 characters, used once."""
    text = "&".join((token, str(now), nonce, method, path))
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return {
        "Auth-Token": token,
        "Auth-Timestamp": str(now),
        "Auth-Nonce": nonce,
        "Auth-Signature": base64.b64encode(digest).decode(),
    }


def read_items(body: bytes) -> list[Mapping[str, Any]]:
    """The objects of an answer that is a list. ValueError."""
    try:
        found = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, list) or len(found) > MAX_ITEMS:
        raise ValueError("it is not a list, or too long a one")
    return [each for each in found if isinstance(each, dict)]


def identifiers(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The names of organizations or servers by their identifiers, which are put into a path."""
    return {
        item["id"]: shown(item.get("name"))
        for item in items
        if isinstance(item.get("id"), str) and item["id"].isalnum() and len(item["id"]) <= _IDENTIFIER_LENGTH
    }


def holdings(
    users: Mapping[str, list[Mapping[str, Any]]],
    organizations: Mapping[str, str],
    accepted: Callable[[IPAddress], bool],
) -> tuple[Holding, ...]:
    """Who has which address. `users`: by organization. A name that several organizations have is followed by
    that of the organization.
    """
    names = Counter(user["name"] for found in users.values() for user in found if is_name(user.get("name")))
    return tuple(
        holding
        for organization, found in users.items()
        for user in found
        if is_name(user.get("name")) and user.get("disabled") is not True
        for holding in _of_user(
            user,
            user["name"] if names[user["name"]] == 1 else f"{user['name']}@{organizations[organization]}",
        )
        if accepted(ip_address(holding.address))
    )


def _of_user(user: Mapping[str, Any], person: str) -> Iterator[Holding]:
    groups, servers = user.get("groups"), user.get("servers")
    named = tuple(each for each in groups[:MAX_GROUPS] if is_name(each)) if isinstance(groups, list) else ()
    for server in servers[:MAX_GROUPS] if isinstance(servers, list) else ():
        since = as_moment(server.get("connected_since")) if isinstance(server, dict) else None
        if not since or server.get("status") is False:
            continue  # a profile that is not connected
        for key in ("virt_address", "virt_address6"):
            if (address := _address(server.get(key))) is not None:
                session = f"{shown(user.get('id'))}/{shown(server.get('id'))}@{since:.0f}"
                device = " ".join(
                    filter(None, (shown(server.get("device_name")), shown(server.get("platform"))))
                )
                name = shown(server.get("name"))
                yield Holding(address.packed, person, session, since, None, named, name, device)


def _address(text: object) -> IPAddress | None:
    try:
        return ip_address(text.partition("/")[0]) if isinstance(text, str) else None
    except ValueError:
        return None


def staff_routes(server: str, items: Iterable[Mapping[str, Any]]) -> Iterator[StaffRoute]:
    """What the profiles of a server route."""
    for item in items:
        try:
            network = ip_network(str(item.get("network")), strict=False)
        except ValueError:
            continue
        masks = item.get("nat") is not False  # its default is true
        yield StaffRoute(server, network, masks, item.get("advertise") is True)
