"""Orders to a fleet, with two facilitators, real tunnels and a cluster of etcd."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.fleet import ENDPOINTS, MEMBERS, VPN1, VPN2, EtcdCluster, FleetLab, LabMember
from tests.lab.network import CLOUD_WEB, DATACENTRE_WEB, LAPTOP
from tests.lab.wait import NOISE, eventually
from tests.system.test_drain import SlowRequest, connects, refused

pytestmark = pytest.mark.root
SEEN_SECONDS = 0.2


@pytest.fixture(scope="module")
def fleet_lab() -> Iterator[FleetLab]:
    with FleetLab() as lab:
        lab.shared_server()
        yield lab


def configured(lab: FleetLab, member: LabMember) -> Config:
    """A member with a lock engine."""
    config = lab.member_configuration(member)
    config["fleet"]["lock"] = {"etcd": {"endpoints": list(ENDPOINTS), "ttl": "2s"}}
    return config


@contextlib.contextmanager
def members(lab: FleetLab) -> Iterator[tuple[EtcdCluster, dict[LabMember, LabDaemon]]]:
    """Two facilitators with both tunnels up, and what they share."""
    with contextlib.ExitStack() as running:
        cluster = running.enter_context(lab.etcd())
        daemons = {member: lab.member_daemon(member, configured(lab, member)) for member in MEMBERS}
        for daemon in daemons.values():
            running.enter_context(daemon)
        for daemon in daemons.values():
            for name in ("acme-dc", "own-cloud"):
                daemon.wait_for(name, phase="up", health="healthy")
        first = daemons[VPN1]
        eventually(lambda: all(each["up"] for each in fleet(first)["members"]), 10, "each knows the other")
        yield cluster, daemons


def fleet(daemon: LabDaemon) -> dict[str, Any]:
    """`facilitator fleet status --json`."""
    found: dict[str, Any] = json.loads(daemon.cli("fleet", "status", "--json").stdout)
    return found


def test_it(fleet_lab: FleetLab) -> None:
    with members(fleet_lab) as (cluster, daemons):
        print(daemons[VPN1].cli("fleet", "status").stdout)
        for words in (("stop", "acme-dc"), ("start", "acme-dc"), ("drain", "vpn2"), ("drain", "vpn2", "--lift"), ("end-user", str(LAPTOP)), ("end-user", str(LAPTOP), "--lift")):
            done = daemons[VPN1].cli("fleet", *words)
            print(words, done.returncode, done.stdout, done.stderr)
            print(daemons[VPN1].cli("fleet", "status").stdout)
