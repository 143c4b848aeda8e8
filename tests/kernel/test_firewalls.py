"""What is said about third-party firewalls, on real packets: exactly those that are said to be dropped do
not arrive.
"""

from __future__ import annotations

import shutil
import socket
from ipaddress import ip_network

import pytest

from supervisor.app.preflight import host
from supervisor.core.preflight.crossing import Aim, Case, hits
from supervisor.core.preflight.facts import PacketContext
from supervisor.kernel.inspect import foreign_rules
from supervisor.kernel.nft.foreign_tables import MOST_ELEMENTS, ForeignTableReader
from tests.kernel.lab import PLAN, SITE, SITE6, STAFF, STAFF6, ask, kernel, server, world
from tests.netns import Namespace

pytestmark = pytest.mark.root
FORWARD = "type filter hook forward priority 0; policy accept;"


def one(text: str, hook: str = FORWARD) -> str:
    """A table with one rule in a chain."""
    return f"table inet mine {{\n chain c {{\n {hook}\n {text}\n }}\n}}\n"


def early(text: str, priority: int = -300) -> str:
    return one(text, f"type filter hook prerouting priority {priority};")


RULESETS = {
    "policy": (one("", "type filter hook forward priority 0; policy drop;"), True),
    "established-only": (
        one("ct state established accept", "type filter hook forward priority 10; policy drop;"),
        True,
    ),
    "answers-only": (one("ct direction reply drop"), True),
    "destination": (one("ip daddr 10.77.0.0/24 drop\n ip6 daddr fd00:77::/64 drop"), True),
    "another-destination": (one("ip daddr 10.78.0.0/24 drop\n ip6 daddr fd00:78::/64 drop"), False),
    "one-host": (one("ip daddr { 10.77.0.9, 10.77.0.10 } drop\n ip6 daddr fd00:77::10 drop"), True),
    "range": (one("ip daddr 10.77.0.5-10.77.0.20 drop\n ip6 daddr fd00:77::5-fd00:77::20 drop"), True),
    "range-beside": (
        one("ip daddr != 10.77.0.5-10.77.0.20 drop\n ip6 daddr != fd00:77::5-fd00:77::20 drop"),
        True,
    ),  # the answers
    "source": (one("ip saddr 10.8.0.0/24 reject\n ip6 saddr fd00:8::/64 reject"), True),
    "not-source": (one("ip saddr 10.8.0.6 reject\n ip6 saddr fd00:8::6 reject"), False),
    "port": (one("tcp dport 80 drop"), True),
    "another-port": (one("tcp dport { 22, 443, 8000-9000 } drop"), False),
    "protocol": (one("meta l4proto udp drop"), False),
    "syn": (one("tcp flags & (fin|syn|rst|ack) == syn drop"), True),
    "device-in": (one('iifname "s1" drop'), True),
    "device-in-index": (one("iif s1 oif != lo drop"), True),
    "device-out": (one('oifname "t-*" drop'), True),
    "device-pair": (one('iifname . oifname { "s1" . "u1" } drop'), False),
    "verdict-map": (
        one('iifname vmap { "s1" : jump d, "u1" : accept }').replace(
            "chain c", "chain d {\n drop\n }\n chain c"
        ),
        True,
    ),
    "port-map": (one("tcp dport vmap { 22 : drop, 81-90 : drop }"), False),
    "mark": (one("meta mark & 0xff000 == 0x2a000 drop"), True),
    "mark-accepted": (
        one("ct mark 173001-174999 accept", "type filter hook forward priority 0; policy drop;"),
        False,
    ),
    "mark-of-others": (one("ct mark 1-7 drop"), False),
    "jump-return": (one("jump d\n drop").replace("chain c", "chain d {\n return\n }\n chain c"), True),
    "goto": (one("goto d\n drop").replace("chain c", "chain d {\n return\n }\n chain c"), False),
    "raw-source": (early("ip saddr 10.8.0.5 drop\n ip6 saddr fd00:8::5 drop"), True),
    "raw-mark-is-not-there-yet": (early("meta mark 173001 drop"), False),
    "raw-invalid": (early("ct state invalid drop"), True),  # before connection tracking everything is
    "raw-flow": (early("ct mark 0 drop"), False),  # and has no mark, not even none
    "mangle-mark": (early("meta mark 173001 drop", -140), True),
    "mangle-invalid": (early("ct state invalid drop", -140), False),
    "reverse-path": (early("fib saddr . iif oif missing drop", -140), True),  # answers come out of tunnels
    "reverse-path-of-staff": (early('iifname "s1" fib saddr . iif oif missing drop', -140), False),
    "postrouting": (one('oifname "t-acme" drop', "type filter hook postrouting priority 0;"), True),
    "input": (one("", "type filter hook input priority 0; policy drop;"), False),
    "output": (one("", "type filter hook output priority 0; policy drop;"), False),
    "nat": (one("", "type nat hook prerouting priority -90;"), False),
    "ingress": (
        "table netdev mine {\n chain c {\n type filter hook ingress device s1 priority 0; policy drop;\n "
        "}\n}\n",
        True,
    ),
    "ingress-elsewhere": (
        "table netdev mine {\n chain c {\n type filter hook ingress device u1 priority 0; policy drop;\n "
        "}\n}\n",
        False,
    ),
}


