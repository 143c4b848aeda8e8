"""`facilitator why`: what other programs on this host have configured that stops the packet: firewall rules,
policy routing rules, addresses and sysctls.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from supervisor.core.diagnosis.checks import Check, CheckStatus, takes
from supervisor.core.diagnosis.query import Evidence, PacketPath
from supervisor.core.netfilter.values import Truth
from supervisor.core.preflight.addresses import inside
from supervisor.core.preflight.crossing import Aim, Case, cases, hits
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.firewalls import hints, sentence, stopped
from supervisor.core.preflight.host import of_devices
from supervisor.core.preflight.routing import RoutedPackets, catches, first, removal, taken
from tunnels.networks import IPNetwork


def obstacles(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """A check for each firewall rule, policy routing rule, address and sysctl in the way, in this order."""
    host = evidence.kernel.others
    if host is None:
        return
    yield from _gateway(path, host)
    yield from _firewalls(evidence, path, host)
    if path.lane.device is not None:
        yield from _rules(evidence, path, host)
        yield from _addresses(path, host)
        version = path.match.address.version
        yield from (
            Check("kernel setting", f"{each.text}; to do: {each.hint}", CheckStatus.PROBLEM)
            for each in of_devices(host, version)
        )


def _gateway(path: PacketPath, host: HostFacts) -> Iterator[Check]:
    """The remote gateway of the tunnel, where no packet to it can leave: it lies behind a tunnel itself."""
    for endpoint in host.endpoints:
        if endpoint.what.startswith(f"{path.lane.tunnel}: "):
            yield from (Check("gateway", each.text, CheckStatus.PROBLEM) for each in inside(endpoint, host))


def _staff(evidence: Evidence, path: PacketPath) -> tuple[IPNetwork, ...]:
    asked, version = evidence.query.source, path.match.address.version
    return (
        tuple(n for n in evidence.plan.staff if n.version == version)
        if asked is None
        else (ip_network(asked),)
    )


def _firewalls(evidence: Evidence, path: PacketPath, host: HostFacts) -> Iterator[Check]:
    if host.kernel is None:
        yield Check("firewall", "third-party firewall rules cannot be read", CheckStatus.WARNING)
        return
    firewall, match = host.kernel.firewall, path.match
    aim = Aim(path.lane, ip_network(match.address), ip_network(match.real), port=evidence.query.port)
    what = "forwarded" if path.lane.device is not None else "proxied"
    packet = Case(what, match.address.version, (aim,), _staff(evidence, path), one_lane=True)
    for dropping in stopped(hits(firewall, host.context, [packet])):
        text = f"{sentence(dropping, firewall, evidence.plan)}; to do: {hints(dropping, firewall, host)}"
        yield Check("firewall", text, CheckStatus.PROBLEM if dropping.whole else CheckStatus.WARNING)
    # Packets that the tunnel itself needs: while it works although they are dropped, its session will still
    # die.
    status = CheckStatus.WARNING if takes(path.state) else CheckStatus.PROBLEM
    own = (case for case in cases(host.context) if case.what in ("probe", "gateway"))
    for dropping in stopped(
        hit for hit in hits(firewall, host.context, own) if path.tunnel.name in hit.case.tunnels
    ):
        yield Check(
            "firewall",
            f"{sentence(dropping, firewall, evidence.plan)}; to do: {hints(dropping, firewall, host)}",
            status,
        )


def _rules(evidence: Evidence, path: PacketPath, host: HostFacts) -> Iterator[Check]:
    match = path.match
    arrivals = tuple(
        name for network, name in host.context.arrivals if network.version == match.address.version
    )
    packets = RoutedPackets(
        path.lane, ip_network(match.address), ip_network(match.real), _staff(evidence, path), arrivals
    )
    for rule in filter(first, host.rules or ()):
        truth, _ = catches(rule, packets, host.routes)
        if truth is not Truth.NO:
            verb = "leads it elsewhere" if truth is Truth.YES else "may lead it elsewhere"
            text = (
                f"the third-party rule `{rule.priority}: {rule.text}` has precedence over facilitator's and {verb}; "
                f"to do: ip -{rule.version} rule del pref {rule.priority} {rule.text}"
            )
            yield Check(
                "policy rule", text, CheckStatus.PROBLEM if truth is Truth.YES else CheckStatus.WARNING
            )


def _addresses(path: PacketPath, host: HostFacts) -> Iterator[Check]:
    real = path.match.real
    for route, packets in taken(host.context, host.routes):
        if packets.lane.number == path.lane.number and real in route.network:
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
