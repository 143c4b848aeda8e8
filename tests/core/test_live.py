"""Conditions about the host: what the daemon makes of doctor's findings, and how often somebody is called
for them.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from supervisor.core.alerting.incidents import IncidentState, decide
from supervisor.core.conditions import Condition
from supervisor.core.netfilter.values import Consequence, FilterChain, FilterRule, Firewall
from supervisor.core.preflight.facts import (
    ForeignListener,
    HostAddress,
    HostFacts,
    KernelFacts,
    PolicyRule,
    Setting,
    TableRoute,
)
from supervisor.core.preflight.live import clock, conditions
from supervisor.core.snapshot import Snapshot
from tests.doctor.test_checks import CLOUD, DOCKER, PLAN, SITE, SOUND, base

FIREWALL = {"third-party-firewall"}
LIVE = replace(SOUND, live=True)


def walled(*firewalls: Firewall) -> HostFacts:
    return replace(
        LIVE, kernel=KernelFacts(Firewall(tuple(chain for each in firewalls for chain in each.chains)))
    )


def rule(hook: str, *expressions: object, comment: str = "") -> Firewall:
    return Firewall((FilterChain("inet", "mine", hook, (FilterRule(4, (*expressions,), comment),), hook),))  # type: ignore[arg-type]


def test_nothing_is_wrong_on_a_sound_host() -> None:
    assert conditions(LIVE) == {}


@pytest.mark.parametrize(
    ("facts", "name", "severity", "parts"),
    [
        (
            walled(DOCKER),
            "third-party-firewall",
            "critical",
            (
                "Docker drops forwarded packets",
                "table ip filter, chain FORWARD: policy drop",
                "this stops acme",
                "to do: iptables -I DOCKER-USER -m connmark",
            ),
        ),
        (
            walled(base("inet", "mine", "in", "input")),
            "third-party-firewall",
            "critical",
            ("redirected to a proxy", "this stops own", "to do: nft insert"),
        ),
        (
            walled(rule("forward", Consequence("drop"))),
            "third-party-firewall",
            "critical",
            ("its last rule is drop",),
        ),
        (
            walled(rule("output", Consequence("reject"))),
            "third-party-firewall",
            "critical",
            (
                "this host's probes",
                "this stops own, acme",
                "ct mark 173001-174999 counter accept",
                "meta mark 173001-174999 counter accept",
            ),
        ),
        (
            replace(LIVE, rules=(PolicyRule(4, 100, "blackhole", action="blackhole"),)),
            "third-party-rule",
            "critical",
            (
                "`100: blackhole`",
                "this stops acme (10.77.0.0/24)",
                "to do: ip -4 rule add pref 1100 blackhole && ip -4 rule del pref 100 blackhole",
            ),
        ),
        (
            replace(
                LIVE,
                rules=(
                    PolicyRule(
                        4,
                        100,
                        "to 10.77.0.9/32 blackhole",
                        target=ip_network("10.77.0.9/32"),
                        action="blackhole",
                    ),
                ),
            ),
            "third-party-rule",
            "warning",
            ("some of facilitator's packets",),
        ),
        (
            replace(LIVE, routes=(TableRoute(255, ip_network("10.77.0.1/32"), "local", "eth0"),)),
            "address-collision",
            "error",
            ("eth0 has the address 10.77.0.1",),
        ),
        (
            replace(LIVE, own=(HostAddress(ip_network("10.90.1.0/24"), "this host's network on eth0"),)),
            "address-collision",
            "error",
            ("10.90.0.0/16",),
        ),
        (
            replace(LIVE, settings={**SOUND.settings, "net.ipv4.ip_forward": Setting("0", True)}),
            "kernel-settings",
            "error",
            ("net.ipv4.ip_forward is 0, must be 1", "to do: sysctl -w net.ipv4.ip_forward=1"),
        ),
        (
            replace(LIVE, settings={**SOUND.settings, "net.ipv4.conf.eth0/7.forwarding": Setting("0", True)}),
            "kernel-settings",
            "error",
            ("net.ipv4.conf.eth0/7.forwarding is 0",),
        ),
        (
            replace(
                LIVE,
                settings={
                    **SOUND.settings,
                    "net.netfilter.nf_conntrack_count": Setting("95", False),
                    "net.netfilter.nf_conntrack_max": Setting("100", True),
                },
            ),
            "conntrack-table",
            "warning",
            ("95 of 100",),
        ),
        (
            replace(LIVE, tun=None),
            "tun-device",
            "error",
            ("/dev/net/tun does not exist", "to do: modprobe tun"),
        ),
        (
            replace(LIVE, full=(("facilitator.runtime_dir", "/run/facilitator"),)),
            "full-directory",
            "error",
            ("/run/facilitator (facilitator.runtime_dir) is full", "to do: df -h /run/facilitator"),
        ),
        (
            replace(LIVE, listeners=(ForeignListener(17301, "x (pid 7)"),)),
            "third-party-listener",
            "warning",
            ("x (pid 7) listens on port 17301",),
        ),
    ],
)
def test_each_trouble_is_one_condition_with_what_to_do(
    facts: HostFacts, name: str, severity: str, parts: tuple[str, ...]
) -> None:
    found = conditions(facts)
    assert [(each, found[each].severity) for each in found] == [(name, severity)]
    assert all(part in found[name].text for part in parts), found[name].text
    assert found[name].look_further == "facilitator doctor"


@pytest.mark.parametrize(
    "facts",
    [
        walled(rule("forward", Consequence("drop"), comment="facilitator: meant")),
        replace(
            LIVE, rules=(PolicyRule(4, 100, "ipproto tcp lookup main", narrow=True),)
        ),  # it may, nobody knows
        replace(
            LIVE, own=(HostAddress(ip_network("10.0.0.0/8"), "this host's network on eth0"),)
        ),  # neighbours, of a wide network
        replace(LIVE, legacy_tables=True),
        replace(LIVE, synchronised=False),
        replace(LIVE, kernel=None, rules=None),
    ],
)
def test_what_is_not_certain_is_for_doctor(facts: HostFacts) -> None:
    assert conditions(facts) == {}


def test_a_firewall_for_each_ip_version_is_one_condition() -> None:
    both = walled(DOCKER, base("inet", "mine", "fwd", "forward"))
    assert conditions(both).keys() == FIREWALL
    assert conditions(both)["third-party-firewall"].text.count("this stops acme") == 2


def test_destinations_are_named_where_not_all_are_stopped() -> None:
    second = replace(PLAN.carries[0], network=ip_network("10.78.0.0/24"), real=ip_network("10.78.0.0/24"))
    two = replace(PLAN, carries=(*PLAN.carries, second))
    facts = replace(
        LIVE,
        context=replace(LIVE.context, plan=two),
        rules=(PolicyRule(4, 9, "to x", target=SITE, action="prohibit"),),
    )
    assert "this stops acme (10.77.0.0/24);" in conditions(facts)["third-party-rule"].text
    assert str(CLOUD) not in conditions(facts)["third-party-rule"].text


@pytest.mark.parametrize(
    ("synchronised", "before", "told"),
    [(False, True, True), (False, False, False), (True, True, False), (None, True, False)],
)
def test_a_clock_that_was_synchronised_and_is_not(
    synchronised: bool | None, before: bool, told: bool
) -> None:
    assert ("clock" in clock(synchronised, before)) is told


# --- how often somebody is called
# ----------------------------------------------------------------------------------------------


def incidents(period: float, gone_for: float, times: int) -> int:
    """How many incidents are opened for a condition that comes and goes."""
    state, now, opened, is_open = IncidentState(), 1000.0, 0, False
    condition = {"third-party-firewall": Condition("x", clear_after=5.0)}
    for turn in range(int(times * period)):
        now = 1000.0 + turn
        there = turn % period < period - gone_for
        state, alerts, _ = decide("vpn1", state, Snapshot({}, now), condition if there else {}, {})
        opened += "third-party-firewall" in alerts and not is_open
        is_open = "third-party-firewall" in alerts
    return opened


def test_a_condition_that_goes_is_resolved_soon_and_one_that_comes_and_goes_is_not_many_incidents() -> None:
    assert incidents(period=100, gone_for=50, times=1) == 1
    assert incidents(period=20, gone_for=10, times=50) <= 2
    assert incidents(period=120, gone_for=100, times=30) <= 4
    state, _, _ = decide(
        "vpn1", IncidentState(), Snapshot({}, 10.0), {"x": Condition("x", clear_after=5.0)}, {}
    )
    for moment, still in ((11.0, True), (15.0, True), (16.0, False)):
        state, alerts, due = decide("vpn1", state, Snapshot({}, moment), {}, {})
        assert ("x" in alerts, due) == (still, 16.0 if still else None)
