"""Preflight checks of a fleet: do the members answer, can the lock engine be used, and the cloud's routes be
written?
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, info, ok, problem, warning
from supervisor.core.preflight.fleet_facts import EngineAnswer, MemberAnswer

CLOCK_SECONDS = 2.0  # by which members' clocks may differ
OLDEST_ETCD = (3, 4)
_DOCS = "docs/fleet.md"
_RIGHTS = f"{_DOCS} lists the permissions that a member needs"


def fleet(facts: HostFacts) -> Iterator[Finding]:
    """Members, lock engine, routes of a cloud."""
    if (found := facts.fleet) is None:
        return
    for member in found.members:
        yield from _member(member)
    if found.engine is not None:
        yield from _engine(found.engine)
    if found.routes:
        for text in found.routes:
            yield problem("routes", f"fleet.announce.aws: {text}", "examples/aws/ has the policy")
    elif found.routes is not None:
        yield ok("routes", "the route tables of fleet.announce.aws can be read and written (DryRun)")


def _member(found: MemberAnswer) -> Iterator[Finding]:
    name = found.member
    if found.url is None:
        yield info("fleet", f"member {name} has no `api`, so it cannot be asked", f"fleet.members.{name}.api")
        return
    if found.problem:
        text = f"member {name} does not answer: {found.problem}"
        yield warning("fleet", text, f"facilitator status on {name}; fleet.members.{name}.api; fleet.tls")
        return
    if found.name != name:
        text = f"{found.url} is the facilitator {found.name!r}, and fleet.members calls it {name!r}"
        yield problem("fleet", text, "write facilitator.name of that member; locks and orders go by names")
    elif found.ahead is not None and abs(found.ahead) > CLOCK_SECONDS:
        where = "ahead of" if found.ahead > 0 else "behind"
        text = f"the clock of member {name} is {abs(found.ahead):.0f} s {where} this one"
        yield warning("fleet", text, "chronyc tracking; timedatectl   # on both")
    else:
        yield ok("fleet", f"member {name} answers (version {found.version})")


def _engine(found: EngineAnswer) -> Iterator[Finding]:
    if found.away:
        text = f"the lock engine cannot be used: {found.away}"
        yield problem("lock", text, "exclusive tunnels and orders need it; see fleet.lock")
    for what, why in found.denied:
        yield problem("lock", f"{found.name} does not let this member {what}: {why}", _RIGHTS)
    for node in found.nodes:
        if node.problem:
            yield warning(
                "lock", f"{node.address} cannot be used: {node.problem}", "fleet.lock.etcd.endpoints"
            )
        elif not node.leader:
            text = f"{node.address} knows of no leader: the cluster has no majority"
            yield problem("lock", text, "etcdctl endpoint status --cluster")
        elif (version := _version(node.version)) and version < OLDEST_ETCD:
            yield problem("lock", f"{node.address} has version {node.version}", "etcd 3.4 or newer")
    if len(found.nodes) in (1, 2) and found.name == "etcd":
        text = f"{len(found.nodes)} endpoint of etcd: it goes away with one machine"
        yield info("lock", text.replace("2 endpoint", "2 endpoints"), "three nodes bear the loss of one")
    if not found.away and not found.denied:
        text = f"{found.name} gives locks in {found.seconds * 1000:.0f} ms"
        if found.seconds > found.ttl / 10:
            yield warning("lock", f"{text}, which is slow for a ttl of {found.ttl:g} s", "a longer ttl")
        else:
            yield ok("lock", text)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(".")[:2] if word.isdecimal())
