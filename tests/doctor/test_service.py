"""What the doctor sees of the service manager from inside a Nomad task."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.app.preflight.locations import Places
from supervisor.app.preflight.service import service
from tests.nomad_double import task_api


def test_the_task_api_answers(tmp_path: Path) -> None:
    with task_api(tmp_path / "secrets") as api:
        found = service(api.environment, Places())
    assert found.nomad
    assert found.task_api is None


@pytest.mark.parametrize("fault", ["403", "500"])
async def test_a_missing_right_comes_with_the_command_that_gives_it(tmp_path: Path, fault: str) -> None:
    """Also in a thread in which an event loop runs."""
    with task_api(tmp_path / "secrets", fault=fault) as api:
        found = service(api.environment, Places())
    assert found.task_api is not None
    assert "nomad acl policy apply" in found.task_api


def test_outside_of_nomad_nothing_is_asked_and_no_group_is_tried() -> None:
    found = service({}, Places())
    assert (found.nomad, found.task_api, found.client_group) == (False, None, None)
