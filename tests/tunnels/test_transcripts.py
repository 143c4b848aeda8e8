"""What real clients said once, and what must be understood of it. `python -m tests.tunnels.record` writes the transcripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tunnels.driver import replay
from tests.tunnels.scenarios import OPENVPN, SSHUTTLE
from tunnels.base import Dialogue
from tunnels.openvpn_management import Account, OpenVPNDialogue
from tunnels.sshuttle import SshuttleDialogue

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"), key=lambda path: path.name)
REASONS = {f"openvpn-{s.name}": s.reason for s in OPENVPN} | {f"sshuttle-{s.name}": s.reason for s in SSHUTTLE}
PASSWORDS = {f"openvpn-{s.name}": s.password for s in OPENVPN}


def dialogue_of(name: str) -> Dialogue:
    if name.startswith("openvpn"):
        password = PASSWORDS[name]
        return OpenVPNDialogue(Account(None if password is None else "svc-facilitator", password))
    return SshuttleDialogue("198.18.1.2")


def test_every_scenario_has_its_transcript() -> None:
    assert {path.stem for path in FILES} == set(REASONS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_replay(path: Path) -> None:
    lines = path.read_text().splitlines()
    given, wanted = replay(dialogue_of(path.stem), lines)
    assert given == wanted
    reason = REASONS[path.stem]
    failures = [line for line in given if line.startswith("failed|")]
    assert [line.split("|")[1] for line in failures] == ([] if reason is None else [reason.value])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_password_outside_the_secret_words(path: Path) -> None:
    password = PASSWORDS.get(path.stem)
    if password is None:
        return
    assert not [line for line in path.read_text().splitlines() if f'"{password}"' in line and not line.startswith("say|(secret)")]
