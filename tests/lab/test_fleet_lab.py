"""The lab with two facilitators, without a facilitator: routes that are announced, a frozen VM, a lock engine
that is cut off.
"""

from __future__ import annotations

import pytest

from tests.lab.fleet import ENDPOINTS, VPN1, VPN2, FleetLab
from tests.lab.network import DATACENTRE, DATACENTRE6

pytestmark = pytest.mark.root


def test_what_stands_in_the_table_is_announced_and_a_frozen_vm_is_left() -> None:
    with FleetLab() as lab, lab.routed():
        for member, metric in ((VPN1, "100"), (VPN2, "200")):
            for family, network in (("-4", DATACENTRE), ("-6", DATACENTRE6)):
                where = ("table", "173", "proto", "173", "metric", metric)
                lab.namespace_of(member).run("ip", family, "route", "add", "blackhole", str(network), *where)
        lab.wait_via(VPN1)
        with lab.silent(VPN1):
            lab.wait_via(VPN2)
        lab.wait_via(VPN1)


def test_the_cluster_of_etcd_has_a_leader_and_a_member_can_be_cut_off() -> None:
    with FleetLab() as lab, lab.etcd() as cluster:
        leader = cluster.leader()
        assert leader is not None
        asked = ("curl", "--silent", "--max-time", "1", f"{ENDPOINTS[0]}/version")
        with lab.cut_off(VPN1):
            assert lab.namespace_of(VPN1).run(*asked, check=False).returncode == 28
            assert lab.namespace_of(VPN2).run(*asked).returncode == 0
        assert lab.namespace_of(VPN1).run(*asked).returncode == 0
