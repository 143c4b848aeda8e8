"""The whole command against a real daemon, real tunnels and the real kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from supervisor.cli import main
from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import with_password
from tests.lab.network import DATACENTRE, DATACENTRE6, LAPTOP, STAFF6
from tests.lab.wait import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[LabDaemon]:
    """Three tunnels are well: the first also carries IPv6 and a mapped network, the last a site with the
    addresses of the first.
    """
    assert lab.password_server.pid
    config = lab.configuration()
    config["staff"]["networks"].append(str(STAFF6))
    config["staff"]["segments"] = {"engineers": ["10.8.0.0/24"], "support": ["10.8.9.0/24"]}
    config["defaults"] = {
        "reconnect": {"first": "100ms", "max": "1s"},
        "probe": {"interval": "500ms", "timeout": "500ms"},
    }
    other = with_password(config, lab.directory)["tunnels"]["acme-dc"]
    presented = {"network": str(DATACENTRE), "presented_as": "100.64.2.0/24"}
    config["tunnels"]["other-dc"] = {
        **other,
        "destinations": [presented],
        "allow": [{"segment": "engineers", "ports": ["tcp/80"]}],
    }
    mapped = {"network": "172.16.5.0/24", "presented_as": "100.64.5.0/24"}
    config["tunnels"]["acme-dc"]["destinations"] = [str(DATACENTRE), str(DATACENTRE6), mapped]
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        yield daemon


def why(daemon: LabDaemon, *arguments: object) -> tuple[int, dict[str, Any]]:
    """The command, in this process: its exit code and its document."""
    done = CliRunner().invoke(
        main, ["why", *map(str, arguments), "--json", "--socket", str(daemon.runtime_dir / "control.sock")]
    )
    assert done.stdout, done.stderr
    return done.exit_code, json.loads(done.stdout)


def steps(answer: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["text"] for step in answer["steps"]}


def problems(answer: dict[str, Any]) -> list[str]:
    return [step["name"] for step in answer["steps"] if step["state"] == "problem"]


def test_a_healthy_device(lab: Lab, daemon: LabDaemon) -> None:
    assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
    code, answer = why(daemon, DATACENTRE_WEB, "--from", LAPTOP, "--port", 80)
    assert (code, problems(answer)) == (0, [])
    assert answer["verdict"].startswith("10.77.0.10 is carried by acme-dc (openvpn), healthy, for ")
    found = steps(answer)
    session = daemon.tunnel("acme-dc")["session"]
    assert found["session"].startswith(
        f"session {session['id']}, process {session['pid']}, address 10.78.0.2, gateway 203.0.113.2"
    )
    assert found["nat"] == "source NAT: the remote gateway sees 10.78.0.2"
    assert found["route"] == "the kernel sends it dev t-acme-dc (table 173001)"
    assert found["way back"] == "answers go via 10.60.0.1 dev vpc"
    assert found["device"].startswith("t-acme-dc is up, MTU 1500 bytes")
    assert "0 B" not in found["bytes"].split()


def test_the_plan_while_both_tunnels_are_up(daemon: LabDaemon) -> None:
    done = daemon.cli("plan")
    assert done.returncode == 0
    assert done.stdout.endswith("\n\nthe kernel holds exactly this: nothing to change\n")
    for line in (
        "173001  acme-dc",
        "dev t-acme-dc table 173001 metric 100",
        "ports          173002 : 17300",
        "up             173001",
    ):
        assert line in done.stdout


def test_a_healthy_proxy(daemon: LabDaemon) -> None:
    code, answer = why(daemon, CLOUD_WEB)
    assert (code, problems(answer)) == (0, [])
    assert steps(answer)["proxy"].startswith("TCP is redirected to port 17")


@pytest.mark.parametrize("address", ["100.64.5.9", "172.16.5.9"])
def test_both_names_of_a_mapped_address(daemon: LabDaemon, address: str) -> None:
    code, answer = why(daemon, address)
    assert (code, problems(answer)) == (0, [])
    assert (answer["staff_address"], answer["real_address"], answer["destination"]) == (
        "100.64.5.9",
        "172.16.5.9",
        "100.64.5.0/24",
    )


def test_two_sites_with_the_same_addresses(lab: Lab, daemon: LabDaemon) -> None:
    """Both are reached at the same time, and each is explained."""
    assert [lab.request(f"http://{address}/").body for address in (DATACENTRE_WEB, "100.64.2.10")] == [
        "datacentre sees 10.78.0.2",
        "datacentre sees 10.79.0.2",
    ]
    direct, presented = why(daemon, DATACENTRE_WEB), why(daemon, "100.64.2.10")
    assert (direct[0], direct[1]["tunnel"], direct[1]["real_address"]) == (0, "acme-dc", "10.77.0.10")
    assert (
        steps(direct[1])["mapping"]
        == "other sites use 10.77.0.10 too; staff reach those as 100.64.2.10 (other-dc)"
    )
    assert (presented[0], presented[1]["tunnel"], presented[1]["real_address"]) == (
        0,
        "other-dc",
        "10.77.0.10",
    )
    assert steps(presented[1])["nat"] == "source NAT: the remote gateway sees 10.79.0.2"


@pytest.mark.parametrize(
    ("source", "port", "verdict"),
    [
        (LAPTOP, 80, "is carried by other-dc (openvpn), healthy, for "),
        (
            LAPTOP,
            22,
            "would be rejected: other-dc does not let 10.8.0.2 to port 22, only engineers to tcp/80",
        ),
        ("10.8.9.1", 80, "would be rejected: other-dc does not let 10.8.9.1 in, only engineers to tcp/80"),
    ],
)
def test_who_may_enter(lab: Lab, daemon: LabDaemon, source: object, port: int, verdict: str) -> None:
    """What is foretold is what happens."""
    code, answer = why(daemon, "100.64.2.10", "--from", source, "--port", port)
    assert (code, verdict in answer["verdict"]) == (0 if port == 80 and source == LAPTOP else 1, True), (
        answer["verdict"]
    )
    if source == LAPTOP:
        assert lab.request(f"http://100.64.2.10:{port}/", timeout=2.0).status == (200 if code == 0 else 0)
        counted = steps(why(daemon, "100.64.2.10")[1])["not allowed"]
        assert counted.startswith("packets that other-dc did not let in, by segment: ")
        assert ("engineers 0" in counted) is (code == 0), counted


def test_ipv6(lab: Lab, daemon: LabDaemon) -> None:
    address = DATACENTRE6[16]
    assert lab.request(f"http://[{address}]/").status == 200
    code, answer = why(daemon, address, "--from", STAFF6[2])
    assert (code, problems(answer)) == (0, [])
    assert steps(answer)["nat"] == "source NAT: the remote gateway sees fd00:78::1000"
    assert steps(answer)["route"] == "the kernel sends it dev t-acme-dc (table 173001)"


def test_an_address_that_nobody_carries(daemon: LabDaemon) -> None:
    done = daemon.cli("why", "192.0.2.7")
    assert done.returncode == 1
    assert done.stdout.startswith(
        "192.0.2.7 is carried by no tunnel; this host would send it via 198.51.100.1 dev uplink\n\n  ok "
    )


def test_a_sender_who_is_not_staff(daemon: LabDaemon) -> None:
    code, answer = why(daemon, DATACENTRE_WEB, "--from", "10.9.0.1")
    assert (code, answer["outcome"], problems(answer)) == (1, "refused", ["source"])


def test_a_third_party_rule_that_comes_before_ours_is_found_out(daemon: LabDaemon) -> None:
    """Everything of ours is in place; the rule itself is named, and the kernel's own answer about the
    packet tells the same.
    """
    rule = ("priority", "100", "from", "10.8.0.0/16", "iif", "vpc", "prohibit")
    daemon.namespace.run("ip", "rule", "add", *rule)
    code, answer = why(daemon, DATACENTRE_WEB)
    daemon.namespace.run("ip", "rule", "del", *rule)
    assert (code, answer["outcome"], problems(answer)) == (1, "blocked", ["policy rule", "route"])
    assert (
        "would not arrive: policy rule: the third-party rule `100: from 10.8.0.0/16 iif vpc prohibit` has precedence"
        in answer["verdict"]
    )
    assert steps(answer)["route"] == "the kernel sends it nowhere: prohibited"


def test_a_tunnel_that_is_down_says_why_and_remembers_its_deaths(lab: Lab, daemon: LabDaemon) -> None:
    lab.openvpn.stop()
    code, answer = eventually(
        lambda: down if (down := why(daemon, DATACENTRE_WEB))[0] == 3 else None, 15, "acme-dc is down"
    )
    try:
        assert answer["verdict"].startswith(
            ("10.77.0.10 would be held until the tunnel is back: ", "10.77.0.10 would be rejected: ")
        )
        assert "acme-dc (openvpn) is down since " in answer["verdict"]
        assert " because " in answer["verdict"]
        assert problems(answer) == ["tunnel"]
        assert " ago): " in steps(answer)["failure"]
    finally:
        lab.openvpn.start()
    daemon.wait_for("acme-dc", 30, phase="up", health="healthy")
    code, answer = why(daemon, DATACENTRE_WEB)
    assert code == 0
    assert " ago): " in steps(answer)["failure"]


def test_a_tunnel_that_an_operator_stopped(daemon: LabDaemon) -> None:
    assert daemon.cli("stop", "own-cloud").returncode == 0
    code, answer = why(daemon, CLOUD_WEB)
    assert code == 3
    assert answer["verdict"].startswith(
        "10.90.0.10 would be rejected: own-cloud (sshuttle) is stopped by an operator since "
    )
    assert problems(answer) == ["tunnel"]
