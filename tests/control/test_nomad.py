"""Why Nomad ends the task, asked of its task API; whatever that answers, it takes a second at most."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.control import nomad
from supervisor.control.stop_reason import StopReason
from supervisor.control.supervisor import stop_reason
from tests import nomad_double
from tests.nomad_double import ENDS, FAULTS, LASTING, task_api

LIMIT = nomad.TIMEOUT_SECONDS + 0.5  # seconds; the machine is shared


@pytest.mark.parametrize("end", ENDS)
async def test_the_answer_tells_the_reason(tmp_path: Path, end: str) -> None:
    with task_api(tmp_path / "secrets", end) as api:
        found = await stop_reason(api.environment)
        assert found.reason is StopReason(end)
        assert not api.problems


@pytest.mark.parametrize(
    ("end", "fault"),
    [*itertools.product(["update", "stop"], FAULTS), *(("update", fault) for fault in LASTING)],
)
async def test_without_a_usable_answer_the_reason_is_unknown(tmp_path: Path, end: str, fault: str) -> None:
    with task_api(tmp_path / "secrets", end, fault=fault) as api:
        began = time.monotonic()
        found = await stop_reason(api.environment)
        assert time.monotonic() - began < LIMIT
        assert found.reason is StopReason.UNKNOWN
        assert found.text.startswith("Nomad")
        assert nomad_double.TOKEN not in found.text


async def test_a_missing_right_names_the_command_that_gives_it(tmp_path: Path) -> None:
    with task_api(tmp_path / "secrets", fault="403") as api:
        task = nomad.task(api.environment)
        assert task is not None
        problem = await nomad.may_ask(task, api.environment)
        assert problem is not None
        assert 'namespace "default" { capabilities = ["read-job"] }' in problem.remedy
        assert "nomad acl policy apply -namespace default -job facilitator" in problem.remedy
        assert problem.remedy in (await stop_reason(api.environment)).text
        api.fault = None
        assert await nomad.may_ask(task, api.environment) is None


async def test_without_an_identity_it_says_what_the_job_lacks(tmp_path: Path) -> None:
    with task_api(tmp_path / "secrets") as api:
        (tmp_path / "secrets" / "nomad_token").unlink()
        found = await stop_reason(api.environment)
        assert found.reason is StopReason.UNKNOWN
        assert "identity" in found.text
        assert not api.asked
        found = await stop_reason({**api.environment, "NOMAD_TOKEN": nomad_double.TOKEN})
        assert found.reason is StopReason.RESTART


async def test_no_agent_listens(tmp_path: Path) -> None:
    with task_api(tmp_path / "secrets") as api:
        environment = api.environment
    found = await stop_reason(environment)
    assert found.reason is StopReason.UNKNOWN
    assert "api.sock" in found.text


async def test_a_job_that_was_purged_is_stopped(tmp_path: Path) -> None:
    with task_api(tmp_path / "secrets", "update", purged=True) as api:
        assert (await stop_reason(api.environment)).reason is StopReason.STOP


@pytest.mark.parametrize(
    ("node", "expected"), [(nomad_double.NODE, StopReason.UPDATE), (nomad_double.OTHER_NODE, StopReason.STOP)]
)
async def test_nobody_is_handed_over_to_on_another_node(
    tmp_path: Path, node: str, expected: StopReason
) -> None:
    """A service job's next allocation may be anywhere; a system job's is here."""
    with task_api(tmp_path / "secrets", "update", job_type="service", next_node=node) as api:
        assert (await stop_reason(api.environment)).reason is expected
        assert not api.problems


@pytest.mark.parametrize("missing", ["NOMAD_ALLOC_ID", "NOMAD_JOB_ID", "NOMAD_SECRETS_DIR"])
def test_without_these_variables_this_is_no_task(tmp_path: Path, missing: str) -> None:
    with task_api(tmp_path / "secrets") as api:
        assert nomad.task({k: v for k, v in api.environment.items() if k != missing}) is None


VALUES = (
    st.none()
    | st.booleans()
    | st.text(max_size=5)
    | st.dictionaries(st.text(max_size=7), st.booleans(), max_size=2)
)
KEYS = st.sampled_from(
    ["DesiredStatus", "NextAllocation", "DesiredTransition", "ClientStatus", "DesiredDescription"]
)


@given(st.dictionaries(KEYS, VALUES), st.none() | st.dictionaries(st.just("Stop"), VALUES))
def test_no_document_is_too_strange(allocation: dict[str, Any], job: dict[str, Any] | None) -> None:
    found = nomad.judged(allocation, job)
    assert found.text
    if found.reason.hands_over:
        assert allocation.get("DesiredStatus") == "run" or allocation.get("NextAllocation")
