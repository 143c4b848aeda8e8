"""What staff see of two facilitators that act as one, beside keepalived with a floating address.


    python -m tests.bench.fleet [--drains 100] [--deaths 30] [--kills 10] [--keepalived 10]

Traffic: 1,000 datagrams a second and 50 TCP streams through a real OpenVPN tunnel of each member, BIRD with
BFD of
100 ms x 3 on the router and beside both members, three nodes of etcd. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.fleet import ENDPOINTS, MEMBERS, EtcdNodes, FleetLab, LabMember
from tests.lab.fleet_traffic import Crossing, carrier, crossing, other
from tests.lab.keepalived import floating_address
from tests.lab.network import DATACENTRE, DATACENTRE_WEB
from tests.lab.wait import eventually

WORST_PAUSE_SECONDS = 0.020  # of a stream, when a move is planned
CARRYING = 100  # the metric of a member that carries is smaller


class BenchedFleet:
    """Two members that are well, and their router."""

    def __init__(self, running: contextlib.ExitStack) -> None:
        self.lab = running.enter_context(FleetLab())
        self.cluster: EtcdNodes = running.enter_context(self.lab.etcd())
        self.router = running.enter_context(self.lab.routed())
        self.daemons: dict[LabMember, LabDaemon] = {}
        for member in MEMBERS:
            self.daemons[member] = self.lab.member_daemon(member, self.configuration(member))
            running.enter_context(self.daemons[member])
        self.settle()

    def configuration(self, member: LabMember) -> Config:
        """The OpenVPN tunnel alone, with quick probes, and etcd."""
        config = self.lab.member_configuration(member, self.lab.own_account(member))
        del config["tunnels"]["own-cloud"]
        config["fleet"]["lock"] = {"etcd": {"endpoints": list(ENDPOINTS)}}
        config["defaults"] = {
            "probe": {"interval": "500ms", "timeout": "500ms"},
            "reconnect": {"first": "100ms"},
        }
        return config

    def settle(self) -> None:
        """Both are well, the router knows both, and one of them knows that it carries."""
        self.router.wait_established(2 * len(MEMBERS))
        for daemon in self.daemons.values():
            daemon.wait_well()
        eventually(self._known, 30, "one member carries, and the other one could")

    def _known(self) -> bool:
        assert self.lab.request(f"http://{DATACENTRE_WEB}/").status == 200
        metrics = {member: self._metric(member) for member in MEMBERS}
        return metrics[carrier(self.lab)] < CARRYING == max(metrics.values())

    def _metric(self, member: LabMember) -> float:
        return self.daemons[member].metric("facilitator_fleet_announced", destination=str(DATACENTRE))

    # --- what happens to a member

    def nothing(self) -> Crossing:
        """Nothing: what this machine alone does to the numbers."""
        self.settle()
        with crossing(self.lab) as seen:
            time.sleep(2.0)
        return seen

    def drain(self) -> Crossing:
        """The member that carries is drained by an order, and serves again afterwards."""
        self.settle()
        member = carrier(self.lab)
        with crossing(self.lab) as seen:
            assert self._order("drain", member.name, by=other(member)) == 0
            self.lab.wait_via(other(member))
        assert self._order("drain", member.name, "--lift", by=other(member)) == 0
        return seen

    def kill_client(self) -> Crossing:
        """SIGKILL to the openvpn of the member that carries."""
        self.settle()
        member = carrier(self.lab)
        before = self.daemons[member].replaced("acme-dc")
        with crossing(self.lab) as seen:
            (victim,) = self.daemons[member].client_pids("openvpn")
            os.kill(victim, signal.SIGKILL)
            eventually(before, 30, "it has another session")
            self.daemons[member].wait_well()
        return seen

    def kill_daemon(self) -> Crossing:
        """SIGKILL to the daemon of the member that carries; another one follows after the traffic."""
        self.settle()
        member = carrier(self.lab)
        with crossing(self.lab) as seen:
            self.daemons[member].kill9()
            time.sleep(2.0)  # nothing is to happen
        assert carrier(self.lab) == member
        self.daemons[member].start()
        return seen

    def freeze(self) -> float:
        """The VM of the member that carries is silent; seconds until staff get answers again."""
        self.settle()
        member = carrier(self.lab)
        try:
            return self.lab.outage(DATACENTRE_WEB, lambda: self.lab.silence(member)).seconds
        finally:
            self.lab.revive(member)

    def blackhole(self) -> float:
        """The tunnel of the member that carries passes nothing; seconds until staff get answers again."""
        self.settle()
        member = carrier(self.lab)
        try:
            return self.lab.outage(
                DATACENTRE_WEB, lambda: self.lab.blackhole(member.uplink), until=self._left(member)
            ).seconds
        finally:
            self.lab.unblock(member.uplink)

    def _left(self, member: LabMember) -> Callable[[], bool]:
        return lambda: self.lab.via() == other(member).address

    def _order(self, *words: str, by: LabMember) -> int:
        return self.daemons[by].cli("fleet", *words).returncode


def keepalived(times: int) -> list[float]:
    """Seconds without answers when the host that holds the address falls silent."""
    with FleetLab() as lab:
        lab.shared_server()
        with floating_address(lab, "acme-shared.ovpn"):
            found = []
            for _ in range(times):
                eventually(lambda: _serves(lab), 20, "the first host has the address")
                found.append(lab.outage(DATACENTRE_WEB, lambda: lab.silence(MEMBERS[0])).seconds)
                lab.revive(MEMBERS[0])
            return found


def _serves(lab: FleetLab) -> bool:
    shown = lab.namespace_of(MEMBERS[0]).run("ip", "-br", "address", "show", "dev", "vpc").stdout
    return "10.60.0.4" in shown and lab.request(f"http://{DATACENTRE_WEB}/").status == 200


def crossings(seen: Sequence[Crossing]) -> tuple[str, str, str]:
    """Datagrams lost, streams broken, and the pauses, as text."""
    pauses = [each.pause for each in seen]
    return (
        f"{sum(each.lost for each in seen)} of {sum(each.sent for each in seen)}, worst {max(e.lost for e in seen)}",
        f"{sum(each.broken for each in seen)} of {sum(each.streams for each in seen)}",
        f"median {statistics.median(pauses) * 1000:.0f} ms, worst {max(pauses) * 1000:.0f} ms",
    )


def outages(seconds: Sequence[float]) -> str:
    """Median and the worst of them, as text; of 30 and more the 99th percentile is the worst but for one."""
    return f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s"


def told(fleet: BenchedFleet, what: str, one: Callable[[], Crossing]) -> Crossing:
    """What was seen, told at once where it is not perfect, with what the router's BIRD said meanwhile."""
    said = fleet.router.log.read_text()
    seen = one()
    if seen.lost or seen.broken or seen.pause > WORST_PAUSE_SECONDS:
        load = os.getloadavg()[0]
        print(f"{what}: {seen}; load {load:.1f}; {fleet.router.log.read_text()[len(said) :].strip()}")
    return seen


