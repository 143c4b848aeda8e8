"""Orders to a fleet, with two facilitators, real tunnels and a cluster of etcd."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.config import Config
from tests.lab.daemon import FACILITATOR, LabDaemon
from tests.lab.fleet import ENDPOINTS, FLEET, MEMBERS, VPN1, VPN2, EtcdNodes, FleetLab, LabMember
from tests.lab.network import CLOUD_WEB, DATACENTRE_WEB, LAPTOP
from tests.lab.wait import NOISE, eventually
from tests.system.test_drain import SlowRequest, connects, refused

pytestmark = pytest.mark.root
SEEN_SECONDS = 0.2  # from an order until the last member has taken it over
TUNNELS = {"acme-dc": DATACENTRE_WEB, "own-cloud": CLOUD_WEB}


@dataclass(frozen=True)
class LivingFleet:
    """Two facilitators with both tunnels up, and a cluster of etcd."""

    lab: FleetLab
    cluster: EtcdNodes
    daemons: dict[LabMember, LabDaemon]

    def serve_by(self, member: LabMember) -> None:
        """The cloud router sends everything to this member."""
        for address in TUNNELS.values():
            self.lab.network["hub"].run("ip", "route", "replace", str(address), "via", str(member.address))

    def order(self, *words: str, by: LabMember = VPN1) -> subprocess.CompletedProcess[str]:
        """`facilitator fleet WORDS` on a member."""
        return self.daemons[by].cli("fleet", *words)

    def wait_up(self) -> None:
        """Both tunnels work on both members."""
        for daemon in self.daemons.values():
            for name in TUNNELS:
                daemon.wait_for(name, phase="up", health="healthy")

    def wait_known(self) -> None:
        """Each member knows that the other one is up, and of no order."""
        eventually(
            lambda: all(
                all(each["up"] for each in seen["members"]) and not seen["orders"]
                for seen in map(fleet, self.daemons.values())
            ),
            20,
            "each member knows the other",
        )


def configured(lab: FleetLab, member: LabMember) -> Config:
    """A member with a lock engine."""
    config = lab.member_configuration(member)
    config["fleet"]["lock"] = {"etcd": {"endpoints": list(ENDPOINTS), "ttl": "2s"}}
    return config


@pytest.fixture(scope="module")
def living() -> Iterator[LivingFleet]:
    with FleetLab() as lab, contextlib.ExitStack() as running:
        lab.shared_server()
        cluster = running.enter_context(lab.etcd())
        daemons = {member: lab.member_daemon(member, configured(lab, member)) for member in MEMBERS}
        for daemon in daemons.values():
            daemon.start()
            running.callback(daemon.end)
        made = LivingFleet(lab, cluster, daemons)
        yield made


@pytest.fixture(autouse=True)
def well(living: LivingFleet) -> None:
    """Whatever an earlier test has left: no order holds, both members are up, and the first one serves."""
    for below in ("orders", "nodes/vpn9", "acks/stop.own-cloud"):
        living.cluster.ctl("del", "--prefix", f"/facilitator/{FLEET}/{below}")
    for daemon in living.daemons.values():
        if not daemon.running:
            daemon.start()
    living.wait_known()
    living.wait_up()
    living.serve_by(VPN1)


def fleet(daemon: LabDaemon) -> dict[str, Any]:
    """`facilitator fleet status --json`, over HTTP because that is quicker."""
    found: dict[str, Any] = json.loads(daemon.get("/api/v1/fleet")[1])
    return found


def test_a_stopped_tunnel_is_down_everywhere_until_it_is_started_everywhere(living: LivingFleet) -> None:
    done = living.order("stop", "acme-dc", "--why", "asked for by ACME")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stop acme-dc: acknowledged by 2 of 2 in ")
    for daemon in living.daemons.values():
        assert daemon.tunnel("acme-dc")["phase"] == "stopped"
        assert daemon.tunnel("own-cloud")["phase"] == "up"
        again = daemon.cli("start", "acme-dc")
        assert again.returncode == 1
        assert "stopped in the whole fleet by root@vpn1 (asked for by ACME)" in again.stderr
        assert "facilitator fleet start acme-dc" in again.stderr
    table = living.order("status", by=VPN2)
    assert table.returncode == 0
    assert "stop acme-dc  by root@vpn1 at " in table.stdout
    assert "(asked for by ACME); followed by 2 of 2" in table.stdout
    assert living.order("start", "acme-dc", by=VPN2).returncode == 0
    assert fleet(living.daemons[VPN1])["orders"] == []
    living.wait_up()
    unknown = living.order("start", "acme-dc")
    assert (unknown.returncode, "no such order holds" in unknown.stderr) == (1, True)
    unknown = living.order("stop", "acme-cd")
    assert (unknown.returncode, "no member has a tunnel acme-cd" in unknown.stderr) == (1, True)


def test_an_order_outlives_the_boot_of_a_member_that_cannot_ask(living: LivingFleet) -> None:
    """And who has not acknowledged is named."""
    away = living.daemons[VPN2]
    away.stop()
    shutil.rmtree(away.runtime_dir)  # what a boot leaves is the state directory
    eventually(lambda: not fleet(living.daemons[VPN1])["members"][1]["up"], 10, "vpn2 is silent")
    done = living.order("stop", "acme-dc", "--wait", "1")
    assert done.returncode == 1
    assert "acknowledged by 1 of 2" in done.stderr
    assert "not by vpn2, for which it holds as soon as they read it" in done.stderr
    table = living.order("status")
    assert (table.returncode, "vpn2  silent for " in table.stdout) == (3, True)
    away.start()
    away.wait_for("acme-dc", phase="stopped", want="down")
    eventually(lambda: not fleet(away)["orders"][0]["missing"], 10, "it has acknowledged")
    away.stop()
    shutil.rmtree(away.runtime_dir)
    with living.lab.cut_off(VPN2):
        away.start()
        away.wait_for("own-cloud", phase="up", health="healthy")
        assert away.tunnel("acme-dc")["phase"] == "stopped"
        assert living.order("start", "acme-dc").returncode == 0
        assert away.tunnel("acme-dc")["phase"] == "stopped", "nobody has told it"
    living.wait_up()


def test_a_drained_member_keeps_its_flows_and_serves_again(living: LivingFleet) -> None:
    living.serve_by(VPN2)
    drained = living.daemons[VPN2]
    with contextlib.ExitStack() as streams:
        running = [streams.enter_context(SlowRequest(living.lab, address)) for address in TUNNELS.values()]
        assert living.order("drain", "vpn2").returncode == 0
        assert drained.get("/readyz") == (503, "drained by an order of the fleet\n")
        for address in TUNNELS.values():  # routers are given a second before
            eventually(lambda address=address: not connects(living.lab, address), 5, "it takes nothing new")
            refused(living.lab, address)
        assert drained.cli("reload").returncode == 0, "the daemon goes on"
        drained.kill9()
        drained.start(ready=503)
        for each in running:
            each.goes_on()
        assert drained.tunnel("acme-dc")["phase"] == "up"
        tunnels = {each["name"]: each["members"] for each in fleet(living.daemons[VPN1])["tunnels"]}
        assert tunnels["acme-dc"]["vpn2"]["standing"] == "drains"
        assert living.order("drain", "vpn2", "--lift").returncode == 0
        for each in running:
            assert each.finish()
    for address in TUNNELS.values():
        assert connects(living.lab, address)


def test_an_end_user_is_thrown_out_and_kept_out(living: LivingFleet) -> None:
    with contextlib.ExitStack() as streams:
        running = [streams.enter_context(SlowRequest(living.lab, address)) for address in TUNNELS.values()]
        done = living.order("end-user", str(LAPTOP), "--why", "laptop lost", by=VPN2)
        assert (done.returncode, done.stderr) == (0, "")
        for each in running:
            with pytest.raises(OSError, match="reset|Broken pipe"):
                each.finish()
    for member in MEMBERS:
        living.serve_by(member)
        for address in TUNNELS.values():
            refused(living.lab, address)
    living.serve_by(VPN1)
    assert living.order("end-user", str(LAPTOP), "--lift").returncode == 0
    for address in TUNNELS.values():
        assert connects(living.lab, address)


def test_what_is_not_understood_changes_nothing_and_is_said(living: LivingFleet) -> None:
    cluster, first = living.cluster, living.daemons[VPN1]
    for key, value in (
        ("orders/stop.own-cloud", "no JSON"),
        ("orders/stop.../../x", "{}"),
        ("orders/drain.vpn1", '{"given": "now"}'),
        ("orders/end-user.0.0.0.0/0", '{"given": 1}'),
        ("nodes/vpn9", '{"tunnels": [{"name": "\u001b[2J"}]}'),
        ("acks/stop.own-cloud/vpn1", "[" * 3000),
    ):
        cluster.ctl("put", f"/facilitator/{FLEET}/{key}", value)
    eventually(
        lambda: any(each["name"] == "fleet-orders" for each in first.status()["conditions"]), 10, "it is said"
    )
    living.wait_up()
    seen = fleet(first)
    assert len(seen["problems"]) == 4
    assert next(each for each in seen["members"] if each["name"] == "vpn9")["problem"] is not None
    cluster.ctl("del", "--prefix", f"/facilitator/{FLEET}/orders/")
    cluster.ctl("del", f"/facilitator/{FLEET}/nodes/vpn9")
    cluster.ctl("del", f"/facilitator/{FLEET}/acks/stop.own-cloud/vpn1")
    eventually(lambda: not fleet(first)["problems"], 10, "nothing is wrong any more")


def test_a_machine_without_a_daemon_orders_by_the_configuration(living: LivingFleet) -> None:
    """The router stands for a laptop that reaches the lock engine."""
    file = living.daemons[VPN1].directory / "laptop.yaml"
    config = configured(living.lab, VPN1)
    config["facilitator"] = {"name": "vpn1", "runtime_dir": str(file.parent / "none")}
    file.write_text(json.dumps(config))

    def asked(*words: str) -> subprocess.CompletedProcess[str]:
        return living.lab.network["hub"].run(*FACILITATOR, "fleet", *words, "-c", str(file), check=False)

    done = asked("stop", "acme-dc")
    assert done.returncode == 0
    assert done.stdout.startswith("stop acme-dc: acknowledged by 2 of 2 in ")
    assert "lock engine" in asked("status").stdout
    assert asked("start", "acme-dc").returncode == 0
    for words, said in (
        (("stop", "acme-cd"), "no member has a tunnel acme-cd"),
        (("drain", "vpn3"), "no such member: vpn3; there are vpn1, vpn2"),
    ):
        mistaken = asked(*words)
        assert (mistaken.returncode, said in mistaken.stderr) == (1, True), mistaken.stderr
    living.wait_up()


@pytest.mark.timed
def test_all_members_take_an_order_over_at_once(living: LivingFleet) -> None:
    for _ in range(3):
        done = json.loads(living.order("end-user", "10.8.77.7", "--json").stdout)
        said = done["order"]["acknowledged"]
        assert [each["member"] for each in said] == ["vpn1", "vpn2"]
        assert max(each["at"] for each in said) - done["order"]["given"] <= SEEN_SECONDS * NOISE
        assert living.order("end-user", "10.8.77.7", "--lift").returncode == 0