def context() -> PacketContext:
    return PacketContext(PLAN, (), (), host.arrivals(PLAN.staff), foreign_rules.indexes())


def dropped(source: str, target: str) -> bool:
    """Is it said of TCP to port 80."""
    aim = Aim(PLAN.lanes[0], ip_network(target), ip_network(target), port=80)
    case = Case("forwarded", aim.real.version, (aim,), (ip_network(source),), one_lane=True)
    return any(hit.whole for hit in hits(ForeignTableReader().read(), context(), [case]))


async def arrives(staff: Namespace, address: str) -> bool:
    try:
        await ask(staff, address, seconds=0.3)
    except (OSError, TimeoutError):
        return False
    return True


async def test_what_is_said_to_be_dropped_does_not_arrive_and_everything_else_does(netns: Namespace) -> None:
    wrong = []
    with world(netns) as lab:
        async with kernel(PLAN), server(lab.site):
            for name, (ruleset, expected) in RULESETS.items():
                family = ruleset.split()[1]
                netns.run("nft", "-f", "-", input=ruleset)
                for source, address in ((STAFF, SITE), (STAFF6, SITE6)):
                    told, really = dropped(source, address), not await arrives(lab.staff, address)
                    if (told, really) != (expected, expected):
                        wrong.append(f"{name}: {address}: expected {expected}, told {told}, really {really}")
                netns.run("nft", "delete", "table", family, "mine")
    assert not wrong, "\n".join(wrong)


def test_only_what_has_changed_is_read_again_and_a_large_set_is_left_unread(netns: Namespace) -> None:
    reader = ForeignTableReader()
    netns.run(
        "nft",
        "-f",
        "-",
        input=one("ip saddr @many drop").replace("chain c", "set many {\n type ipv4_addr;\n }\n chain c"),
    )
    first = reader.read()
    assert reader.read() is first
    elements = ", ".join(f"10.{n >> 8}.{n & 255}.1" for n in range(MOST_ELEMENTS + 50))
    netns.run("nft", "-f", "-", input=f"add element inet mine many {{ {elements} }}\n")
    assert reader.read().sets["inet", "mine", "many"].elements is None
    netns.run("nft", "delete", "table", "inet", "mine")
    assert reader.read().chains == ()


@pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="iptables is not installed")
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("-m conntrack --ctstate NEW -j DROP", True),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j DROP", True),
        ("-m conntrack --ctstate INVALID -j DROP", False),
        ("-m state --state NEW -j REJECT", True),
        ("-m connmark --mark 0x2a000/0xfffff000 -j DROP", True),
        ("-m mark ! --mark 0x2a000/0xfffff000 -j DROP", True),
        ("-p tcp --dport 80:90 -j REJECT", True),
        ("-p tcp ! --dport 80 -j REJECT", True),
        ("-p udp -j DROP", False),
        ("-s 10.8.0.0/16 ! -i u1 -o t-acme -j DROP", True),
        ("-d 10.77.0.0/24 -j LOG", False),
    ],
)
async def test_rules_of_iptables(netns: Namespace, rule: str, expected: bool) -> None:
    with world(netns) as lab:
        async with kernel(PLAN), server(lab.site):
            netns.run("iptables-nft", "-A", "FORWARD", *rule.split())
            assert (dropped(STAFF, SITE), not await arrives(lab.staff, SITE)) == (expected, expected)


async def test_rules_and_routes_are_read_as_the_kernel_has_them(netns: Namespace) -> None:
    for family, rule in (
        ("-4", "pref 90 from 10.8.0.0/16 to 10.77.0.0/24 iif lo goto 200"),
        ("-4", "pref 200 blackhole"),
        ("-6", "pref 91 to fd00:77::/64 lookup 77 suppress_prefixlength 0"),
        ("-4", "pref 92 ipproto tcp dport 80 lookup 77"),
    ):
        netns.run("ip", family, "rule", "add", *rule.split())
    netns.run("ip", "-6", "route", "add", "fd00:77::/64", "dev", "lo", "table", "77")
    found = {rule.priority: rule for rule in foreign_rules.policy_rules()}
    assert (found[90].text, found[90].action, found[90].onward, found[90].arrives) == (
        "to 10.77.0.0/24 from 10.8.0.0/16 iif lo goto 200",
        "goto",
        200,
        "lo",
    )
    assert found[200].action == "blackhole"
    assert (found[91].target, found[91].table, found[91].suppresses) == (ip_network("fd00:77::/64"), 77, 0)
    assert found[92].narrow
    routes = foreign_rules.table_routes([(6, 77), (4, 77), (4, 255)])
    assert [(str(route.network), route.kind, route.device) for route in routes if route.table == 77] == [
        ("fd00:77::/64", "unicast", "lo")
    ]
    assert {str(route.network) for route in routes if route.kind == "local"} >= {"127.0.0.1/32"}
    with pytest.raises(OSError), socket.socket() as probe:
        probe.connect(("192.0.2.1", 9))
    assert foreign_rules.outgoing(ip_network("192.0.2.1/32").network_address) is None
