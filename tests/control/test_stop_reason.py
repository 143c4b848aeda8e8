"""What systemd's list of jobs means for the unit that we are in."""

from __future__ import annotations

import pytest

from supervisor.control.stop_reason import StopReason
from supervisor.control.supervisor import stop_reason
from supervisor.control.systemd import judged, unit_of

UNIT = "facilitator.service"


@pytest.mark.parametrize(
    ("lines", "unit"),
    [
        (["0::/system.slice/facilitator.service"], UNIT),
        (["4:memory:/other.service", "1:name=systemd:/system.slice/facilitator.service", "0::/"], UNIT),
        (["0::/user.slice/user-0.slice/session-3.scope"], None),
        (["0::/"], None),
        ([], None),
    ],
)
def test_the_unit_is_the_last_part_of_the_group(lines: list[str], unit: str | None) -> None:
    assert unit_of(lines) == unit


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ("", StopReason.STOP),
        ("12 facilitator.service stop running", StopReason.STOP),
        ("12 facilitator.service restart running", StopReason.RESTART),
        ("12 facilitator.service start waiting", StopReason.RESTART),
        ("12 facilitator.service start running", StopReason.STOP),
        ("12 other.service restart running\n13 facilitator.service stop waiting", StopReason.STOP),
        ("12 facilitator.service stop running\n14 shutdown.target start waiting", StopReason.SHUTDOWN),
        ("No jobs running.", StopReason.STOP),
        ("Failed to connect to bus: No such file or directory", StopReason.STOP),
    ],
)
def test_the_job_tells_the_reason(jobs: str, expected: StopReason) -> None:
    assert judged(UNIT, jobs.splitlines()) is expected


async def test_outside_of_a_service_a_signal_means_stop() -> None:
    assert (await stop_reason({})).reason is StopReason.STOP


@pytest.mark.parametrize("reason", StopReason)
def test_only_a_restart_hands_over(reason: StopReason) -> None:
    assert reason.hands_over is (reason in (StopReason.RESTART, StopReason.UPDATE, StopReason.LOST))
