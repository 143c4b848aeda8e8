"""What the daemon watches of what doctor judges: kernel state that can change under it. Facts in,
conditions out.

Doctor alone tells what does not change by itself while the daemon runs, or what others tell better: rights,
programs, packages, secrets and directories, the service manager, names of gateways, reverse path filters, and
a clock that was never synchronised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from supervisor.core.conditions import Condition
from supervisor.core.preflight import addresses, firewalls, host, inputs, routing
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, Severity

CLEAR_AFTER = 5.0  # seconds for which it must be gone: the kernel itself was read, so there is no doubt
_TOLD = 4  # findings in one condition
_LOOK_FURTHER = "facilitator doctor"
_SEVERITIES: Mapping[str, str] = MappingProxyType(
    {"third-party-firewall": "critical", "third-party-rule": "critical"}
)
Judge = Callable[[HostFacts], Iterator[Finding]]

_JUDGES: Mapping[str, Judge] = MappingProxyType(
    {
        "third-party-firewall": firewalls.firewalls,
        "third-party-rule": routing.rules,
        "address-collision": addresses.addresses,
        "kernel-settings": host.settings,
        "conntrack-table": host.tracked,
        "tun-device": host.tun,
        "missing-device": host.files,
        "third-party-listener": inputs.ports,
    }
)


def conditions(facts: HostFacts) -> dict[str, Condition]:
    """One for each sort of trouble, however many findings it has: so a firewall with a chain for each IP
    version calls once.
    """
    found = {name: [each for each in judge(facts) if _counts(each)] for name, judge in _JUDGES.items()}
    return {name: _condition(name, findings) for name, findings in found.items() if findings}


def clock(synchronised: bool | None, before: bool) -> dict[str, Condition]:
    """The clock, where it was synchronised `before`."""
    found = list(host.clock(HostFacts(synchronised=synchronised))) if before and synchronised is False else []
    return {"clock": _condition("clock", found)} if found else {}


def _counts(finding: Finding) -> bool:
    return finding.certain and finding.severity in (Severity.PROBLEM, Severity.WARNING)


def _condition(name: str, findings: list[Finding]) -> Condition:
    bad = any(finding.severity is Severity.PROBLEM for finding in findings)
    severity = _SEVERITIES.get(name, "error") if bad else "warning"
    more = f"; and {len(findings) - _TOLD} more: {_LOOK_FURTHER}" if len(findings) > _TOLD else ""
    return Condition(
        "; ".join(map(_told, findings[:_TOLD])) + more, severity, _LOOK_FURTHER, clear_after=CLEAR_AFTER
    )


def _told(finding: Finding) -> str:
    command = finding.remedy.partition("   #")[0]
    return f"{finding.text}; to do: {command}" if command else finding.text
