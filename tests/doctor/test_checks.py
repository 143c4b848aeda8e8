"""Facts in, findings out: the judging half of `facilitator doctor`, by tables."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.netfilter.values import Consequence, FilterChain, FilterRule, Firewall, Truth
from supervisor.core.network.lanes import FIRST_LANE, LAST_LANE
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.preflight.checklist import run_checks
from supervisor.core.preflight.facts import (
    ClosedUnit,
    DaemonFacts,
    DirectoryFacts,
    Endpoint,
    ForeignListener,
    HostAddress,
    HostFacts,
    KernelFacts,
    PackageFacts,
    PacketContext,
    PolicyRule,
    ProcessFacts,
    ProgramFacts,
    Requirements,
    ReversePath,
    SecretFile,
    Service,
    Setting,
    TableRoute,
    Unit,
)
from supervisor.core.preflight.finding import Finding, Severity
from supervisor.core.preflight.firewalls import mark_and_mask
from supervisor.core.preflight.inputs import fits, numbers
from supervisor.core.preflight.isolation import Isolation
from supervisor.core.preflight.routing import RoutedPackets, catches
from supervisor.core.preflight.service import seconds, span
from tunnels.base import RequiredFile

OK, INFO, WARNING, PROBLEM = Severity
CAPABILITIES = frozenset({"CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_NET_BIND_SERVICE"})
SITE, CLOUD = ip_network("10.77.0.0/24"), ip_network("10.90.0.0/16")
STAFF = ip_network("10.8.0.0/16")
ACME, OWN = Lane("acme", FIRST_LANE, "t-acme", True), Lane("own", FIRST_LANE + 1, None, True, 17300)
PLAN = NetworkPlan((STAFF,), (ACME, OWN), (Carry(SITE, ACME.number, SITE), Carry(CLOUD, OWN.number, CLOUD)))
SOUND = HostFacts(
    requirements=Requirements(
        ("acme",), ("own",), (("acme", SITE), ("own", CLOUD)), icmp=("acme",), staff=(STAFF,)
    ),
    process=ProcessFacts(capabilities=CAPABILITIES),
    programs=(ProgramFacts("openvpn", ("acme",), "2.6.14"), ProgramFacts("ssh", ("own",), "9.2p1")),
    packages=(PackageFacts("sshuttle", "<3,>=1.3.2", "2.0.0"),),
    settings={
        "net.ipv4.ip_forward": Setting("1", True),
        "net.ipv4.conf.all.rp_filter": Setting("0", True),
        "net.ipv4.ping_group_range": Setting("0 7", True),
        "net.netfilter.nf_conntrack_acct": Setting("1", True),
    },
    kernel=KernelFacts(owner_persist=True),
    rules=(),
    synchronised=True,
    context=PacketContext(
        PLAN,
        (("acme", "icmp://10.77.0.1"),),
        (),
        ((STAFF, "eth1"),),
        {"lo": 1, "eth0": 2, "eth1": 3, "t-acme": 7},
    ),
    endpoints=(Endpoint("acme: gateway", "vpn.acme.example", (ip_address("192.0.2.7"),)),),
    own=(HostAddress(ip_network("172.31.0.0/20"), "this host's network on eth0"),),
    secrets=(SecretFile("acme: password", "/etc/facilitator/acme-password", mode=0o640),),
    directories=(DirectoryFacts("facilitator.state_dir", "/var/lib/facilitator", free=10**9),),
)
host = partial(replace, SOUND)


def unit(**differs: Any) -> HostFacts:
    return host(service=Service(unit=Unit(**differs)))


def closed_unit(**differs: Any) -> HostFacts:
    sound = ClosedUnit(loaded=True, enabled=True, closed_at=3.0, network_at=8.0)
    return host(service=Service(closed=replace(sound, **differs)))


def task(max_kill_timeout: str | None) -> HostFacts:
    return host(service=Service(nomad=True, max_kill_timeout=max_kill_timeout))


def in_nomad(**differs: Any) -> HostFacts:
    return host(service=Service(nomad=True, max_kill_timeout="9h", **differs))


def test_nomad_says_why_it_ends_the_task() -> None:
    texts = [finding.text for finding in run_checks(in_nomad())]
    assert "Nomad's task API says why it ends the task" in texts


@pytest.mark.parametrize(
    ("differs", "part"),
    [
        (
            {"task_api": "Nomad's task API refused (403)"},
            "is taken for a stop: Nomad's task API refused (403)",
        ),
        ({"client_group": "/sys/fs/cgroup: Read-only file system"}, "a kill of the task ends them"),
    ],
)
def test_what_a_task_lacks(differs: dict[str, str], part: str) -> None:
    found = [finding for finding in run_checks(in_nomad(**differs)) if part in finding.text]
    assert [finding.severity for finding in found] == [Severity.WARNING]


def jump(name: str) -> FilterRule:
    return FilterRule(3, (Consequence("jump", name),))


def base(
    family: str,
    table: str,
    name: str,
    hook: str,
    *jumps: str,
    drops: bool = True,
    rules: tuple[FilterRule, ...] = (),
) -> Firewall:
    """A base chain with the chains that it leads to, which are empty."""
    chain = FilterChain(family, table, name, (*map(jump, jumps), *rules), hook, drops=drops)
    return Firewall((chain, *(FilterChain(family, table, other) for other in jumps)))


def walled(firewall: Firewall, **differs: Any) -> HostFacts:
    return host(kernel=KernelFacts(firewall, owner_persist=True), **differs)


REJECTS = FilterRule(9, (Consequence("reject"),))
ACCEPTS = FilterRule(8, (Consequence("accept"),), "facilitator")
DOCKER = base("ip", "filter", "FORWARD", "forward", "DOCKER-USER")
UFW = base("ip", "filter", "INPUT", "input", "ufw-before-input")


def bad(facts: HostFacts) -> list[Finding]:
    return [finding for finding in run_checks(facts) if finding.severity in (WARNING, PROBLEM)]


def only(facts: HostFacts) -> Finding:
    (finding,) = bad(facts)
    assert finding.hint
    return finding


def test_nothing_is_wrong_with_a_sound_host() -> None:
    assert bad(SOUND) == []
    assert {finding.subject for finding in run_checks(SOUND)} >= {
        "rights",
        "devices",
        "kernel",
        "clock",
        "firewall",
        "endpoints",
        "cloud",
    }
    assert "check must be off" in next(
        finding.text for finding in run_checks(SOUND) if finding.subject == "cloud"
    )


@pytest.mark.parametrize(
    ("facts", "severity", "text", "hint"),
    [
        (
            host(process=replace(SOUND.process, capabilities=CAPABILITIES - {"CAP_NET_ADMIN"})),
            PROBLEM,
            "lacks CAP_NET_ADMIN: no route",
            "AmbientCapabilities=CAP_NET_ADMIN",
        ),
        (
            host(process=replace(SOUND.process, capabilities=CAPABILITIES - {"CAP_SETUID"})),
            PROBLEM,
            "sshuttle cannot give up root",
            "",
        ),
        (
            host(
                requirements=replace(SOUND.requirements, http_port=80),
                process=ProcessFacts(capabilities=CAPABILITIES - {"CAP_NET_BIND_SERVICE"}),
            ),
            PROBLEM,
            "port 80 (http.listen)",
            "",
        ),
        (
            host(tun=None),
            PROBLEM,
            "/dev/net/tun does not exist: these tunnels cannot start: acme",
            "modprobe tun",
        ),
        (
            host(tun="Operation not permitted"),
            PROBLEM,
            "(Operation not permitted)",
            "DeviceAllow=/dev/net/tun rw",
        ),
        (
            host(
                requirements=replace(
                    SOUND.requirements, needs=(("acme", RequiredFile("/dev/ppp", "another kind")),)
                ),
                absent=frozenset({"/dev/ppp"}),
            ),
            PROBLEM,
            "/dev/ppp does not exist: these tunnels cannot start: acme",
            "another kind",
        ),
        (
            host(
                programs=(
                    ProgramFacts(
                        "openvpn",
                        ("acme",),
                        missing="openvpn is not installed (Debian and Ubuntu: apt install openvpn)",
                    ),
                )
            ),
            PROBLEM,
            "openvpn is not installed: these tunnels cannot start: acme",
            "apt install openvpn",
        ),
        (
            host(programs=(ProgramFacts("openvpn", ("acme",), "2.3.10"),)),
            PROBLEM,
            "openvpn 2.3.10 is older than 2.4",
            "apt install openvpn",
        ),
        (
            host(programs=(ProgramFacts("ssh", ("own",), error="Exec format error"),)),
            PROBLEM,
            "Exec format error",
            "ssh --version",
        ),
        (
            host(packages=(PackageFacts("sshuttle", "<3,>=1.3.2", "1.1.0"),)),
            PROBLEM,
            "sshuttle is 1.1.0; it must be <3,>=1.3.2",
            "pip install",
        ),
        (host(supervisord=True), PROBLEM, "supervisord", "venv"),
        (host(synchronised=False), WARNING, "clock", "timesyncd"),
        (host(isolation=Isolation(landlock=0)), WARNING, "offers no Landlock", "lsm=landlock"),
        (host(isolation=Isolation(landlock=5)), WARNING, "(version 5) stops no signals", "6.12"),
        (host(isolation=Isolation(filters=False)), WARNING, "no seccomp", "aarch64"),
        (host(kernel=KernelFacts(owner_persist=False)), WARNING, "cannot outlive an owner", "6.9"),
        (
            host(kernel=KernelFacts(owner_persist=True, missing_modules=("nft_socket", "nft_connlimit"))),
            PROBLEM,
            "lacks what facilitator's firewall rules need: nft_socket, nft_connlimit",
            "modprobe -a nft_socket nft_connlimit",
        ),
        (host(legacy_tables=True), WARNING, "iptables-legacy", "iptables-legacy -S"),
        (
            host(secrets=(SecretFile("acme: password", "/x", error="no file /x"),)),
            PROBLEM,
            "acme: password: no file /x",
            "/dev/stdin /x",
        ),
        (
            host(secrets=(SecretFile("acme: password", "/x", mode=0o644),)),
            WARNING,
            "/x has mode 0644, wider than 0640",
            "chmod 0640 /x",
        ),
        (
            host(directories=(DirectoryFacts("facilitator.state_dir", "/s", "read-only"),)),
            PROBLEM,
            "/s cannot be written",
            "install -d",
        ),
        (
            host(directories=(DirectoryFacts("facilitator.state_dir", "/s", free=5_000_000),)),
            WARNING,
            "only 5 MB left",
            "df",
        ),
        (
            host(listeners=(ForeignListener(9464, "node_exporter (pid 7)"),)),
            PROBLEM,
            "node_exporter (pid 7) listens on port 9464",
            "http.listen",
        ),
        (host(listeners=(ForeignListener(17301, None),)), WARNING, "listens on port 17301", "ss -ltnp"),
        (
            unit(kill_mode="control-group"),
            WARNING,
            "KillMode=control-group: the clients are ended together",
            "KillMode=process",
        ),
        (
            unit(kill_mode="mixed"),
            WARNING,
            "KillMode=mixed: a crash of the daemon, and every `systemctl restart`, ends",
            "KillMode=process",
        ),
        (
            unit(preserved="no"),
            WARNING,
            "RuntimeDirectoryPreserve=no: the journal",
            "RuntimeDirectoryPreserve=yes",
        ),
        (closed_unit(loaded=False), WARNING, "facilitator-closed.service is missing", "make install"),
        (
            closed_unit(enabled=False),
            WARNING,
            "closed.service is not enabled",
            "systemctl enable facilitator-closed",
        ),
        (closed_unit(failed=True), WARNING, "closed.service has failed", "journalctl -u facilitator-closed"),
        (
            closed_unit(closed_at=9.25),
            WARNING,
            "ran 1.2 s after the network was begun",
            "Before=network-pre.target",
        ),
        (unit(stop_timeout="5s"), WARNING, "kills the daemon 5s after", "TimeoutStopSec=60s"),
        (unit(restart="no"), WARNING, "Restart=no: after a crash nobody", "Restart=on-failure"),
        (
            unit(restart="always"),
            WARNING,
            "what `facilitator drain` ended is started again",
            "Restart=on-failure",
        ),
        (unit(watchdog="0"), WARNING, "a daemon that is stuck stays so", "WatchdogSec=60s"),
        (unit(bus=False), WARNING, "no D-Bus", "apt install dbus"),
        (
            unit(type="simple", stop_timeout="infinity"),
            WARNING,
            "does not hear when the daemon is ready",
            "Type=notify",
        ),
        (
            replace(unit(credentials=(("key", "/no"),)), absent=frozenset({"/no"})),
            PROBLEM,
            "the credential key from /no, which does not exist",
            "/dev/stdin /no",
        ),
        (
            task(""),
            WARNING,
            "max_kill_timeout 30s (its default), drain.timeout is 8h",
            'max_kill_timeout = "8h5m"',
        ),
        (task("1m"), WARNING, "max_kill_timeout 1m, drain.timeout is 8h", 'kill_timeout = "8h5m"'),
        (
            host(daemon=DaemonFacts(leftovers=(("acme", 42),))),
            WARNING,
            "left clients running: acme (pid 42)",
            "facilitator cleanup",
        ),
        (
            host(daemon=DaemonFacts(7, orphans=(("acme", 42, "/run/old"), ("own", 43, "/run/old")))),
            PROBLEM,
            "another runtime_dir: acme (pid 42, /run/old), own (pid 43, /run/old)",
            "kill 42 43",
        ),
        (
            host(
                endpoints=(
                    Endpoint("acme: gateway", "vpn.acme.example", error="its name cannot be resolved"),
                )
            ),
            PROBLEM,
            "vpn.acme.example: its name cannot be resolved",
            "getent ahosts vpn.acme.example",
        ),
        (
            host(endpoints=(Endpoint("own: gateway", "bastion", (ip_address("10.77.0.9"),)),)),
            PROBLEM,
            "bastion (10.77.0.9) lies inside 10.77.0.0/24, a destination of acme",
            "10.77.0.128/25]",
        ),
        (
            host(own=(HostAddress(ip_network("10.90.1.0/24"), "this host's network on eth0"),)),
            PROBLEM,
            "covers this host's network on eth0 (10.90.1.0/24)",
            "10.90.0.0/24, 10.90.2.0/23",
        ),
        (
            host(own=(HostAddress(ip_network("10.90.0.2/32"), "a name server of this host"),)),
            PROBLEM,
            "covers a name server of this host (10.90.0.2)",
            "presented_as",
        ),
        (
            host(own=(HostAddress(ip_network("10.0.0.0/8"), "this host's network on eth0"),)),
            WARNING,
            "lies inside this host's network",
            "",
        ),
    ],
)
def test_each_trouble_is_said_once_with_what_to_do(
    facts: HostFacts, severity: Severity, text: str, hint: str
) -> None:
    found = bad(facts)
    assert {finding.severity for finding in found} == {severity}
    assert text in found[0].text
    assert hint in found[0].hint
    assert all(finding.hint for finding in found)


@pytest.mark.parametrize(
    ("name", "value", "otherwise"),
    [
        ("net.ipv4.ip_forward", "0", "no packet of the staff"),
        ("net.ipv4.conf.all.rp_filter", "1", "replies out of tunnels are dropped"),
        ("net.ipv4.ping_group_range", "1 0", "icmp probes fail (acme)"),
    ],
)
def test_a_wrong_setting_is_a_problem_only_where_the_daemon_cannot_set_it(
    name: str, value: str, otherwise: str
) -> None:
    def facts(writable: bool, privileged: bool = True) -> HostFacts:
        return host(settings={**SOUND.settings, name: Setting(value, writable)}, privileged=privileged)

    assert bad(facts(writable=True)) == bad(facts(writable=False, privileged=False)) == []
    finding = only(facts(writable=False))
    assert (finding.severity, otherwise in finding.text) == (PROBLEM, True)
    assert finding.hint.startswith("sysctl -w ")
    assert name in finding.hint


def test_ipv6_forwarding_matters_with_ipv6_destinations() -> None:
    off = host(settings={**SOUND.settings, "net.ipv6.conf.all.forwarding": Setting("0", False)})
    assert bad(off) == []
    asked = replace(
        off, requirements=replace(off.requirements, destinations=(("acme", ip_network("fd00:77::/64")),))
    )
    assert "net.ipv6.conf.all.forwarding is 0" in only(asked).text


def test_a_full_connection_table_is_seen_before_it_hurts() -> None:
    table = {
        "net.netfilter.nf_conntrack_count": Setting("900", False),
        "net.netfilter.nf_conntrack_max": Setting("1000", True),
    }
    assert "900 of 1000" in only(host(settings={**SOUND.settings, **table})).text


@pytest.mark.parametrize(
    ("firewall", "owner", "place", "hint"),
    [
        (
            DOCKER,
            "Docker",
            "table ip filter, chain FORWARD: policy drop",
            "iptables -I DOCKER-USER -m connmark --mark 0x2a000/0xfffff000 -m comment --comment "
            "facilitator -j ACCEPT",
        ),
        (
            base("ip", "filter", "FORWARD", "forward", "DOCKER-USER", "ufw-before-forward"),
            "ufw",
            "policy drop",
            "iptables -I ufw-before-forward ",
        ),
        (UFW, "ufw", "table ip filter, chain INPUT: policy drop", "iptables -I ufw-before-input "),
        (base("ip", "filter", "FORWARD", "forward"), "iptables", "policy drop", "iptables -I FORWARD "),
        (
            base("ip", "raw", "PREROUTING", "prerouting"),
            "iptables",
            "policy drop",
            "iptables -t raw -I PREROUTING ",
        ),
        (
            base("inet", "firewalld", "filter_FORWARD", "forward", drops=False, rules=(REJECTS,)),
            "firewalld",
            "table inet firewalld, chain filter_FORWARD: its last rule is reject",
            "--zone=facilitator --add-source=10.8.0.0/16",
        ),
        (
            base("inet", "mine", "fwd", "forward"),
            "a firewall of this host",
            "table inet mine, chain fwd: policy drop",
            "nft insert rule inet mine fwd ct mark 173001-174999 counter accept comment facilitator",
        ),
        (
            base("inet", "mine", "out", "output"),
            "a firewall of this host",
            "table inet mine, chain out: policy drop",
            "nft insert rule inet mine out meta mark 173001-174999 counter accept comment facilitator",
        ),
    ],
)
def test_a_third_party_firewall_is_named_with_its_own_kind_of_remedy(
    firewall: Firewall, owner: str, place: str, hint: str
) -> None:
    found = bad(walled(firewall))
    assert [finding.severity for finding in found] == [PROBLEM]
    assert found[0].text.startswith(f"{owner} drops ")
    assert place in found[0].text
    assert hint in found[0].hint


@pytest.mark.parametrize(
    "facts",
    [
        walled(base("ip", "filter", "FORWARD", "forward", rules=(ACCEPTS,))),  # the hint was applied
        walled(base("ip6", "filter", "FORWARD", "forward")),  # no IPv6 destination
        walled(
            DOCKER, context=replace(SOUND.context, plan=replace(PLAN, lanes=(OWN,)))
        ),  # proxies are not forwarded
        walled(base("ip", "filter", "FORWARD", "forward", drops=False)),
    ],
)
def test_a_firewall_that_does_not_concern_us_is_left_alone(facts: HostFacts) -> None:
    assert bad(facts) == []


def test_the_mask_matches_all_of_our_marks_and_little_else() -> None:
    mark, mask = mark_and_mask()
    assert all(lane & mask == mark for lane in range(FIRST_LANE, LAST_LANE + 1))
    assert 0xFFFF_FFFF - mask < 4 * (LAST_LANE - FIRST_LANE)


@pytest.mark.parametrize(
    ("rule", "severity"),
    [
        (PolicyRule(4, 100, "lookup main"), PROBLEM),
        (PolicyRule(4, 100, "fwmark 0x1/0x1 lookup 7", 1, 1), PROBLEM),  # tests one bit, which odd lanes have
        (PolicyRule(4, 100, "not fwmark 0x5/0xffffffff lookup 7", 5, 0xFFFFFFFF, inverted=True), PROBLEM),
        (PolicyRule(4, 100, "ipproto lookup 7", narrow=True), WARNING),
        (PolicyRule(4, 100, "from 10.0.0.0/8 lookup 7", source=ip_network("10.0.0.0/8")), PROBLEM),
        (PolicyRule(4, 100, "from 10.8.4.0/24 lookup 7", source=ip_network("10.8.4.0/24")), WARNING),
        (PolicyRule(4, 100, "from 10.9.0.0/16 lookup 7", source=ip_network("10.9.0.0/16")), None),
        (PolicyRule(4, 100, "to 10.77.0.0/24 blackhole", target=SITE, action="blackhole"), PROBLEM),
        (
            PolicyRule(
                4, 100, "to 10.77.0.9/32 blackhole", target=ip_network("10.77.0.9/32"), action="blackhole"
            ),
            WARNING,
        ),
        (PolicyRule(4, 100, "iif eth1 lookup main", arrives="eth1"), PROBLEM),
        (PolicyRule(4, 100, "iif eth0 lookup main", arrives="eth0"), None),
        (PolicyRule(4, 100, "goto 32766", action="goto", onward=32766), PROBLEM),
        (PolicyRule(4, 100, "goto 150", action="goto", onward=150), None),
        (PolicyRule(4, 100, "nop", action="nop"), None),
        (PolicyRule(4, 100, "lookup 7", table=7), PROBLEM),  # it has a default route, see below
        (PolicyRule(4, 100, "lookup 8", table=8), None),  # it is empty
        (PolicyRule(4, 100, "lookup 9", table=9), WARNING),  # a route to one host of the site
        (PolicyRule(4, 100, "lookup 7 suppress_prefixlength 0", table=7, suppresses=0), None),
        (PolicyRule(4, 0, "lookup local", table=255), None),
        (PolicyRule(4, 100, "fwmark 0x10000/0xff0000 lookup 7", 0x10000, 0xFF0000), None),
        (PolicyRule(4, 5210, "fwmark 0x80000/0xff0000 lookup main", 0x80000, 0xFF0000), None),  # tailscale's
        (PolicyRule(4, 32766, "lookup main"), None),
        (PolicyRule(6, 100, "lookup main"), None),
    ],
)
def test_third_party_rules_before_ours(rule: PolicyRule, severity: Severity | None) -> None:
    routes = (
        TableRoute(7, ip_network("0.0.0.0/0"), "unicast"),
        TableRoute(9, ip_network("10.77.0.9/32"), "unicast"),
    )
    found = bad(host(rules=(rule,), routes=routes))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all(
        f"`{rule.priority}: {rule.text}`" in finding.text and "rule" in finding.hint for finding in found
    )


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(FIRST_LANE, LAST_LANE))
def test_a_rule_that_matches_a_lane_is_never_missed(mark: int, mask: int, lane: int) -> None:
    if lane & mask == mark & mask:
        assert (
            catches(
                PolicyRule(4, 1, "", mark, mask),
                RoutedPackets(replace(ACME, number=lane), SITE, SITE, (STAFF,)),
                (),
            )[0]
            is Truth.YES
        )


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (TableRoute(255, ip_network("10.77.0.1/32"), "local", "dummy0"), True),
        (TableRoute(255, SITE, "local", "lo"), True),
        (TableRoute(255, ip_network("10.77.0.255/32"), "broadcast", "dummy0"), False),
        (TableRoute(255, ip_network("10.77.0.1/32"), "local", "t-acme"), False),
        (TableRoute(255, ip_network("10.7.0.1/32"), "local", "eth0"), False),
    ],
)
def test_an_address_of_this_host_inside_a_destination(route: TableRoute, told: bool) -> None:
    found = bad(host(routes=(route,)))
    assert [
        f"ip -4 route del local {route.network} dev {route.device} table local" == finding.hint
        for finding in found
    ] == [True] * told
    named = bad(
        host(
            routes=(route,),
            own=(HostAddress(ip_network("10.7.0.0/16"), "this host's network", "10.77.0.1/16"),),
        )
    )
    if str(route.network) == "10.77.0.1/32" and told:
        assert [finding.hint for finding in named] == ["ip -4 address del 10.77.0.1/16 dev dummy0"]


@pytest.mark.parametrize(("value", "fine"), [(1, True), (0, False), (2, False)])
def test_a_reverse_path_filter_that_is_not_strict_is_told(value: int, fine: bool) -> None:
    found = bad(host(filters=(ReversePath("eth0.7", value),)))
    assert [(finding.severity, finding.hint.split(" &&")[0]) for finding in found] == (
        [] if fine else [(WARNING, "sysctl -w net.ipv4.conf.eth0/7.rp_filter=1")]
    )


def test_what_cannot_be_seen_is_no_trouble() -> None:
    blind = replace(
        SOUND,
        kernel=None,
        rules=None,
        synchronised=None,
        packages=(),
        cloud=None,
        secrets=(SecretFile("acme: password", "/x", "Permission denied", unseen=True),),
        directories=(DirectoryFacts("facilitator.state_dir", "/s", "no permission", unseen=True),),
    )
    assert bad(blind) == []
    assert (
        sum("cannot be" in finding.text or "not known" in finding.text for finding in run_checks(blind)) >= 6
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("1min 30s", 90), ("1min", 60), ("500ms", 0.5), ("infinity", math.inf), ("", math.inf), ("8h5m", 29100)],
)
def test_time_spans_of_systemd_and_nomad(text: str, value: float) -> None:
    assert seconds(text) == value


@given(st.integers(0, 10**6))
def test_a_span_is_read_as_it_is_written(whole: int) -> None:
    assert seconds(span(whole)) == whole


def test_a_unit_like_ours_and_a_patient_nomad_are_fine() -> None:
    assert bad(unit()) == bad(closed_unit()) == bad(closed_unit(network_at=None)) == []
    assert bad(task("9h")) == bad(task(None)) == []


def test_nomad_and_the_cloud_are_told_what_no_program_sees() -> None:
    said = {
        finding.subject: finding
        for finding in run_checks(host(service=Service(nomad=True), cloud="Amazon EC2"))
    }
    assert "max_kill_timeout" in said["service"].hint
    assert "--no-source-dest-check" in said["cloud"].hint


@pytest.mark.parametrize(
    ("wanted", "version", "fine"),
    [
        ("<3,>=1.3.2", "2.0.0", True),
        ("<3,>=1.3.2", "1.3.2", True),
        ("<3,>=1.3.2", "3.0", False),
        ("<3,>=1.3.2", "1.3.1", False),
        ("", "1", True),
        (">=2.0", "2", True),
        ("<0.10,>=0.9.2", "0.9.7", True),
        ("<0.10,>=0.9.2", "0.10.0", False),
        (">=6", None, False),
        ("!=2.1,>=2", "2.1.0", False),
        ("<3", "2.9rc1", True),
    ],
)
def test_version_ranges(wanted: str, version: str | None, fine: bool) -> None:
    assert fits(PackageFacts("p", wanted, version)) is fine


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4)
)
def test_versions_compare_as_numbers(one: list[int], other: list[int]) -> None:
    width = max(len(one), len(other))
    padded = [tuple(parts + [0] * (width - len(parts))) for parts in (one, other)]
    first, second = (numbers(".".join(map(str, parts))) for parts in (one, other))
    assert (first < second) is (padded[0] < padded[1])
