"""What the doctor sees of the service manager from inside a Nomad task, and what it says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.app.preflight.locations import Places
from supervisor.app.preflight.service import service
from supervisor.control.nomad import IDENTITY
from supervisor.core.preflight.checklist import run_checks
from supervisor.core.preflight.finding import Finding, Severity
from tests.doctor.test_checks import host
from tests.nomad_double import ENDS, FAULTS, LASTING, TaskAPI, task_api

POLICY = (
    'echo \'namespace "default" { capabilities = ["read-job"] }\' | '
    "nomad acl policy apply -namespace default -job facilitator facilitator-read-job -"
)
REMEDIES = {"403": POLICY, "500": POLICY}


def said(api: TaskAPI) -> Finding:
    """What it finds about the task API."""
    found = service(api.environment, Places())
    assert found.nomad
    (finding,) = (each for each in run_checks(host(service=found)) if "task API" in each.text)
    return finding


@pytest.mark.parametrize("end", ENDS)
def test_the_task_api_answers(tmp_path: Path, end: str) -> None:
    """Whatever it says: in doubt a doctor is run while nothing ends."""
    with task_api(tmp_path / "secrets", end) as api:
        assert said(api).severity is Severity.OK
        assert not api.problems


@pytest.mark.parametrize("fault", [*FAULTS, LASTING[0]])
async def test_no_usable_answer_comes_with_what_helps(tmp_path: Path, fault: str) -> None:
    """Also in a thread in which an event loop runs."""
    with task_api(tmp_path / "secrets", fault=fault) as api:
        finding = said(api)
    assert finding.severity is Severity.WARNING
    assert "a restart or a new version of the job is taken for a stop" in finding.text
    assert finding.hint == REMEDIES.get(fault, "docs/deployment.md, Nomad")


def test_without_an_identity_the_block_is_named(tmp_path: Path) -> None:
    with task_api(tmp_path / "secrets") as api:
        (tmp_path / "secrets" / "nomad_token").unlink()
        assert said(api).hint == IDENTITY
        assert not api.asked


def test_outside_of_nomad_nothing_is_asked_and_no_group_is_tried() -> None:
    found = service({}, Places())
    assert (found.nomad, found.task_api, found.client_group) == (False, None, None)
