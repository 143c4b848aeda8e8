"""Who owns a daemon, and who may take its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.app.owner import Owner, Ownership, owner

TASK = {"NOMAD_ALLOC_ID": "a", "NOMAD_JOB_ID": "vpn", "NOMAD_SECRETS_DIR": "/s", "NOMAD_NAMESPACE": "net"}
SERVICE = ["0::/system.slice/facilitator.service"]
SHELL = ["0::/user.slice/user-1000.slice/session-3.scope"]


@pytest.mark.parametrize(
    ("environ", "cgroups", "name", "supervised", "spares"),
    [
        (TASK, SHELL, "the Nomad job vpn (namespace net)", True, False),
        (TASK, SERVICE, "the Nomad job vpn (namespace net)", True, False),
        ({"INVOCATION_ID": "1"}, SERVICE, "the systemd unit facilitator.service", True, True),
        ({}, SERVICE, "the command facilitator run -c /c.yaml", False, False),
        ({"INVOCATION_ID": "1"}, SHELL, "the command facilitator run -c /c.yaml", False, False),
    ],
)
def test_the_owner(
    environ: dict[str, str], cgroups: list[str], name: str, supervised: bool, spares: bool
) -> None:
    assert owner(Path("/c.yaml"), environ, cgroups) == Owner(name, supervised, spares)


def test_a_supervisor_gets_its_own_daemon_and_no_other() -> None:
    mine = Ownership(Owner("the job a", supervised=True))
    assert mine.refusal("the job a") is None
    assert mine.refusal("the job b") == "this daemon belongs to the job a, not to the job b"


def test_a_persons_daemon_gives_way_when_its_parent_is_gone() -> None:
    person = Owner("the command x", supervised=False)
    assert "its parent process lives" in (Ownership(person).refusal("the command x") or "")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert Ownership(person, gone.pid).refusal("the command x") is None, "also after an upgrade of an orphan"
    assert Ownership(person, os.getppid()).refusal("the command x") is not None
