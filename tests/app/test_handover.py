"""What one version of the program gives to the next: the document, and the question whether it can be gone
on from.
"""

from __future__ import annotations

import json
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from supervisor.app.stores.state_store import (
    MemoryFiles,
    Present,
    Recalled,
    Stored,
    ends_by,
    forget,
    recall,
    shelf,
)
from supervisor.app.stores.upgrade_document import (
    CHECKED,
    DOCUMENT,
    FORMAT,
    GIVEN,
    HandoverDocument,
    check_requested,
    received,
    written,
)
from supervisor.core.session.record import TunnelRecord
from supervisor.core.state import Asking, Drain, Failure, Health, Phase, Session
from supervisor.version import version
from tests.settings import configured
from tests.states import session_state, tunnel_state
from tunnels.base import Question, Reason, Wanted
from tunnels.registry import KINDS
from tunnels.settings import Tunnel

STATE = tunnel_state(
    phase=Phase.UP,
    health=Health.HEALTHY,
    session=Session(3, "abc", 42, "t-acme", connected=5.5, pushed=(ip_network("10.77.0.0/24"),), slot=1),
    failure=Failure(Reason.PEER_CLOSED, "gone", 1.0),
    asking=Asking(Question(Wanted.CODE, "Code?"), 9.0),
    recent=(0.1, None),
    standby=session_state(Session(2), phase=Phase.UP, drain=Drain(Reason.PLANNED, 99.0, 4)),
)
STORED = Stored("boot", TunnelRecord(STATE, 173_001, (("acme", "other"),)), "fingerprint", "digest")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"facilitator: {{name: test, runtime_dir: {tmp_path}/run, state_dir: {tmp_path}/state}}\ntunnels: "
        f"{{}}\n"
    )
    return path


def handover(directory: Path, **more: object) -> HandoverDocument:
    return HandoverDocument(
        **{
            "version": "0",
            "upgrades": 2,
            "runtime_dir": f"{directory}/run",
            "state_dir": f"{directory}/state",
            "lock": 0,
            "tunnels": {"acme": STORED},
            "kept": {"acme": "a cookie"},
            **more,
        }
    )


def test_what_is_given_is_received_once_and_descriptors_stop_at_the_next_program(tmp_path: Path) -> None:
    lock, listening = os.open(tmp_path, os.O_RDONLY), os.dup(2)
    os.set_inheritable(lock, True)
    given = handover(tmp_path, lock=lock, listening={"control": (listening,)})
    environment = {GIVEN: str(written(given))}
    got = received(environment)
    assert got is not None
    assert (got.tunnels["acme"].record.state.session.number, got.kept, got.lock) == (
        3,
        {"acme": "a cookie"},
        lock,
    )
    assert got.tunnels["acme"].record.state.standby == STATE.standby
    assert environment == {}
    assert received(environment) is None
    assert [os.get_inheritable(fd) for fd in got.descriptors()] == [False, False]
    assert "a cookie" not in repr(got)
    for fd in (lock, listening):
        os.close(fd)


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense"])
def test_a_document_that_says_nothing_to_us_is_as_a_crash(content: bytes) -> None:
    fd = os.memfd_create("handover")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    assert received({GIVEN: str(fd)}) is None
    assert received({GIVEN: "999"}) is None


def test_the_question_is_answered_with_our_version(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_requested(config, KINDS, {}) is None, "nobody asks"
    assert check_requested(config, KINDS, {CHECKED: str(written(handover(config.parent)))}) == 0
    assert capsys.readouterr().out == f"{version()}\n"


@pytest.mark.parametrize(("change", "said"), [
    ({"runtime_dir": "/elsewhere"}, "facilitator.runtime_dir was /elsewhere"),
    ({"state_dir": "/elsewhere"}, "facilitator.state_dir was /elsewhere"),
])  # fmt: skip
def test_what_cannot_be_gone_on_from_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    assert check_requested(config, KINDS, {CHECKED: str(written(handover(config.parent, **change)))}) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("change", "said"), [
    ({"format": FORMAT + 1}, f"its format is {FORMAT + 1}, and this version knows {FORMAT}"),
    ({"invented": 7}, "invented is unknown to this version"),
])  # fmt: skip
def test_a_document_of_a_later_version_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    raw = json.loads(DOCUMENT.written(handover(config.parent))) | change
    for name, got in ((CHECKED, lambda given: check_requested(config, KINDS, given)), (GIVEN, received)):
        fd = os.memfd_create("handover")
        os.write(fd, json.dumps(raw).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        assert got({name: str(fd)}) == (1 if name == CHECKED else None)
        assert said in capsys.readouterr().err


def test_a_wrong_configuration_is_refused_with_all_its_mistakes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text() + "nonsense: 1\nmore: 2\n")
    assert check_requested(config, KINDS, {CHECKED: str(written(handover(config.parent)))}) == 1
    said = capsys.readouterr().err
    assert "nonsense" in said
    assert "more" in said


def test_what_is_kept_on_disk_is_recalled_in_the_same_boot_only(tmp_path: Path) -> None:
    tunnel = configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",))
    files = MemoryFiles(tmp_path, Present("boot", lambda name: tunnel, lambda name: "digest"))
    files.keep({"acme": STORED.record, "other": STORED.record})
    files.keep({"other": None})
    assert list(recall(tmp_path, "boot").stored) == ["acme"]
    assert recall(tmp_path, "boot").stored["acme"].record == STORED.record
    assert recall(tmp_path, "another boot") == Recalled()
    assert (tmp_path / "tunnels" / "acme.json").stat().st_mode & 0o777 == 0o600


def test_a_drain_is_recalled_in_the_same_boot_until_it_is_called_off_or_over(tmp_path: Path) -> None:
    files = MemoryFiles(
        tmp_path,
        Present("boot", lambda name: configured(Tunnel, name=name, kind="test"), lambda name: "digest"),
    )
    assert ends_by(tmp_path, "boot") is None
    files.end_by(900.0)
    assert (ends_by(tmp_path, "boot"), ends_by(tmp_path, "another boot")) == (900.0, None)
    files.end_by(None)
    assert ends_by(tmp_path, "boot") is None
    files.end_by(901.0)
    forget(tmp_path)
    assert ends_by(tmp_path, "boot") is None
    files.end_by(902.0)
    (tmp_path / "orders" / "end.json").write_text("torn")
    assert ends_by(tmp_path, "boot") is None


def test_a_tunnel_that_is_configured_no_more_is_forgotten(tmp_path: Path) -> None:
    tunnel = configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",))
    files = MemoryFiles(tmp_path, Present("boot", lambda name: tunnel, lambda name: "digest"))
    files.only({"acme"})
    files.keep({"acme": STORED.record, "other": STORED.record})
    files.only({"acme"})
    assert list(recall(tmp_path, "boot").stored) == ["acme"]


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    tunnel = configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",))
    files = MemoryFiles(tmp_path / "missing", Present("boot", lambda name: tunnel, lambda name: "digest"))
    files.keep({"acme": STORED.record})
    assert recall(tmp_path / "missing", "boot") == Recalled()
    shelf(tmp_path / "missing").clear()
