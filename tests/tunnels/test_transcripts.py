"""What real clients said once, and what must be understood of it. `python -m tests.tunnels.record` writes
the transcripts.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tunnels.driver import replay
from tests.tunnels.scenarios import OPENVPN, SSHUTTLE
from tunnels.base import Dialogue
from tunnels.kinds.openvpn.login import LoginIdentity
from tunnels.kinds.openvpn.management import OpenVPNDialogue
from tunnels.kinds.sshuttle.kind import SshuttleDialogue

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"), key=lambda path: path.name)
REASONS = {f"openvpn-{s.name}": s.reason for s in OPENVPN} | {
    f"sshuttle-{s.name}": s.reason for s in SSHUTTLE
}
SCENARIOS = {f"openvpn-{s.name}": s for s in OPENVPN}


def dialogue_of(name: str) -> Dialogue:
    if name.startswith("openvpn"):
        played, limit = SCENARIOS[name], 5 if name == "openvpn-session-timeout" else None
        username = None if played.password is None else "svc-facilitator"
        return OpenVPNDialogue(
            LoginIdentity(username, played.password, played.append_code, played.kept or ""), limit
        )
    refused = ", with its certificate for alice that is valid until 2026-02-01 00:00 UTC"
    return SshuttleDialogue("198.18.1.2", refused if name == "sshuttle-certificate-refused" else "")


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
    played = SCENARIOS.get(path.stem)
    lines = [
        line
        for line in path.read_text().splitlines()
        if not line.startswith(("say|(secret)", "keep|", "answer|"))
    ]
    if played is not None and played.password is not None:
        assert not [line for line in lines if f'"{played.password}"' in line]
    assert not [
        line
        for line in lines
        if line.startswith("output|") and re.search(r"SESS_ID_AT_|MTIzNDU2|123456", line)
    ]
