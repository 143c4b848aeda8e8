"""`make fleet`: two facilitators as one, shown in the lab. A member is drained, loses its tunnel, freezes and
dies, and the lock engine goes away, while datagrams and TCP streams of a laptop pass.

Exits 0 only if everything moved as it should.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from tests.lab.daemon import LabDaemon
from tests.lab.demo import Story, play
from tests.lab.fleet import ENDPOINTS, MEMBERS, FleetLab, LabMember
from tests.lab.fleet_traffic import Crossing, carrier, crossing, other
from tests.lab.network import DATACENTRE, DATACENTRE_WEB
from tests.lab.wait import eventually

PICTURE = """\
                         ┌── facilitator vpn1 ──┐
laptop ── hub with BIRD ──┤                      ├── customer (OpenVPN) ── datacentre  10.77.0.0/24
             └── etcd     └── facilitator vpn2 ──┘"""
CARRYING = 100  # the metric of a member that carries is smaller
Daemons = dict[LabMember, LabDaemon]


def main() -> int:
    """The exit code."""
    return play(PICTURE, _demo, "NOT AS IT SHOULD BE", "All moved as it should.")


def _demo(story: Story) -> None:
    story.tell("building the private network: two facilitators, a router with BIRD, three nodes of etcd ...")
    with FleetLab() as lab, contextlib.ExitStack() as running:
        cluster = running.enter_context(lab.etcd())
        router = running.enter_context(lab.routed())
        daemons = {member: lab.member_daemon(member, _config(lab, member)) for member in MEMBERS}
        for daemon in daemons.values():
            running.enter_context(daemon)
        story.daemon = daemons[MEMBERS[0]]
        _settle(daemons)
        story.show("The router sends staff to", carrier(lab).name)
        _drain(story, lab, daemons)
        _kill_client(story, lab, daemons)
        _freeze(story, lab, daemons)
        router.wait_established(2 * len(MEMBERS))
        _settle(daemons)
        story.tell("all nodes of etcd are frozen ...")
        with crossing(lab) as seen:
            before = carrier(lab)
            cluster.halt()
            eventually(lambda: _lock_is_away(daemons), 30, "the members notice it")
            cluster.go_on()
        _expect(story, "etcd away:", seen, lambda: seen.lost == 0 and seen.broken == 0)
        assert carrier(lab) == before, "the route moved because etcd was away"


def _config(lab: FleetLab, member: LabMember) -> dict[str, object]:
    config = lab.member_configuration(member, lab.own_account(member))
    del config["tunnels"]["own-cloud"]
    config["fleet"]["lock"] = {"etcd": {"endpoints": list(ENDPOINTS)}}
    config["defaults"] = {"probe": {"interval": "1s", "timeout": "500ms"}, "reconnect": {"first": "100ms"}}
    return config


def _settle(daemons: Daemons) -> None:
    for daemon in daemons.values():
        daemon.wait_well()


def _drain(story: Story, lab: FleetLab, daemons: Daemons) -> None:
    member = carrier(lab)
    story.tell(f"{member.name} is drained ...")
    with crossing(lab) as seen:
        done = daemons[other(member)].cli("fleet", "drain", member.name)
        assert done.returncode == 0, done.stderr
        lab.wait_via(other(member))
        _wait_carries(lab, daemons[other(member)])
    _expect(story, f"Drain of {member.name}:", seen, lambda: seen.lost == 0 and seen.broken == 0)
    assert daemons[member].cli("fleet", "drain", member.name, "--lift").returncode == 0
    _settle(daemons)
    assert carrier(lab) == other(member), f"{member.name} takes back what it has handed over"


def _kill_client(story: Story, lab: FleetLab, daemons: Daemons) -> None:
    _settle(daemons)
    member = carrier(lab)
    story.tell(f"kill -9 the openvpn of {member.name} ...")
    with crossing(lab) as seen:
        (victim,) = daemons[member].client_pids("openvpn")
        os.kill(victim, signal.SIGKILL)
        lab.wait_via(other(member))
        _wait_carries(lab, daemons[other(member)])
        daemons[member].wait_well()
    _expect(story, f"Client killed on {member.name}:", seen, lambda: seen.lost <= 60)


def _freeze(story: Story, lab: FleetLab, daemons: Daemons) -> None:
    _settle(daemons)
    member = carrier(lab)
    story.tell(f"the VM of {member.name} freezes (BFD 3 x 100 ms) ...")
    outage = lab.outage(DATACENTRE_WEB, lambda: lab.silence(member))
    story.show(f"VM of {member.name} frozen: a laptop is without answers for", outage)
    lab.revive(member)


def _wait_carries(lab: FleetLab, daemon: LabDaemon) -> None:
    """Wait until the member has seen that it carries, so that nothing is taken back from it."""

    def carries() -> bool:
        assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
        return daemon.metric("facilitator_fleet_announced", destination=str(DATACENTRE)) < CARRYING

    eventually(carries, 20, "the member knows that it carries")


def _lock_is_away(daemons: Daemons) -> bool:
    return all(daemon.metric("facilitator_fleet_lock_up") == 0 for daemon in daemons.values())


def _expect(story: Story, what: str, seen: Crossing, well: Callable[[], bool]) -> None:
    story.show(what, seen)
    assert well(), f"{what} {seen}"


if __name__ == "__main__":
    sys.exit(main())
