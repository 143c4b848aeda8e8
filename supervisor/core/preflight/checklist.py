"""All preflight checks, in the order in which their findings are shown."""

from __future__ import annotations

from supervisor.core.preflight import (
    addresses,
    announcing,
    client_files,
    firewalls,
    fleet,
    host,
    inputs,
    routing,
    service,
    staff,
)
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding

_CHECKS = (
    host.daemon,
    service.nomad,
    service.unit,
    service.closed,
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
    client_files.files,
    inputs.directories,
    inputs.ports,
    firewalls.firewalls,
    routing.rules,
    addresses.endpoints,
    addresses.addresses,
    addresses.cloud,
    announcing.announcements,
    fleet.fleet,
    staff.staff_routes,
)


def run_checks(facts: HostFacts) -> tuple[Finding, ...]:
    """The findings of all checks, in that order."""
    return tuple(finding for judge in _CHECKS for finding in judge(facts))