def main() -> None:
    """Print one table."""
    words = argparse.ArgumentParser(prog="python -m tests.bench.fleet")
    for name, default in (("drains", 100), ("deaths", 30), ("kills", 10), ("keepalived", 10)):
        words.add_argument(f"--{name}", type=int, default=default)
    given = words.parse_args()
    table = Table("what happens", "n", "datagrams lost", "streams broken", "pause or outage")
    with contextlib.ExitStack() as running:
        fleet = BenchedFleet(running)
        for what, times, one in (
            ("nothing", given.drains, fleet.nothing),
            ("drained by an order", given.drains, fleet.drain),
            ("client killed", given.kills, fleet.kill_client),
            ("daemon killed", given.kills, fleet.kill_daemon),
        ):
            if times:
                table.add_row(what, str(times), *crossings([told(fleet, what, one) for _ in range(times)]))
        for what, times, look in (
            ("tunnel blackholed", given.kills, fleet.blackhole),
            ("VM frozen", given.deaths, fleet.freeze),
        ):
            if times:
                table.add_row(what, str(times), "", "", outages([look() for _ in range(times)]))
    if given.keepalived:
        beside = outages(keepalived(given.keepalived))
        table.add_row("VM frozen, keepalived (advert_int 0.1)", str(given.keepalived), "", "", beside)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    main()
