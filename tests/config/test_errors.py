"""All mistakes of a file in one run, each at its place; no secret in any of them."""

from __future__ import annotations

import pytest

from supervisor.config import ConfigErrors
from supervisor.config.parse import parse
from tests.config.kinds import HEAD, KINDS, good, problems, warnings

FIVE = """\
facilitator: {nam: vpn1}
staff: {networks: [10.8.0.0/16]}
tunnels:
  acme:
    kind: wire
    config: acme.conf
    destinations: [10.77.0.5/24]
    priority: 010
    priority: 5
  other:
    kind: pipe
    remote: far
    identity: -----BEGIN KEY-----
    destinations: [10.80.0.0/16, 10.80.3.0/24]
"""


def test_five_different_mistakes_in_one_run() -> None:
    assert problems(FIVE) == [
        "c.yaml:1:15: facilitator.nam: unknown key (did you mean name?)",
        "c.yaml:7:20: tunnels.acme.destinations.0: '10.77.0.5/24' has host bits set; the network is "
        "probably 10.77.0.0/24",
        "c.yaml:8:15: tunnels.acme.priority: a whole number is expected here; 010 is read as the number 8 "
        "by YAML",
        "c.yaml:9:5: tunnels.acme.priority: this key stands here a second time; the first is in line 8",
        "c.yaml:13:15: tunnels.other.identity: a secret is never written here; put it into a file and say "
        "{file: NAME}, or {env: NAME}",
        "c.yaml:14:34: tunnels.other.destinations.1: "
        "10.80.3.0/24 lies inside 10.80.0.0/16, which is tunnels.other.destinations.0 in line 14",
    ]


