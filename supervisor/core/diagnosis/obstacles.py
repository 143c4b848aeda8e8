"""What other programs have put in the way of one packet, for `facilitator why`: a step for each that stops
it, or some like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from supervisor.core.diagnosis.checks import Check, CheckStatus, takes
from supervisor.core.diagnosis.query import Evidence, Way
from supervisor.core.netfilter.values import Truth
from supervisor.core.preflight import facts as fitness
from supervisor.core.preflight.crossing import Aim, Case, cases, hits
from supervisor.core.preflight.firewalls import remedies, sentence, stopped
from supervisor.core.preflight.host import of_devices
from supervisor.core.preflight.routing import Course, catches, first, removal, taken
from tunnels.settings import IPNetwork


def obstacles(facts: Evidence, way: Way) -> Iterator[Check]:
    """Firewalls, policy rules, addresses and settings, in this order."""
    host = facts.kernel.others
    if host is None:
        return
    yield from _firewalls(facts, way, host)
    if way.lane.device is not None:
        yield from _rules(facts, way, host)
        yield from _addresses(way, host)
        version = way.match.address.version
        yield from (
            Check("kernel setting", f"{each.text}; to do: {each.remedy}", CheckStatus.PROBLEM)
            for each in of_devices(host, version)
        )


def _staff(facts: Evidence, way: Way) -> tuple[IPNetwork, ...]:
    asked, version = facts.question.source, way.match.address.version
    return (
        tuple(n for n in facts.plan.staff if n.version == version) if asked is None else (ip_network(asked),)
    )


def _firewalls(facts: Evidence, way: Way, host: fitness.HostFacts) -> Iterator[Check]:
    if host.kernel is None:
        yield Check("firewall", "third-party firewall rules cannot be read", CheckStatus.WARNING)
        return
    firewall, match = host.kernel.firewall, way.match
    aim = Aim(way.lane, ip_network(match.address), ip_network(match.real), port=facts.question.port)
    what = "forwarded" if way.lane.device is not None else "proxied"
    packet = Case(what, match.address.version, (aim,), _staff(facts, way), one_lane=True)
    for blow in stopped(hits(firewall, host.around, [packet])):
        text = f"{sentence(blow, firewall, facts.plan)}; to do: {remedies(blow, firewall, host)}"
        yield Check("firewall", text, CheckStatus.PROBLEM if blow.whole else CheckStatus.WARNING)
    # What the tunnel itself lives by: while it works although it is stopped, that has not had its effect yet.
    mark = CheckStatus.WARNING if takes(way.state) else CheckStatus.PROBLEM
    own = (case for case in cases(host.around) if case.what in ("probe", "gateway"))
    for blow in stopped(
        hit for hit in hits(firewall, host.around, own) if way.tunnel.name in hit.case.tunnels
    ):
        yield Check(
            "firewall",
            f"{sentence(blow, firewall, facts.plan)}; to do: {remedies(blow, firewall, host)}",
            mark,
        )


def _rules(facts: Evidence, way: Way, host: fitness.HostFacts) -> Iterator[Check]:
    match = way.match
    arrivals = tuple(
        name for network, name in host.around.arrivals if network.version == match.address.version
    )
    course = Course(way.lane, ip_network(match.address), ip_network(match.real), _staff(facts, way), arrivals)
    for rule in filter(first, host.rules or ()):
        truth, _ = catches(rule, course, host.routes)
        if truth is not Truth.NO:
            verb = "leads it elsewhere" if truth is Truth.YES else "may lead it elsewhere"
            text = (
                f"the third-party rule `{rule.priority}: {rule.text}` stands before ours and {verb}; "
                f"to do: ip -{rule.version} rule del pref {rule.priority} {rule.text}"
            )
            yield Check(
                "policy rule", text, CheckStatus.PROBLEM if truth is Truth.YES else CheckStatus.WARNING
            )


def _addresses(way: Way, host: fitness.HostFacts) -> Iterator[Check]:
    real = way.match.real
    for route, course in taken(host.around, host.routes):
        if course.lane.number == way.lane.number and real in route.network:
            taken_by = (
                f"{route.device} has the address {route.network}: this host takes the packet for itself"
            )
            text = f"{taken_by}; to do: {removal(route, host.own)}"
            yield Check("address", text, CheckStatus.PROBLEM)
    for own in host.own:
        if real in own.network:
            yield Check(
                "address",
                f"it also lies in {own.network}, {own.what}, whose hosts this one cannot reach",
                CheckStatus.WARNING,
            )
