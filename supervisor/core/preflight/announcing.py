"""Preflight checks of `fleet.announce.bgp`: does a BGP speaker read the table, and are the routers told?

What BIRD says is parsed here; `supervisor.app.preflight.birdc` asks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network

from supervisor.core.network.rules import RETURN_TABLE
from supervisor.core.preflight.facts import BgpSession, BirdFacts, HostFacts
from supervisor.core.preflight.finding import Finding, info, ok, problem, warning
from tunnels.networks import IPNetwork

_DOCS = "docs/fleet.md has a bird.conf"
_SHOWN = 5  # networks in one sentence


def announcements(facts: HostFacts) -> Iterator[Finding]:
    """Is what stands in the table read, and do routers get it?"""
    bird, table = facts.bird, facts.context.plan.announced_in
    if bird is None or table is None:
        return
    yield from _table(facts, bird, table)
    if bird.missing:
        yield info("announce", f"{bird.missing}; another BGP speaker must read table {table}", _DOCS)
    elif bird.error is not None:
        text = f"BIRD does not answer ({bird.error}), so no router learns the routes of table {table}"
        yield problem("announce", text, "systemctl start bird; birdc show protocols")
    else:
        yield from _speaker(bird, table)


def _table(facts: HostFacts, bird: BirdFacts, table: int) -> Iterator[Finding]:
    foreign = [str(route.network) for route in bird.foreign]
    if foreign:
        text = f"table {table} is used by others, too: {_listed(foreign)}; BIRD may announce it"
        yield problem(
            "announce", text, f"ip route show table {table}; or choose another fleet.announce.bgp.table"
        )
    rules = [rule.text for rule in facts.rules or () if rule.action == "lookup" and rule.table == table]
    if rules and table < RETURN_TABLE:
        text = f"policy rules lead to table {table}, which is for a BGP speaker to read: {_listed(rules)}"
        yield problem(
            "announce", text, f"ip rule del lookup {table}; or choose another fleet.announce.bgp.table"
        )


def _speaker(bird: BirdFacts, table: int) -> Iterator[Finding]:
    standing = {route.network for route in bird.standing}
    if unread := sorted(map(str, standing - bird.learned)):
        text = f"no kernel protocol of BIRD reads table {table}: it does not know {_listed(unread)}"
        yield problem("announce", text, f"kernel table {table}; learn;   # {_DOCS}")
    if not bird.sessions:
        yield problem("announce", "BIRD has no BGP session, so no router learns the routes", _DOCS)
    for session in bird.sessions:
        yield from _session(session, standing & bird.learned)


def _session(session: BgpSession, known: frozenset[IPNetwork] | set[IPNetwork]) -> Iterator[Finding]:
    if not session.established:
        text = f"the BGP session {session.name} is not up: {session.text}"
        yield problem("announce", text, f"birdc show protocols all {session.name}")
        return
    if session.bfd is None:
        text = f"{session.name} has no BFD: a router notices a dead host only after BGP's hold time"
        yield warning("announce", text, f"bfd;   # in the protocol {session.name}, on the router too")
    elif not session.bfd:
        yield problem("announce", f"BFD of {session.name} is down", "birdc show bfd sessions")
    expected = {network for network in known if network.version == session.version}
    if held := sorted(map(str, expected - session.exported)):
        text = f"{session.name} does not tell its router of {_listed(held)}"
        yield problem("announce", text, f"birdc show route noexport {session.name}")
    else:
        yield ok("announce", f"{session.name} is up and tells its router of {len(expected)} destinations")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# --- what birdc says

_NETWORK = re.compile(r"^([0-9a-f.:]+/\d+)\s", re.MULTILINE)
_PROTOCOL = re.compile(r"^(\S+)\s+BGP\s+\S+\s+(\S+)\s+\S+(?:\s+\S+:\S+)?(?:\s+(.*))?$", re.MULTILINE)


def networks(said: str) -> frozenset[IPNetwork]:
    """Those in an answer to `show route`."""
    return frozenset(ip_network(text) for text in _NETWORK.findall(said))


def sessions(said: str) -> tuple[tuple[str, str, str], ...]:
    """Name, state of the protocol (`up`, `start`) and what it says, in an answer to `show protocols`."""
    return tuple((name, state, (text or state).strip()) for name, state, text in _PROTOCOL.findall(said))