GLOBALS = {
    "facilitator: {name: a/b}": "21: facilitator.name: 'a/b' is not a name; "
    "at most 63 letters, digits, '.', '_', '-', a letter or digit first",
    "facilitator: {state_dir: here}": "26: facilitator.state_dir: 'here' is not an absolute path; write "
    "it from / on",
    "facilitator: {runtime_dir: /%s}" % ("x" * 99): "28: facilitator.runtime_dir: "
    "longer than 94 bytes: a unix socket below it would get a path that the kernel refuses",
    "http: {listen: 9464}": "16: http.listen: 9464 is not HOST:PORT; write 127.0.0.1:9464",
    "http: {listen: ':9464'}": "16: http.listen: ':9464': the host is missing; write 0.0.0.0:9464 for all "
    "addresses of this host",
    "http: {listen: '::1:9464'}": "16: http.listen: '::1:9464': an IPv6 address stands in brackets and "
    'quotes, as in "[::1]:9464"',
    "http: {listen: '[::x]:9464'}": "16: http.listen: '[::x]:9464': '::x' is not an IPv6 address",
    "http: {listen: '[1.2.3.4]:94'}": "16: http.listen: '[1.2.3.4]:94': only an IPv6 address stands in "
    "brackets",
    "http: {listen: localhost:99999}": "16: http.listen: 'localhost:99999': '99999' is not a port (1-65535)",
    "http: {tls: {certificate: c.pem}}": "8: http.tls: key is missing: PEM file with the private key",
    "http: {tls: {certificate: c, key: k, client_ca: a, client_subjects: [me]}}": "70: http.tls.client_subjects.0: "
    "'me' is not the subject of a certificate; write it as in CN=prometheus,O=Example",
    "http: {tls: {certificate: c, key: k, client_subjects: [CN=me]}}": "38: http.tls.client_subjects: "
    "without client_ca no client shows a certificate; add client_ca",
    "alerts: {pagerduty: {routing_key: abcdef}}": "35: alerts.pagerduty.routing_key: "
    "a secret is never written here; put it into a file and say {file: NAME}, or {env: NAME}",
    "alerts: {pagerduty: {routing_key: {file: k}, url: 'x://y'}}": "51: alerts.pagerduty.url: "
    "not the address of a service; write https://HOST[:PORT]",
    "alerts: {pagerduty: {routing_key: {file: k}, url: 'https://y/v2/enqueue'}}": "51: alerts.pagerduty.url: "
    "the path /v2/enqueue is added; write https://y",
    "alerts: {pagerduty: {}}": "10: alerts.pagerduty: routing_key is missing: the service's integration key",
    "on_exit: keeep": "10: on_exit: 'keeep' is none of keep, remove (did you mean keep?)",
    "audit: {file: a, max_size: 100}": "28: audit.max_size: 100 is not a size; "
    "write a whole number with a unit, such as 500kB, 100MB or 1GiB",
    "fleet: {}": "1: fleet: name is missing: the same on all members; `facilitator.name` is the member",
    "fleet: {name: f, lock: {}}": "18: fleet.lock: name one engine: etcd or consul",
    "fleet: {name: f, lock: {etcd: {endpoints: ['http://e:2379'], ttl: 1s}}}": "67: fleet.lock.etcd.ttl: "
    "not between 2s and 10m",
    "fleet: {name: f, announce: {bgp: {table: 254}}}": "42: fleet.announce.bgp.table: "
    "254 is a table of the kernel's own (default, main, local); write 173",
    "fleet: {name: f, announce: {aws: {route_tables: [rtb-0123]}}}": "29: fleet.announce.aws: "
    "needs a lock, so that one member alone writes the routes; add fleet.lock",
    "fleet: {name: f, members: {b: {address: 10.0.0.2}}}": "1: fleet: members are distinguished by "
    "facilitator.name; set it",
    "probe: {}": "1: probe: unknown key (a setting of a tunnel; it belongs to a tunnel or under defaults:)",
    "tunels: {}": "1: tunels: unknown key (did you mean tunnels?)",
    "warnings: []": "1: warnings: unknown key; known here: alerts, audit, defaults, drain, facilitator, "
    "fleet, http, hub, include, names, on_exit, staff, tunnels",
    "defualts: {}": "1: defualts: unknown key (did you mean defaults?)",
    "defaults: {probe: {intervall: 5s}}": "20: defaults.probe.intervall: unknown key (did you mean "
    "interval?)",
    "defaults: {mtu: 10}": "17: defaults.mtu: must be at least 576",
    "defaults: {remotee: x}": "12: defaults.remotee: unknown key (did you mean remote?)",
    "defaults: 5": "11: defaults: a group of settings is expected here",
}


@pytest.mark.parametrize(("line", "expected"), GLOBALS.items(), ids=[line[:40] for line in GLOBALS])
def test_one_wrong_line_beside_the_tunnels(line: str, expected: str) -> None:
    assert problems(f"{line}\n{HEAD}") == [f"c.yaml:1:{expected}"]


TUNNELS = {
    "  Acme_DC: {kind: wire, config: c, destinations: [10.1.0.0/16]}": "3: tunnels.Acme_DC: 'Acme_DC' is "
    "not a tunnel name; "
    "at most 31 lower-case letters, digits and '-', a letter first (perhaps acme-dc)",
    "  no: {kind: wire, config: c, destinations: [10.1.0.0/16]}": "3: tunnels.no: no is read as the "
    'boolean false by YAML; quote it: "no"',
    "  b: {kind: wire, config: c}": "3: tunnels.b: destinations is missing: networks behind the tunnel",
    "  b: {kind: wire, config: c, destinations: []}": "30: tunnels.b.destinations: must not be empty",
    "  b: {kind: wire, destinations: [10.1.0.0/16]}": "3: tunnels.b: config is missing: the file of the "
    "remote gateway",
    "  b: {config: c, destinations: [10.1.0.0/16]}": "3: tunnels.b: kind is missing: one of pipe, wire",
    "  b: {kind: wier, config: c, destinations: [10.1.0.0/16]}": "13: tunnels.b.kind: unknown kind 'wier' "
    "(did you mean wire?); "
    "this version runs pipe, wire",
    "  b: wire": "6: tunnels.b: a group of settings is expected here, with at least kind",
    "  b: {kind: wire, config: c, destinatoins: [10.1.0.0/16]}": "30: tunnels.b.destinatoins: unknown key "
    "(did you mean destinations?)",
    "  b: {kind: wire, config: c, device: t-acme, destinations: [10.1.0.0/16]}": "38: tunnels.b.device: "
    "its interface t-acme is also that of acme; set device: to another name",
}


