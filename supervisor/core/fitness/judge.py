"""Facts about a host -> findings, in the order in which a person wants to read them."""

from __future__ import annotations

from supervisor.core.fitness import firewalls, inputs, machine, routing, service, traffic
from supervisor.core.fitness.facts import Facts
from supervisor.core.fitness.finding import Finding

_JUDGES = (
    machine.daemon, service.nomad, service.unit, machine.rights, machine.tun, machine.files, machine.settings, machine.features,
    machine.isolation, machine.clock, machine.reverse_path,
    inputs.programs, inputs.packages, inputs.secrets, inputs.directories, inputs.ports,
    firewalls.firewalls, routing.rules, traffic.endpoints, traffic.addresses, traffic.cloud,
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Everything that can be said."""
    return tuple(finding for judge in _JUDGES for finding in judge(facts))
