"""The audit on disk: every entry is a line or is counted in a gap, whatever the disk does and however the
daemon ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.network.access import Segment
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.views.audit_lines import (
    Accounts,
    AuditEvent,
    FlowChange,
    FlowNames,
    FlowRecord,
    Gap,
    flow_line,
    line,
    parse_stamp,
    stamp,
)
from supervisor.reports.audit import writer
from supervisor.reports.audit.rotation import RotatedFile
from supervisor.reports.audit.writer import AuditWriter
from tests.lab.wait import eventually

PLAN = NetworkPlan(
    lanes=(Lane("acme", 173001, "t-acme", True), Lane("own", 173002, None, True, 17300)),
    carries=(Carry(ip_network("100.66.0.0/16"), 173002, ip_network("10.90.0.0/16")),),
    segments=(
        Segment("all", (ip_network("10.8.0.0/16"),)),
        Segment("engineers", (ip_network("10.8.1.0/24"),)),
    ),
)
AT = 1_795_000_000.25


def packed(address: str) -> bytes:
    return ip_address(address).packed


def flow(told: FlowChange = FlowChange.OPEN, number: int = 1, **changed: Any) -> FlowRecord:
    made = FlowRecord(
        told,
        AT,
        173001,
        number,
        6,
        packed("10.8.1.5"),
        40000,
        packed("100.64.0.10"),
        443,
        packed("10.0.0.10"),
        8443,
    )
    return made._replace(**changed)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in path.read_text().splitlines()] if path.exists() else []


def events(path: Path) -> list[str]:
    return [each["event"] for each in lines(path)]


@contextlib.contextmanager
def trail(path: Path, file: RotatedFile | None = None, **options: Any) -> Iterator[AuditWriter]:
    """One that runs."""
    made = AuditWriter(file or RotatedFile(path, 10**8, 3), lambda: PLAN, {("acme", 0): "s-1"}, **options)
    made.start({"version": "1"})
    try:
        yield made
    finally:
        made.close({}, timeout=30.0)


# --- lines


def test_the_line_of_a_flow_says_who_where_through_what_and_how_much(tmp_path: Path) -> None:
    with trail(tmp_path / "a") as made:
        made.put([flow(FlowChange.CLOSE, sent=(5, 500), received=(4, 4000), began=AT - 2.5, state=7)])
    assert lines(tmp_path / "a")[1] == {
        "time": "2026-11-18T11:06:40.250Z",
        "event": "close",
        "tunnel": "acme",
        "session": "s-1",
        "flow": 1,
        "protocol": "tcp",
        "source": "10.8.1.5",
        "source_port": 40000,
        "segment": "engineers",
        "destination": "100.64.0.10",
        "destination_port": 443,
        "real": "10.0.0.10",
        "real_port": 8443,
        "sent_packets": 5,
        "sent_bytes": 500,
        "received_packets": 4,
        "received_bytes": 4000,
        "began": "2026-11-18T11:06:37.750Z",
        "duration": 2.5,
        "end": "closed",
    }


@pytest.mark.parametrize(
    ("changed", "end"),
    [
        ({"state": 8}, "reset"),
        ({"state": 3}, "idle"),
        ({"state": 1}, "unanswered"),
        ({"protocol": 17, "received": (0, 0)}, "unanswered"),
        ({"protocol": 17, "received": (1, 30)}, "idle"),
    ],
)
def test_how_a_flow_ended(changed: dict[str, Any], end: str) -> None:
    said = json.loads(flow_line(flow(FlowChange.CLOSE, **changed), None, None, "", (packed("fd00::1"), 1)))
    assert (said["end"], said["real"], said["tunnel"], said["segment"], said["began"]) == (
        end,
        "fd00::1",
        None,
        None,
        None,
    )


def test_behind_a_proxy_the_destination_is_not_the_proxy() -> None:
    names = FlowNames(PLAN)
    direct = flow(lane=173002, destination=packed("10.91.0.7"), real=packed("10.8.0.1"), real_port=17300)
    assert names.real(direct) == (packed("10.91.0.7"), 443)
    assert names.real(direct._replace(destination=packed("100.66.0.7"))) == (packed("10.90.0.7"), 443)
    assert names.real(flow()) == (packed("10.0.0.10"), 8443)


def test_a_tunnel_that_is_gone_is_still_known_when_its_flows_end() -> None:
    names = FlowNames(replace(PLAN, lanes=PLAN.lanes[1:]), FlowNames(PLAN))
    assert [names.tunnel(lane) for lane in (173001, 173002, 173003)] == ["acme", "own", None]


def test_a_moment_is_read_as_it_was_written() -> None:
    assert parse_stamp(stamp(AT)) == AT


def test_totals_are_kept_for_each_tunnel_and_source_and_their_number_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accounts = Accounts()
    for number in range(5000):
        source = (0x0A080000 + number).to_bytes(4, "big")
        accounts.add(flow(source=source), "acme")
        accounts.add(flow(FlowChange.CLOSE, source=source, sent=(1, number), received=(1, 1)), "acme")
    first, *rest = accounts.document("acme", None, 10_000)
    assert first["source"] == "others"
    assert len(rest) == 4096
    assert sum(row["flows"] for row in (first, *rest)) == 5000
    assert rest[0] == {
        "tunnel": "acme",
        "source": "10.8.15.255",
        "person": None,
        "flows": 1,
        "open": 0,
        "sent_bytes": 4095,
        "received_bytes": 1,
    }
    assert accounts.document("own", None, 10) == []
    assert [row["source"] for row in accounts.document(None, "10.8.0.9", 10)] == ["10.8.0.9"]


# --- the file


def test_no_line_is_kept_for_longer_than_is_said(tmp_path: Path) -> None:
    path, kept_for = tmp_path / "a", 100.0

    def written(at: float) -> RotatedFile:
        file = RotatedFile(path, 10**8, 5, kept_for)
        file.append(line(AuditEvent("control", at, {})).encode())
        file.sync(at)
        return file

    written(AT).close()
    file = written(AT + 49)  # a later run of the daemon goes on with the file
    file.sync(AT + 50)
    assert lines(path) == []
    file.append(line(AuditEvent("control", AT + 60, {})).encode())
    file.sync(AT + 60)
    assert len(lines(tmp_path / "a.1")) == 2
    file.sync(AT + 99)  # half a time after its last line, before its first is too old
    assert not (tmp_path / "a.1").exists()
    assert len(lines(path)) == 1
    file.close()


def test_only_its_owner_may_read_it_and_it_is_rotated_by_size_between_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.log"
    file = RotatedFile(path, 100, 2)
    for number in range(40):
        file.append(f"{number:09d}\n".encode())
    file.close()
    files = sorted(path.parent.iterdir())
    assert [each.name for each in files] == ["audit.log", "audit.log.1", "audit.log.2"]
    assert [stat.S_IMODE(each.stat().st_mode) for each in files] == [0o600] * 3
    assert [each.stat().st_size for each in files] == [100, 100, 100]
    assert path.read_text().splitlines()[-1] == "000000039"
    assert files[2].read_text().splitlines()[0] == "000000010"


def test_without_older_files_a_full_one_is_begun_anew(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "a", 20, 0)
    for number in range(5):
        file.append(f"{number:09d}\n".encode())
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "000000004\n"
    file.close()


@contextlib.contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: what a full disk does to a writer, a part of the
    last write included.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_half_a_line_gets_the_other_half_later(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "a", 10**6, 1)
    with no_more_than(14):
        file.append(b"0123456789\n")
        with pytest.raises(OSError, match="File too large"):
            file.append(b"0123456789\n")
    assert (tmp_path / "a").read_bytes() == b"0123456789\n012"
    file.append(b"")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"0123456789\n0123456789\n"


def test_half_a_line_of_a_dead_writer_is_ended(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"half')
    file = RotatedFile(tmp_path / "a", 10**6, 1)
    file.append(b"{}\n")
    file.close()
    assert (tmp_path / "a").read_text() == '{"half\n{}\n'


def test_what_somebody_else_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "a", 10**6, 1)
    file.append(b"1\n")
    (tmp_path / "a").rename(tmp_path / "moved")
    file.sync(AT)
    file.append(b"2\n")
    file.close()
    assert ((tmp_path / "moved").read_text(), (tmp_path / "a").read_text()) == ("1\n", "2\n")


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/etc/hostname"), lambda path: path.mkdir()]
)
def test_what_is_no_ordinary_file_is_left_alone(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError):
        RotatedFile(tmp_path / "a", 10**6, 1).append(b"1\n")


# --- the thread


def test_a_run_stands_between_its_beginning_and_its_end(tmp_path: Path) -> None:
    with trail(tmp_path / "a") as made:
        made.put(
            [
                flow(),
                AuditEvent("control", AT, {"action": "restart", "by": {"uid": 0}}),
                flow(FlowChange.CLOSE),
            ]
        )
    assert events(tmp_path / "a") == ["audit-start", "open", "control", "close", "audit-stop"]


def test_the_time_between_two_runs_is_a_gap(tmp_path: Path) -> None:
    for _ in range(2):
        with trail(tmp_path / "a") as made:
            made.put([flow()])
    first, second = lines(tmp_path / "a")[:3], lines(tmp_path / "a")[3:]
    gap = second[1]
    assert [each["event"] for each in second] == ["audit-start", "gap", "open", "audit-stop"]
    assert (gap["cause"], gap["from"], gap["to"], gap["lost"]) == (
        "stopped",
        first[2]["time"],
        second[0]["time"],
        None,
    )


@pytest.mark.parametrize("alive", [True, False])
def test_a_run_that_died_left_a_gap_since_it_was_last_known_to_be_complete(
    tmp_path: Path, alive: bool
) -> None:
    dead = RotatedFile(tmp_path / "a", 10**6, 1)
    dead.append(line(AuditEvent("control", AT, {})).encode())
    if alive:
        dead.sync(AT + 60.0)
    dead.close()
    with trail(tmp_path / "a", clock=lambda: AT + 100.0):
        pass
    gap = lines(tmp_path / "a")[2]
    assert (gap["cause"], gap["from"], gap["to"]) == (
        "daemon-lost",
        stamp(AT + 60.0 if alive else AT),
        stamp(AT + 100.0),
    )


def test_what_cannot_be_written_waits_and_whoever_tells_never_does(tmp_path: Path) -> None:
    changes: list[None] = []
    blocked = tmp_path / "directory"
    blocked.write_text("in the way")
    with trail(blocked / "a", changed=lambda: changes.append(None)) as made:
        eventually(lambda: made.problem, 5, "it says that it cannot write")
        made.put([flow(number=number) for number in range(100)])
        blocked.unlink()
        eventually(lambda: len(lines(blocked / "a")) == 101, 5, "all of it is written")
        eventually(lambda: made.problem is None, 5, "it says that it can write again")
    assert len(changes) == 2
    assert made.lost == 0


class SlowDisk(RotatedFile):
    """One that takes nothing while it is held."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 10**9, 1)
        self.goes_on = threading.Event()
        self.hangs = threading.Event()

    def append(self, data: bytes) -> None:
        if data.count(b"\n") > 1:
            self.hangs.set()
            self.goes_on.wait()
        super().append(data)


@pytest.mark.slow
def test_behind_a_disk_that_hangs_every_entry_is_a_line_or_counted_in_a_gap(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path / "a")
    total = writer.MAX_WAITING_ENTRIES + 12_345
    with trail(tmp_path / "a", disk) as made:
        made.put([flow(number=0), flow(number=1)])
        assert disk.hangs.wait(60)
        for start in range(0, total, 1000):
            made.put(
                [
                    flow(FlowChange.OPEN if number % 2 else FlowChange.CLOSE, number=number)
                    for number in range(start, min(total, start + 1000))
                ]
            )
        made.put([Gap("kernel-buffer", AT, AT, {"open": 7})])
        disk.goes_on.set()
    said = lines(tmp_path / "a")
    lost = [each["lost"] for each in said if each["event"] == "gap"]
    written = sum(each["event"] in ("open", "close") for each in said)
    assert lost
    assert written + sum(sum(each.values()) for each in lost) == total + 2 + 7
    assert made.lost == sum(sum(each.values()) for each in lost)
