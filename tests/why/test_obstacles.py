"""What other programs have put in the way of the very packet that is asked about."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from supervisor.core.diagnosis.answer import Explanation, PacketOutcome
from supervisor.core.netfilter.values import (
    Compare,
    Consequence,
    FilterChain,
    FilterRule,
    Firewall,
    LoadExpression,
)
from supervisor.core.preflight.facts import (
    HostAddress,
    HostFacts,
    KernelFacts,
    PacketContext,
    PolicyRule,
    Setting,
    TableRoute,
)
from tests.why.worlds import asked, facts

DROP = Consequence("drop")


def chain(*expressions: object, hook: str = "forward", drops: bool = False) -> Firewall:
    rules = (FilterRule(9, (*expressions, DROP)),) if expressions else ()  # type: ignore[arg-type]
    return Firewall((FilterChain("ip", "filter", hook.upper(), rules, hook, drops=drops),))


def source(address: str) -> tuple[object, ...]:
    return LoadExpression(0, "network", 4, 12), Compare(0, "==", ip_network(address).network_address.packed)


def answer(
    address: str, sender: str | None = None, port: int | None = None, state: str = "", **host: object
) -> Explanation:
    given = facts(address, sender, port, **({"acme": state} if state else {}))
    context = PacketContext(
        given.plan,
        (("acme", "icmp://10.77.0.1"),),
        (),
        tuple((network, "vpc") for network in given.plan.staff),
        {},
    )
    return asked(given, others=HostFacts(context=context, **{"kernel": KernelFacts(), "rules": (), **host}))  # type: ignore[arg-type]


def steps(found: Explanation) -> list[tuple[str, str]]:
    return [
        (step.name, step.status.value)
        for step in found.steps
        if step.name in ("firewall", "policy rule", "address", "kernel setting")
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (answer("10.77.0.10"), []),
        (answer("10.77.0.10", kernel=KernelFacts(chain(drops=True))), [("firewall", "problem")]),
        (answer("fd00:77::10", kernel=KernelFacts(chain(drops=True))), []),  # a chain of IPv4
        (answer("10.90.0.10", kernel=KernelFacts(chain(drops=True))), []),  # a proxy's are not forwarded
        (
            answer("10.90.0.10", kernel=KernelFacts(chain(hook="input", drops=True))),
            [("firewall", "problem")],
        ),
        (
            answer("10.77.0.10", "10.8.0.9", kernel=KernelFacts(chain(*source("10.8.0.9")))),
            [("firewall", "problem")],
        ),
        (answer("10.77.0.10", "10.8.0.8", kernel=KernelFacts(chain(*source("10.8.0.9")))), []),
        (
            answer("10.77.0.10", kernel=KernelFacts(chain(*source("10.8.0.9")))),
            [("firewall", "warning")],
        ),  # of some senders
        (
            answer("10.77.0.10", kernel=KernelFacts(chain(hook="output", drops=True))),
            [("firewall", "warning")],
        ),  # of the probes only
        (
            answer("10.77.0.10", state="backoff", kernel=KernelFacts(chain(hook="output", drops=True))),
            [("firewall", "problem")],
        ),
        (answer("10.77.0.10", kernel=None), [("firewall", "warning")]),  # cannot be seen
        (
            answer("10.77.0.10", rules=(PolicyRule(4, 100, "blackhole", action="blackhole"),)),
            [("policy rule", "problem")],
        ),
        (answer("10.77.0.10", rules=(PolicyRule(4, 200, "blackhole", action="blackhole"),)), []),
        (
            answer("10.77.0.10", rules=(PolicyRule(4, 100, "ipproto tcp lookup main", narrow=True),)),
            [("policy rule", "warning")],
        ),
        (
            answer("10.77.0.10", routes=(TableRoute(255, ip_network("10.77.0.10/32"), "local", "eth0"),)),
            [("address", "problem")],
        ),
        (answer("10.77.0.11", routes=(TableRoute(255, ip_network("10.77.0.10/32"), "local", "eth0"),)), []),
        (
            answer("100.64.0.9", routes=(TableRoute(255, ip_network("10.0.0.9/32"), "local", "eth0"),)),
            [("address", "problem")],
        ),  # 1:1
        (
            answer(
                "10.77.0.10", own=(HostAddress(ip_network("10.77.0.0/24"), "this host's network on eth0"),)
            ),
            [("address", "warning")],
        ),
        (
            answer(
                "10.77.0.10",
                settings={
                    "net.ipv4.ip_forward": Setting("1", True),
                    "net.ipv4.conf.vpc.forwarding": Setting("0", True),
                },
            ),
            [("kernel setting", "problem")],
        ),
    ],
)
def test_each_obstacle_is_a_step(found: Explanation, expected: list[tuple[str, str]]) -> None:
    assert steps(found) == expected


def test_the_verdict_names_it_with_what_to_do() -> None:
    found = answer("10.77.0.10", "10.8.0.9", 443, kernel=KernelFacts(chain(drops=True)))
    assert found.outcome is PacketOutcome.BLOCKED
    assert "would not arrive: firewall: iptables drops forwarded packets" in found.verdict
    assert "to do: iptables -I FORWARD -m connmark" in found.verdict


def test_without_a_look_at_the_host_nothing_is_said_of_it() -> None:
    given = facts("10.77.0.10")
    assert steps(asked(replace(given, kernel=replace(given.kernel, others=None)))) == []
