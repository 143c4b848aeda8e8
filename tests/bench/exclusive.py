"""Random faults of two facilitators with one account that allows one session: does a session ever send after
another member has begun one?

    python -m tests.bench.exclusive [--runs 50] [--unfenced 5] [--seed 1]

What counts is seen at the server: a packet of a session after the other member's login is a moment with two
sessions. `--unfenced`: runs in which the daemon is killed and the kernel holds no lease; these must have such
moments. Real OpenVPN, real etcd with three nodes. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.lab.exclusive import ExclusiveFleet, exclusive_fleet
from tests.lab.fleet import MEMBERS, LabMember
from tests.lab.fleet_traffic import other
from tests.lab.wait import eventually

FAULTS = ("daemon frozen", "client frozen", "both frozen", "cut off", "frozen and cut off", "leader killed")
QUIET_SECONDS = 1.5  # between two runs, with one member logged in
UNFENCED_SECONDS = 14.0  # long enough for the other member's login and a few packets of the frozen one
_RESETS = (7, 10)  # opcodes of a client's first packet: P_CONTROL_HARD_RESET_CLIENT_V2, _V3
_HEADER, _RECORD = 24, struct.Struct("<IIII")


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """One packet of a client, at the server."""

    at: float  # Unix time in seconds
    source: str
    begins: bool  # a session


class ServerCapture:
    """The packets that reach the server, for as long as the context lasts."""

    def __init__(self, fleet: ExclusiveFleet, file: Path) -> None:
        self._fleet, self._file = fleet, file

    def __enter__(self) -> ServerCapture:
        words = ("tcpdump", "-i", "wan", "-n", "-U", "-Z", "root", "--immediate-mode", "-w", str(self._file))
        seen = f"udp dst port {self._fleet.server.port}"
        self._process = self._fleet.lab.network["customer"].popen(*words, seen)
        eventually(lambda: self._file.exists() and self._file.stat().st_size >= _HEADER, 10, "tcpdump runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def packets(self) -> Iterator[SeenPacket]:
        """All of them so far (pcap: a header, then records; Ethernet, IPv4, UDP)."""
        data, place = self._file.read_bytes(), _HEADER
        while place + _RECORD.size <= len(data):
            seconds, micros, size, _ = _RECORD.unpack_from(data, place)
            frame = data[place + _RECORD.size : place + _RECORD.size + size]
            place += _RECORD.size + size
            payload = 14 + (frame[14] & 15) * 4 + 8 if len(frame) > 14 else 0
            if 0 < payload < len(frame):
                source = ".".join(map(str, frame[26:30]))
                yield SeenPacket(seconds + micros / 1e6, source, frame[payload] >> 3 in _RESETS)


def twice(packets: Sequence[SeenPacket]) -> list[SeenPacket]:
    """The packets of a session after the other member had begun one."""
    owner, found = "", []
    for packet in packets:
        if packet.begins:
            owner = packet.source
        elif owner and packet.source != owner:
            found.append(packet)
    return found


def takeover(packets: Sequence[SeenPacket], since: float, member: LabMember) -> float | None:
    """Seconds from then until this member began a session; None: it has not."""
    begins = (each.at for each in packets if each.begins and each.at >= since)
    mine = (each.at for each in packets if each.begins and each.source == str(member.uplink))
    return next((at - since for at in mine if at >= since), None) if any(begins) else None


def settle(fleet: ExclusiveFleet) -> LabMember:
    """The member that is logged in while the other one waits."""

    def holder() -> LabMember | None:
        for member in MEMBERS:
            if fleet.up(member) and fleet.daemons[other(member)].tunnel("acme-dc")["reason"] == "lock":
                return member
        return None

    found = eventually(holder, 90, "one member is logged in, and the other one waits")
    time.sleep(QUIET_SECONDS)
    return found


@contextlib.contextmanager
def faulty(fleet: ExclusiveFleet, fault: str, holder: LabMember) -> Iterator[None]:
    """The fault lasts as long as the context."""
    daemon, frozen = fleet.daemons[holder], list[int]()
    clients = daemon.client_pids("openvpn")
    if fault in ("daemon frozen", "both frozen", "frozen and cut off"):
        frozen.append(daemon.pid)
    if fault in ("client frozen", "both frozen"):
        frozen += clients
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as ending:
            if fault in ("cut off", "frozen and cut off"):
                ending.enter_context(fleet.lab.cut_off(holder))
            if fault == "leader killed" and (leader := fleet.cluster.leader()) is not None:
                leader.kill()
                ending.callback(leader.start)
            yield
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def leave_open(fleet: ExclusiveFleet, holder: LabMember) -> None:
    """The kernel of this member holds no lease any more: the clients that may send may do so for an hour. Its
    daemon must be dead, because the table belongs to it.
    """
    namespace = fleet.lab.namespace_of(holder)
    said = namespace.run("nft", "list", "set", "inet", "facilitator", "permitted").stdout
    lanes = [part.split()[0] for part in said.split("elements = {")[1].split("}")[0].split(",")]
    where = "element inet facilitator permitted"
    changes = (f"delete {where} {{ {lane} }}; add {where} {{ {lane} timeout 1h }};" for lane in lanes)
    namespace.run("nft", "-f", "-", input="".join(changes).replace(";", "\n"))


def runs(
    fleet: ExclusiveFleet, given: argparse.Namespace, capture: ServerCapture
) -> Iterator[tuple[str, ...]]:
    """The rows of the table."""
    chance, taken, double = random.Random(given.seed), list[float](), 0
    for number in range(given.runs):
        holder, fault, lasts = settle(fleet), chance.choice(FAULTS), chance.uniform(0.5, 11.0)
        before, began = len(list(capture.packets)), time.time()
        with faulty(fleet, fault, holder):
            time.sleep(lasts)
        settle(fleet)
        seen = list(capture.packets)[before:]
        moments, took = len(twice(seen)), takeover(seen, began, other(holder))
        double += moments
        if took is not None and fault != "leader killed":
            taken.append(took)
        after = "" if took is None else f", the other member logs in after {took:.2f} s"
        print(f"{number + 1}. {fault} for {lasts:.1f} s: {moments} packets of two{after}", flush=True)
    if given.runs:
        text = f"median {statistics.median(taken):.2f} s, worst {max(taken):.2f} s" if taken else "none"
        yield "random faults", str(given.runs), str(double), text
    failed = 0
    for _ in range(given.unfenced):
        holder, before = settle(fleet), len(list(capture.packets))
        fleet.daemons[holder].kill9()
        leave_open(fleet, holder)
        time.sleep(UNFENCED_SECONDS)
        fleet.daemons[holder].start()
        moments = len(twice(list(capture.packets)[before:]))
        failed += moments > 0
        print(f"without the fence: {moments} packets of two", flush=True)
    if given.unfenced:
        yield "daemon killed, without the fence", str(given.unfenced), f"in {failed} runs", ""


def main() -> None:
    """Print one table."""
    words = argparse.ArgumentParser(prog="python -m tests.bench.exclusive")
    for name, default in (("runs", 50), ("unfenced", 5), ("seed", 1)):
        words.add_argument(f"--{name}", type=int, default=default)
    given = words.parse_args()
    table = Table("what happens", "n", "packets of two sessions", "the other member logs in after")
    with exclusive_fleet() as fleet, ServerCapture(fleet, fleet.lab.directory / "server.pcap") as capture:
        for row in runs(fleet, given, capture):
            table.add_row(*row)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    main()
