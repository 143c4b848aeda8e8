"""Many people at once: how long decisions take, and what kills of sidecar and service cost. Needs root.

python -m tests.bench.sidecar --people 250 --rate 5
python -m tests.bench.sidecar --people 200 --rate 20 --kills 20
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.hub.lab import HubLab, StaffClient
from tests.hub.lab_service import CROWD
from tests.lab.management import tell
from tests.lab.wait import eventually
from tests.netns import sweep


@dataclass(frozen=True)
class CrowdLogins:
    """Times in milliseconds: from the server's CONNECT to the service's answer."""

    people: int
    seconds: float  # until all were up
    median: float
    p99: float
    worst: float

    def __str__(self) -> str:
        return (
            f"{self.people} up after {self.seconds:.1f} s; decisions: median {self.median:.1f} ms, "
            f"p99 {self.p99:.1f} ms, worst {self.worst:.1f} ms"
        )


@dataclass(frozen=True)
class CrowdKills:
    """What the kills cost."""

    sessions: int
    lost: int  # sessions that are not the same afterwards
    restarted: int  # clients
    pings: int
    unanswered: int
    rows_differ: int  # open rows of the service that are not clients of the server, or the reverse
    slowest_return: float  # seconds until a new sidecar knew all clients

    def __str__(self) -> str:
        return (
            f"{self.sessions} sessions: {self.lost} lost, {self.restarted} clients restarted, "
            f"{self.unanswered} of {self.pings} pings unanswered, {self.rows_differ} rows differ, "
            f"slowest return {self.slowest_return:.2f} s"
        )


def crowd(lab: HubLab, people: int) -> list[StaffClient]:
    """Their clients, with certificates; nothing runs yet."""
    return [lab.client(person, nodes=["a"]) for person in CROWD[:people]]


def log_in(lab: HubLab, clients: list[StaffClient], rate: float) -> CrowdLogins:
    """Start so many a second, and wait until all are up."""
    since = time.monotonic()
    for number, client in enumerate(clients):
        time.sleep(max(0.0, since + number / rate - time.monotonic()))
        client.begin()
    eventually(lambda: _up(lab) == len(clients), 60, "all are up", every=0.25)
    seconds = time.monotonic() - since
    taken = sorted(
        float(str(line["milliseconds"]))
        for line in lab.nodes["a"].logged
        if line.get("message") == "asked" and line["answered"]
    )
    assert len(taken) >= len(clients)
    return CrowdLogins(
        len(clients), seconds, taken[len(taken) // 2], taken[int(len(taken) * 0.99) - 1], taken[-1]
    )


def kill(lab: HubLab, clients: list[StaffClient], kills: int, pinging: int) -> CrowdKills:
    """SIGKILL sidecar and service so often, while clients ping."""
    node = lab.nodes["a"]
    before = {each.session for each in lab.service.open()}
    slowest = 0.0
    with contextlib.ExitStack() as stack:
        counts = [stack.enter_context(client.pinging(every=0.5)) for client in clients[:pinging]]
        for _ in range(kills):
            node.end_sidecar(signal.SIGKILL)
            since = time.monotonic()
            node.start_sidecar()
            slowest = max(slowest, time.monotonic() - since)
            lab.service.kill()
            lab.service.start()
            time.sleep(0.5)  # sessions go on for a while between two kills
    seen = lab.service.nodes()["node-a"].seen
    eventually(lambda: lab.service.nodes()["node-a"].seen > seen, 10, "a heartbeat comes")
    after = {each.session for each in lab.service.open()}
    rows = {str(each.address) for each in lab.service.open()}
    server = {line.split("\t")[3] for line in _server_rows(lab) if line.startswith("CLIENT_LIST")}
    return CrowdKills(
        sessions=len(before),
        lost=len(before - after),
        restarted=sum(client.up_count != 1 for client in clients),
        pings=sum(sent for sent, _ in counts),
        unanswered=sum(sent - back for sent, back in counts),
        rows_differ=len(rows ^ server),
        slowest_return=slowest,
    )


def _up(lab: HubLab) -> int:
    return sum(each.state == "up" for each in lab.service.open())


def _server_rows(lab: HubLab) -> list[str]:
    """The server's table, which it gives to whoever is connected: the sidecar leaves for a moment."""
    node = lab.nodes["a"]
    node.end_sidecar(signal.SIGTERM)
    table = tell(Path(node.management), "status 3").splitlines()
    node.start_sidecar()
    return table


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", type=int, default=250)
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    sweep()
    with HubLab() as lab:
        lab.service.start()
        lab.nodes["a"].start()
        clients = crowd(lab, arguments.people)
        print(log_in(lab, clients, arguments.rate), flush=True)
        if arguments.kills:
            print(kill(lab, clients, arguments.kills, pinging=min(200, len(clients))))


if __name__ == "__main__":
    main()
