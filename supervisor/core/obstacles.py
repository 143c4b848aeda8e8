"""What other programs have put in the way of one packet, for `facilitator why`: a step for each that stops it, or some like it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from supervisor.core.fitness import facts as fitness
from supervisor.core.fitness.crossing import Aim, Case, cases, hits
from supervisor.core.fitness.firewalls import remedies, sentence, stopped
from supervisor.core.fitness.machine import of_devices
from supervisor.core.fitness.routing import Course, catches, first, removal, taken
from supervisor.core.hops import Mark, Step, takes
from supervisor.core.netfilter.values import Truth
from supervisor.core.packet import Facts, Way
from tunnels.settings import IPNetwork


def obstacles(facts: Facts, way: Way) -> Iterator[Step]:
    """Firewalls, policy rules, addresses and settings, in this order."""
    host = facts.kernel.others
    if host is None:
        return
    yield from _firewalls(facts, way, host)
    if way.lane.device is not None:
        yield from _rules(facts, way, host)
        yield from _addresses(way, host)
        version = way.match.address.version
        yield from (Step("kernel setting", f"{each.text}; to do: {each.remedy}", Mark.PROBLEM) for each in of_devices(host, version))


def _staff(facts: Facts, way: Way) -> tuple[IPNetwork, ...]:
    asked, version = facts.question.source, way.match.address.version
    return tuple(n for n in facts.plan.staff if n.version == version) if asked is None else (ip_network(asked),)


def _firewalls(facts: Facts, way: Way, host: fitness.Facts) -> Iterator[Step]:
    if host.kernel is None:
        yield Step("firewall", "third-party firewall rules cannot be read", Mark.WARNING)
        return
    firewall, match = host.kernel.firewall, way.match
    aim = Aim(way.lane, ip_network(match.address), ip_network(match.real), port=facts.question.port)
    what = "forwarded" if way.lane.device is not None else "proxied"
    packet = Case(what, match.address.version, (aim,), _staff(facts, way), one_lane=True)
    for blow in stopped(hits(firewall, host.around, [packet])):
        text = f"{sentence(blow, firewall, facts.plan)}; to do: {remedies(blow, firewall, host)}"
        yield Step("firewall", text, Mark.PROBLEM if blow.whole else Mark.WARNING)
    # What the tunnel itself lives by: while it works although it is stopped, that has not had its effect yet.
    mark = Mark.WARNING if takes(way.state) else Mark.PROBLEM
    own = (case for case in cases(host.around) if case.what in ("probe", "gateway"))
    for blow in stopped(hit for hit in hits(firewall, host.around, own) if way.tunnel.name in hit.case.tunnels):
        yield Step("firewall", f"{sentence(blow, firewall, facts.plan)}; to do: {remedies(blow, firewall, host)}", mark)


def _rules(facts: Facts, way: Way, host: fitness.Facts) -> Iterator[Step]:
    match = way.match
    arrivals = tuple(name for network, name in host.around.arrivals if network.version == match.address.version)
    course = Course(way.lane, ip_network(match.address), ip_network(match.real), _staff(facts, way), arrivals)
    for rule in filter(first, host.rules or ()):
        truth, _ = catches(rule, course, host.routes)
        if truth is not Truth.NO:
            verb = "leads it elsewhere" if truth is Truth.YES else "may lead it elsewhere"
            text = f"the third-party rule `{rule.priority}: {rule.text}` stands before ours and {verb}; " \
                   f"to do: ip -{rule.version} rule del pref {rule.priority} {rule.text}"
            yield Step("policy rule", text, Mark.PROBLEM if truth is Truth.YES else Mark.WARNING)


def _addresses(way: Way, host: fitness.Facts) -> Iterator[Step]:
    real = way.match.real
    for route, course in taken(host.around, host.routes):
        if course.lane.number == way.lane.number and real in route.network:
            taken_by = f"{route.device} has the address {route.network}: this host takes the packet for itself"
            text = f"{taken_by}; to do: {removal(route, host.own)}"
            yield Step("address", text, Mark.PROBLEM)
    for own in host.own:
        if real in own.network:
            yield Step("address", f"it also lies in {own.network}, {own.what}, whose hosts this one cannot reach", Mark.WARNING)