@pytest.mark.parametrize(("line", "expected"), TUNNELS.items(), ids=TUNNELS)
def test_one_wrong_tunnel(line: str, expected: str) -> None:
    assert problems(f"{HEAD}{line}\n") == [f"c.yaml:7:{expected}"]


TARGETS = {
    "10.77.0.1:443": "'10.77.0.1:443' is not a probe target; write tcp://ADDRESS:PORT, icmp://ADDRESS or "
    "http://ADDRESS[:PORT][/PATH]",
    "https://10.77.0.1": "'https://10.77.0.1': https cannot be probed; "
    "write tcp://ADDRESS:PORT, icmp://ADDRESS or http://ADDRESS[:PORT][/PATH]",
    "tcp://db.acme.example:443": "'tcp://db.acme.example:443': 'db.acme.example' is not an IP address; "
    "names are not resolved, because DNS may fail where the tunnel does not",
    "tcp://10.77.0.1": "'tcp://10.77.0.1': the port is missing; write tcp://10.77.0.1:PORT",
    "tcp://10.77.0.1:0": "'tcp://10.77.0.1:0': port 0 cannot be probed",
    "tcp://10.77.0.1:70000": "'tcp://10.77.0.1:70000': a port is a number from 1 to 65535",
    "tcp://10.77.0.1:443/x": "'tcp://10.77.0.1:443/x': tcp has no path; write tcp://10.77.0.1:443",
    "icmp://10.77.0.1:7": "'icmp://10.77.0.1:7': icmp has neither port nor path; write icmp://10.77.0.1",
    "tcp://2001:db8::1:443": "'tcp://2001:db8::1:443': an IPv6 address stands in brackets, such as "
    "tcp://[2001:db8::1]:443",
    "tcp://[2001:db8::1": "'tcp://[2001:db8::1': an IPv6 address stands in brackets, such as "
    "tcp://[2001:db8::1]:443",
    "tcp://[10.77.0.1]:443": "'tcp://[10.77.0.1]:443': an IPv6 address stands in brackets, such as "
    "tcp://[2001:db8::1]:443",
    "tcp://10.77.0.1:https": "'tcp://10.77.0.1:https': a port is a number from 1 to 65535",
    "http://user@10.77.0.1/": "'http://user@10.77.0.1/' is not a probe target; "
    "write tcp://ADDRESS:PORT, icmp://ADDRESS or http://ADDRESS[:PORT][/PATH]",
}


@pytest.mark.parametrize(("target", "expected"), TARGETS.items(), ids=TARGETS)
def test_wrong_probe_targets(target: str, expected: str) -> None:
    assert problems(f'{HEAD}    probe: {{targets: ["{target}"]}}\n') == [
        f"c.yaml:7:23: tunnels.acme.probe.targets.0: {expected}"
    ]


@pytest.mark.parametrize(
    "target", ["tcp://10.77.0.1:443", "icmp://10.77.0.9", "http://10.77.0.1", "http://10.77.0.1:81/a/b"]
)
def test_right_probe_targets(target: str) -> None:
    assert warnings(f'{HEAD}    probe: {{targets: ["{target}"]}}\n') == []


WINDOWS = {
    "{every: 1h, before: 5m, window: 25:00-26:00}": "'25:00-26:00' is not a time of day from-to; write it "
    "as 02:00-05:00",
    "{every: 1h, before: 5m, window: 2-5}": "'2-5' is not a time of day from-to; write it as 02:00-05:00",
    "{every: 1h, before: 5m, window: 02:00-02:00}": "'02:00-02:00' is empty; leave the window out if any "
    "time of day is right",
}


@pytest.mark.parametrize(("planned", "expected"), WINDOWS.items(), ids=WINDOWS)
def test_wrong_windows(planned: str, expected: str) -> None:
    assert problems(f"{HEAD}    reconnect: {{planned: {planned}}}\n") == [
        f"c.yaml:7:58: tunnels.acme.reconnect.planned.window: {expected}"
    ]


def test_planned_reconnect_must_come_before_the_cut() -> None:
    assert problems(f"{HEAD}    reconnect: {{planned: {{every: 5m}}}}\n") == [
        "c.yaml:7:17: tunnels.acme.reconnect.planned: before (600s) must be shorter than every (300s)"
    ]


def test_a_segment_must_exist() -> None:
    text = HEAD.replace("}\n", ", segments: {engineers: [10.8.1.0/24]}}\n", 1)
    text += "    allow: [enginers, {segment: engineers, ports: [tcp/0]}]\n"
    assert problems(text) == [
        "c.yaml:7:52: tunnels.acme.allow.1.ports.0: 'tcp/0' is not a port; write it as tcp/443, udp/53 or "
        "tcp/8000-8100"
    ]
    assert problems(text.replace("tcp/0", "tcp/1")) == [
        "c.yaml:7:13: tunnels.acme.allow.0: no segment 'enginers' under staff.segments (did you mean "
        "engineers?)"
    ]


@pytest.mark.parametrize(
    "ports", ["80", "tcp/", "tcp/0", "tcp/70000", "tcp/90-80", "icmp/1", "tcp/80,90", "TCP/80"]
)
def test_wrong_ports(ports: str) -> None:
    text = HEAD.replace("}\n", ", segments: {engineers: [10.8.1.0/24]}}\n", 1)
    (problem,) = problems(text + f"    allow: [{{segment: engineers, ports: ['{ports}']}}]\n")
    assert (
        problem
        == f"c.yaml:7:42: tunnels.acme.allow.0.ports.0: '{ports}' is not a port; write it as tcp/443, "
        f"udp/53 or tcp/8000-8100"
    )


def test_a_segment_lies_in_staff() -> None:
    text = HEAD.replace("}\n", ", segments: {a: [10.8.1.0/24, 10.9.0.0/16], b: ['fd00::/64']}}\n", 1)
    outside = "is not inside of staff.networks"
    assert [problem.partition(" ")[2] for problem in problems(text)] == [
        f"staff.segments.a.1: 10.9.0.0/16 {outside}",
        f"staff.segments.b.0: fd00::/64 {outside}",
    ]
    shared = HEAD.replace(
        "networks: [10.8.0.0/16]", "networks: [10.8.0.0/17, 10.8.128.0/17], segments: {a: [10.8.0.0/16]}"
    )
    assert shared != HEAD
    assert good(shared).staff.segments["a"]


LITERALS = [
    "hunter2",
    "'hunter2'",
    "[hunter2]",
    "{hunter2}",
    "{file: a, value: hunter2}",
    "!hunter2 x",
    "*hunter2",
    "&x hunter2",
    "@hunter2",
]


@pytest.mark.parametrize("literal", LITERALS)
def test_no_message_repeats_a_literal_secret(literal: str) -> None:
    found = problems(f"{HEAD}    login: {{password: {literal}}}\n")
    assert found
    assert not [problem for problem in found if "hunter2" in problem]


def test_a_one_time_code_goes_with_a_password() -> None:
    assert (
        "c.yaml:7:13: tunnels.acme.login.totp: a one-time password goes with a password; login.password is "
        "missing" in problems(f"{HEAD}    login: {{totp: {{file: t}}}}\n")
    )


def test_a_mistake_in_the_defaults_is_told_once_and_where_it_stands() -> None:
    second = "  b: {kind: pipe, remote: r, destinations: [10.1.0.0/16]}\n"
    assert problems(f"{HEAD}{second}defaults: {{probe: {{interval: 5}}, reconnect: {{max: 10:00}}}}\n") == [
        "c.yaml:8:30: defaults.probe.interval: 5 is not a duration; "
        "write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d (probably 5s)",
        "c.yaml:8:51: defaults.reconnect.max: 10:00 is read as the number 600 by YAML; "
        "write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d",
    ]


def test_defaults_and_tunnel_that_contradict_each_other() -> None:
    text = f"{HEAD}    reconnect: {{max: 2s}}\ndefaults: {{reconnect: {{first: 5s}}}}\n"
    assert problems(text) == ["c.yaml:7:5: tunnels.acme.reconnect: max (2s) is shorter than first (5s)"]


def test_what_a_kind_makes_no_use_of_is_said() -> None:
    text = (
        HEAD.replace("wire", "pipe").replace("config: acme.conf", "remote: r")
        + "    mtu: 1400\n    login: {password: {file: p}}\n"
    )
    assert warnings(text + "defaults: {device: x}\n") == [
        "c.yaml:7:5: warning: tunnels.acme.mtu: ignored by kind pipe",
        "c.yaml:8:13: warning: tunnels.acme.login.password: ignored by kind pipe",
    ]


def test_a_probe_outside_of_the_tunnel_is_said() -> None:
    assert warnings(HEAD + "    probe: {targets: ['icmp://10.99.0.1']}\n") == [
        "c.yaml:7:23: warning: tunnels.acme.probe.targets.0: 10.99.0.1 lies in no destination of acme"
    ]


def test_nobody_on_the_staff_is_said() -> None:
    assert warnings("tunnels: {}\n") == [
        "c.yaml:1:1: warning: staff.networks: no staff networks: nobody may enter the tunnels"
    ]


def test_errors_carry_the_warnings_and_their_own_text() -> None:
    with pytest.raises(ConfigErrors) as raised:
        parse("drain: {}\ntunnels: 5\n", "/etc/c.yaml", KINDS)
    assert str(raised.value) == "/etc/c.yaml:2:10: tunnels: a group of settings is expected here"
    assert [str(warning) for warning in raised.value.warnings][0].startswith("/etc/c.yaml:1:1: ")
    assert [problem.position.line for problem in raised.value] == [2]


def test_the_whole_of_a_right_file() -> None:
    config = parse(
        "defaults: {probe: {interval: 7s}, config: shared.conf, login: {password: {file: p}}}\n"
        "http: {listen: '[::1]:9464', tls: {certificate: c, key: /k}}\n"
        + HEAD.replace(
            "    config: acme.conf\n",
            "    login: {password: {env: P}}\n    probe: {targets: ['icmp://10.77.0.1']}\n",
        ),
        "/etc/f/c.yaml",
        KINDS,
    )
    acme = config.tunnels["acme"]
    assert (acme.probe.interval, acme.probe.targets) == (7.0, ("icmp://10.77.0.1",))
    assert acme.login.password is not None
    assert (acme.login.password.env, acme.login.password.file) == ("P", None)
    assert str(acme.config) == "/etc/f/shared.conf"  # type: ignore[attr-defined]
    assert config.http.tls is not None
    assert (str(config.http.listen), str(config.http.tls.certificate), str(config.http.tls.key)) == (
        "[::1]:9464",
        "/etc/f/c",
        "/k",
    )
    assert good("tunnels: {}\n").drain.timeout == 8 * 3600


def test_more_tunnels_than_there_are_lanes_is_one_mistake() -> None:
    many = "".join(
        f"  t{n}: {{kind: pipe, remote: r, destinations: [10.{n // 250}.{n % 250}.0/24]}}\n"
        for n in range(1000)
    )
    assert problems(f"staff: {{networks: [192.168.0.0/16]}}\ntunnels:\n{many}") == [
        "c.yaml:2:1: tunnels: 1000 tunnels; one facilitator runs at most 999: give the others to a second one"
    ]
