"""Facts about a host -> findings, in the order in which a person wants to read them."""

from __future__ import annotations

from supervisor.core.preflight import addresses, firewalls, host, inputs, routing, service
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding

_JUDGES = (
    host.daemon,
    service.nomad,
    service.unit,
    host.rights,
    host.tun,
    host.files,
    host.settings,
    host.features,
    host.isolation,
    host.clock,
    host.reverse_path,
    inputs.programs,
    inputs.packages,
    inputs.secrets,
    inputs.directories,
    inputs.ports,
    firewalls.firewalls,
    routing.rules,
    addresses.endpoints,
    addresses.addresses,
    addresses.cloud,
)


def examine(facts: HostFacts) -> tuple[Finding, ...]:
    """Everything that can be said."""
    return tuple(finding for judge in _JUDGES for finding in judge(facts))
