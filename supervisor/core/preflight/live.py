"""The preflight checks that a running daemon repeats, because their facts can change: facts in, conditions
out.

Only `facilitator doctor` checks what does not change while the daemon runs, or what other parts report:
privileges, programs, packages, secrets, directories, the service manager, names of gateways, reverse path
filters, and a clock that was never synchronised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from supervisor.core.conditions import Condition
from supervisor.core.preflight import addresses, firewalls, host, inputs, routing
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, Severity

CLEAR_AFTER_SECONDS = 5.0  # short, because the facts come from the kernel itself
_MAX_FINDINGS = 4  # findings in one condition
_LOOK_FURTHER = "facilitator doctor"
_SEVERITIES: Mapping[str, str] = MappingProxyType(
    {"third-party-firewall": "critical", "third-party-rule": "critical"}
)
PreflightCheck = Callable[[HostFacts], Iterator[Finding]]

CHECKS: Mapping[str, PreflightCheck] = MappingProxyType(
    {
        "third-party-firewall": firewalls.firewalls,
        "third-party-rule": routing.rules,
        "address-collision": addresses.addresses,
        "gateway-inside-destination": addresses.enclosed,
        "kernel-settings": host.settings,
        "conntrack-table": host.tracked,
        "tun-device": host.tun,
        "missing-device": host.files,
        "full-directory": inputs.full,
        "third-party-listener": inputs.ports,
    }
)


def conditions(facts: HostFacts) -> dict[str, Condition]:
    """One condition per check, whatever the number of its findings: a firewall with a chain for each IP
    version pages once.
    """
    found = {name: [each for each in judge(facts) if _counts(each)] for name, judge in CHECKS.items()}
    return {name: _condition(name, findings) for name, findings in found.items() if findings}


def clock(synchronised: bool | None, before: bool) -> dict[str, Condition]:
    """The condition that the clock is not synchronised any more; none if it never was (`before`)."""
    found = list(host.clock(HostFacts(synchronised=synchronised))) if before and synchronised is False else []
    return {"clock": _condition("clock", found)} if found else {}


def _counts(finding: Finding) -> bool:
    return finding.certain and finding.severity in (Severity.PROBLEM, Severity.WARNING)


def _condition(name: str, findings: list[Finding]) -> Condition:
    bad = any(finding.severity is Severity.PROBLEM for finding in findings)
    severity = _SEVERITIES.get(name, "error") if bad else "warning"
    more = (
        f"; and {len(findings) - _MAX_FINDINGS} more: {_LOOK_FURTHER}"
        if len(findings) > _MAX_FINDINGS
        else ""
    )
    return Condition(
        "; ".join(map(_summary, findings[:_MAX_FINDINGS])) + more,
        severity,
        _LOOK_FURTHER,
        clear_after=CLEAR_AFTER_SECONDS,
    )


def _summary(finding: Finding) -> str:
    command = finding.hint.partition("   #")[0]
    return f"{finding.text}; to do: {command}" if command else finding.text
