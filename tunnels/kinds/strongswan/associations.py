"""What charon's list of security associations (list-sas of vici) says about a session. Pure.

messages of list-sa -> established, living, given_addresses, lasting_policies, far_side
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network, summarize_address_range

from tunnels.kinds.strongswan.vici import Message

_PASSING = ("INSTALLING", "INSTALLED", "UPDATING", "REKEYING", "REKEYED")  # states of a child (child_sa.h)
_ENDING = ("DELETING", "DESTROYING")  # states of an IKE SA (ike_sa.h)
_LIVING = ("ESTABLISHED", "REKEYING")  # those in which a gateway may create children in it


def established(sessions: Sequence[Message]) -> set[str]:
    """CONNECTION/CHILD of every child that can pass packets; charon counts replaced ones for a while."""
    return {
        f"{connection}/{child.get('name')}"
        for session in sessions
        for connection, ike in session.items()
        if isinstance(ike, Mapping) and ike.get("state") not in _ENDING
        for child in _children(ike)
        if child.get("state") in _PASSING
    }


def living(sessions: Sequence[Message]) -> set[str]:
    """The connections that have an IKE SA in which the gateway can recreate a child."""
    return {
        connection
        for session in sessions
        for connection, ike in session.items()
        if isinstance(ike, Mapping) and ike.get("state") in _LIVING
    }


def lasting_policies(sessions: Sequence[Message]) -> dict[str, Message]:
    """For each child of the sessions a child of mode drop (load-conn of vici): once installed, charon's
    policies between these networks stay while there is no security association. kernel-libipsec drops
    packets without one in any case.
    """
    children = (child for session in sessions for ike in _mappings(session) for child in _children(ike))
    return {
        f"policies-{number}": {
            "mode": "drop",
            "local_ts": _loadable(child.get("local-ts")),
            "remote_ts": _loadable(child.get("remote-ts")),
        }
        for number, child in enumerate(children)
    }


def _loadable(selectors: object) -> list[str]:
    """Traffic selectors as load-conn reads them: it lists FIRST..LAST and reads FIRST-LAST."""
    return [selector.replace("..", "-") for selector in _texts(selectors)]


def given_addresses(sessions: Sequence[Message]) -> list[str]:
    """The addresses that the gateway has assigned."""
    return [
        address
        for session in sessions
        for ike in _mappings(session)
        for address in _texts(ike.get("local-vips"))
    ]


def far_side(sessions: Sequence[Message]) -> dict[str, object]:
    """Facts about the sessions: the gateway's address, the networks that it lets us reach, and the seconds
    that it lets us stay.
    """
    ikes = [ike for session in sessions for ike in _mappings(session)]
    peers = [ike["remote-host"] for ike in ikes if isinstance(ike.get("remote-host"), str)]
    ends = [int(end) for ike in ikes if isinstance(end := ike.get("reauth-time"), str) and end.isdecimal()]
    selectors = [ts for ike in ikes for child in _children(ike) for ts in _texts(child.get("remote-ts"))]
    routes = list(dict.fromkeys(str(network) for selector in selectors for network in _networks(selector)))
    return {
        "peer": peers[0] if peers else None,
        "routes": routes,
        "agreed": routes,
        "lasts": min(ends, default=None),
    }


def _children(ike: Message) -> list[Message]:
    children = ike.get("child-sas")
    return _mappings(children) if isinstance(children, Mapping) else []


def _mappings(message: Message) -> list[Message]:
    return [value for value in message.values() if isinstance(value, Mapping)]


def _networks(selector: str) -> Iterator[IPv4Network | IPv6Network]:
    """The networks of a traffic selector: 10.77.0.0/24, 10.77.0.0/24[tcp/443] or 10.77.0.5..10.77.0.9."""
    first, _, last = selector.partition("[")[0].partition("..")
    with contextlib.suppress(ValueError, TypeError):
        if last:
            yield from summarize_address_range(ip_address(first), ip_address(last))
        else:
            yield ip_network(first)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []
