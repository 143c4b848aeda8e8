"""What other programs put in the way while the daemon runs: named by status, why and one incident, and
gone when it is gone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon, LabPagerDuty
from tests.lab.network import CLOUD_WEB, DATACENTRE, DATACENTRE6, DATACENTRE_WEB, LAPTOP, STAFF6
from tests.lab.wait import eventually
from tests.netns import Namespace

pytestmark = pytest.mark.root

WITHIN = 15.0  # seconds in which it is named, and forgotten
SITE6 = "fd00:77::10"
DOCKER = """
table {family} filter {{
  chain DOCKER-USER {{
    counter return
  }}
  chain FORWARD {{
    type filter hook forward priority 0; policy drop;
    jump DOCKER-USER
    ct state established accept
  }}
}}
"""


@pytest.fixture
def pagerduty(lab: Lab) -> Iterator[LabPagerDuty]:
    with lab.pagerduty() as double:
        yield double


@pytest.fixture
def watched(lab: Lab, config: Config, pagerduty: LabPagerDuty) -> Iterator[LabDaemon]:
    """Both tunnels, one of them with IPv6, and calls."""
    config["alerts"] = lab.configuration(pagerduty)["alerts"]
    config["staff"]["networks"].append(str(STAFF6))
    config["tunnels"]["acme-dc"]["destinations"].append(str(DATACENTRE6))
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        yield daemon
    assert daemon.leftovers() == {}


def conditions(daemon: LabDaemon) -> dict[str, str]:
    return {each["name"]: each["text"] for each in daemon.status()["conditions"]}


def why(daemon: LabDaemon, address: object, source: object = None) -> dict[str, Any]:
    sender = () if source is None else ("--from", str(source))
    done = daemon.cli("why", str(address), *sender, "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def problems(answer: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["text"] for step in answer["steps"] if step["state"] == "problem"}


def triggers(pagerduty: LabPagerDuty) -> list[str]:
    return [event["dedup_key"] for event in pagerduty.state()["events"] if event["event_action"] == "trigger"]


class HostTrouble:
    """Something in the facilitator's namespace, from the beginning of the context on."""

    def __init__(self, daemon: LabDaemon, pagerduty: LabPagerDuty, name: str) -> None:
        self.daemon, self.pagerduty, self.name = daemon, pagerduty, name
        self.key = f"facilitator/lab/{name}"

    def appears(self) -> str:
        """The condition's text, when status and exactly one incident have named it, in time."""
        start = time.monotonic()
        eventually(lambda: self.name in conditions(self.daemon), WITHIN, f"{self.name} is a condition")
        eventually(
            lambda: self.key in self.pagerduty.open(),
            WITHIN - (time.monotonic() - start),
            f"{self.name} is an incident",
        )
        print(f"{self.name}: named after {time.monotonic() - start:.1f} s")
        assert self.pagerduty.open() == [self.key]
        return conditions(self.daemon)[self.name]

    def vanishes(self) -> None:
        """Status and incident forget it, in time; there was one incident."""
        start = time.monotonic()
        eventually(lambda: conditions(self.daemon) == {}, WITHIN, f"{self.name} is no condition any more")
        eventually(
            lambda: self.pagerduty.open() == [],
            WITHIN - (time.monotonic() - start),
            f"{self.name} is resolved",
        )
        print(f"{self.name}: forgotten after {time.monotonic() - start:.1f} s")
        assert triggers(self.pagerduty) == [self.key]


@contextlib.contextmanager
def undone(namespace: Namespace, command: str) -> Iterator[None]:
    """Run a command at the end, also of a test that failed."""
    try:
        yield
    finally:
        namespace.run("sh", "-c", command)


@pytest.mark.timed
def test_docker_appears_while_the_staff_works(lab: Lab, watched: LabDaemon, pagerduty: LabPagerDuty) -> None:
    host, trouble = watched.namespace, HostTrouble(watched, pagerduty, "third-party-firewall")
    with lab.poller(DATACENTRE_WEB) as poller:
        poller.wait_settled(10)
        with undone(host, "nft delete table ip filter; nft delete table ip6 filter"):
            host.run("nft", "-f", "-", input=DOCKER.format(family="ip") + DOCKER.format(family="ip6"))
            text = trouble.appears()
            assert "Docker drops forwarded packets unless a rule of its own accepts them" in text
            for family, tool in (("ip", "iptables"), ("ip6", "ip6tables")):
                assert f"table {family} filter, chain FORWARD: policy drop" in text
                assert f"to do: {tool} -I DOCKER-USER -m connmark --mark " in text
            assert "this stops acme-dc" in text
            assert "own-cloud" not in text, "a proxy's packets are not forwarded"
            assert lab.request(f"http://{CLOUD_WEB}/").status == 200
            for address, source in ((DATACENTRE_WEB, LAPTOP), (DATACENTRE_WEB, None), (SITE6, "fd00:8::2")):
                answer = why(watched, address, source)
                assert list(problems(answer)) == ["firewall"]
                assert answer["outcome"] == "blocked"
            assert problems(why(watched, CLOUD_WEB, LAPTOP)) == {}
            assert watched.tunnel("acme-dc")["health"] == "healthy"
        trouble.vanishes()
        poller.wait_settled(10, time.monotonic())
    assert problems(why(watched, DATACENTRE_WEB, LAPTOP)) == {}


@pytest.mark.timed
@pytest.mark.parametrize(
    ("rule", "address"),
    [
        (f"to {DATACENTRE} lookup main", DATACENTRE_WEB),
        (f"from {LAPTOP} to {DATACENTRE} blackhole", DATACENTRE_WEB),
        (f"to {DATACENTRE6} unreachable", SITE6),
    ],
    ids=["main", "blackhole", "ipv6"],
)
def test_a_policy_rule_before_ours(
    watched: LabDaemon, pagerduty: LabPagerDuty, rule: str, address: object
) -> None:
    host, trouble = watched.namespace, HostTrouble(watched, pagerduty, "third-party-rule")
    version = "-6" if "::" in rule else "-4"
    source = "fd00:8::2" if "::" in rule else str(LAPTOP)
    with undone(host, f"ip {version} rule del pref 100"):
        host.run("ip", version, "rule", "add", "pref", "100", *rule.split())
        text = trouble.appears()
        assert "the third-party rule `100: " in text
        assert f"ip {version} rule add pref 1100 " in text
        assert "this stops acme-dc" in text
        assert why(watched, address, source)["verdict"].count("policy rule: the third-party rule `100: ") == 1
    trouble.vanishes()


@pytest.mark.timed
@pytest.mark.parametrize(
    ("address", "inside", "beside"),
    [("10.77.0.1/24", "10.77.0.1", DATACENTRE_WEB), ("fd00:77::1/64", "fd00:77::1", SITE6)],
    ids=["ipv4", "ipv6"],
)
def test_an_address_of_this_host_inside_a_destination(
    watched: LabDaemon, pagerduty: LabPagerDuty, address: str, inside: str, beside: object
) -> None:
    host, trouble = watched.namespace, HostTrouble(watched, pagerduty, "address-collision")
    with undone(host, "ip link del colliding"):
        host.run("ip", "link", "add", "colliding", "type", "veth", "peer", "name", "other")
        host.run("ip", "link", "set", "colliding", "up")
        host.run("ip", "address", "add", address, "dev", "colliding", *(["nodad"] if ":" in address else []))
        text = trouble.appears()
        assert f"colliding has the address {inside}" in text
        assert f"address del {address} dev colliding" in text
        assert "address" in problems(why(watched, inside))
        assert problems(why(watched, beside)) == {}
    trouble.vanishes()


@pytest.mark.timed
@pytest.mark.parametrize(
    ("hook", "what"), [("output", "this host's probes"), ("input", "answers to this host's probes")]
)
def test_a_firewall_that_stops_the_probes(
    watched: LabDaemon, pagerduty: LabPagerDuty, hook: str, what: str
) -> None:
    host, trouble = watched.namespace, HostTrouble(watched, pagerduty, "third-party-firewall")
    with undone(host, "nft delete table inet mine"):
        rule = "oifname" if hook == "output" else "iifname"
        host.run(
            "nft",
            "-f",
            "-",
            input=f"""
            table inet mine {{
              chain {hook} {{
                type filter hook {hook} priority 0; policy accept;
                {rule} "t-acme-dc" counter drop
              }}
            }}""",
        )
        text = trouble.appears()
        assert what in text
        assert f"table inet mine, chain {hook}: rule with handle " in text
        watched.wait_for("acme-dc", health="unhealthy")
        assert any(
            what in step["text"]
            for step in why(watched, DATACENTRE_WEB, LAPTOP)["steps"]
            if step["name"] == "firewall"
        )
    eventually(lambda: conditions(watched) == {}, WITHIN, "it is no condition any more")
    watched.wait_well(30)
    trouble.vanishes()


@pytest.mark.timed
def test_settings_are_repaired_or_told(watched: LabDaemon, pagerduty: LabPagerDuty) -> None:
    host, trouble = watched.namespace, HostTrouble(watched, pagerduty, "kernel-settings")
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        before = watched.metric("facilitator_kernel_repairs_total", what="sysctl")
        host.run("sysctl", "-qw", f"{name}=0")
        eventually(lambda n=name: host.run("sysctl", "-n", n).stdout.strip() == "1", 5, "it is repaired")
        eventually(
            lambda b=before: watched.metric("facilitator_kernel_repairs_total", what="sysctl") > b,
            5,
            "and counted",
        )
    with undone(host, "sysctl -qw net.ipv4.conf.vpc.forwarding=1"):
        host.run("sysctl", "-qw", "net.ipv4.conf.vpc.forwarding=0")
        text = trouble.appears()
        assert (
            "net.ipv4.conf.vpc.forwarding is 0, must be 1: no packet that comes in by vpc is forwarded"
            in text
        )
        assert "to do: sysctl -w net.ipv4.conf.vpc.forwarding=1" in text
        assert "kernel setting" in problems(why(watched, DATACENTRE_WEB, LAPTOP))
    trouble.vanishes()


@pytest.mark.timed
def test_the_tunnel_device_vanishes(watched: LabDaemon, pagerduty: LabPagerDuty) -> None:
    trouble = HostTrouble(watched, pagerduty, "tun-device")
    inside = (
        "nsenter",
        "-t",
        str(watched.pid),
        "-m",
    )  # its mounts are those of the namespace, not this host's
    try:
        watched.namespace.run(*inside, "mount", "-t", "tmpfs", "none", "/dev/net")
        assert (
            "/dev/net/tun does not exist: these tunnels cannot start: acme-dc; to do: modprobe tun"
            in trouble.appears()
        )
    finally:
        watched.namespace.run(*inside, "umount", "/dev/net")
    trouble.vanishes()


@pytest.mark.timed
@pytest.mark.parametrize("user", [None, 61234])
def test_a_listener_on_a_proxys_port_and_a_daemon_that_is_not_root(
    lab: Lab, config: Config, user: int | None
) -> None:
    """With CAP_NET_ADMIN only, as under systemd, it sees the same, though not whose the listener is."""
    with lab.daemon(config, user=user) as daemon:
        daemon.wait_well()
        assert conditions(daemon) == {}
        with undone(daemon.namespace, "nft delete table ip filter"):
            daemon.namespace.run("nft", "-f", "-", input=DOCKER.format(family="ip"))
            with daemon.namespace.entered(), socket.create_server(("127.0.0.1", 17350)):
                eventually(
                    lambda: conditions(daemon).keys() == {"third-party-firewall", "third-party-listener"},
                    WITHIN,
                    "both are told",
                )
                assert "listens on port 17350" in conditions(daemon)["third-party-listener"]
        eventually(lambda: conditions(daemon) == {}, WITHIN, "they are gone")


@pytest.mark.timed
def test_a_fight_is_not_many_incidents(watched: LabDaemon, pagerduty: LabPagerDuty) -> None:
    host, key = watched.namespace, "facilitator/lab/third-party-firewall"
    with undone(host, "nft delete table ip filter"):
        for _ in range(8):
            host.run("nft", "-f", "-", input=DOCKER.format(family="ip"))
            eventually(lambda: "third-party-firewall" in conditions(watched), WITHIN, "it is a condition")
            host.run("nft", "delete", "table", "ip", "filter")
            eventually(lambda: conditions(watched) == {}, WITHIN, "it is none any more")
        host.run("nft", "-f", "-", input=DOCKER.format(family="ip"))
    assert 1 <= triggers(pagerduty).count(key) <= 2
