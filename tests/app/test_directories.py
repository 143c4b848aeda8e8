"""The directories and the lock: each refusal is a sentence and the right exit code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.app.directories import lock, make_directory, refused
from supervisor.core.exits import CannotStart, Exit
from supervisor.kernel.errors import KernelError, MissingRight, Occupied


def test_a_second_one_is_kept_out(tmp_path: Path) -> None:
    first = lock(tmp_path)
    with pytest.raises(CannotStart, match="another facilitator runs") as refused:
        lock(tmp_path)
    os.close(first)
    assert refused.value.code is Exit.RUNNING
    os.close(lock(tmp_path))


def test_a_lock_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        CannotStart, match=r"cannot use .*/lock \(No such file or directory\); see facilitator.runtime_dir"
    ) as refused:
        lock(tmp_path / "missing")
    assert refused.value.code is Exit.FAILED


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(
        CannotStart, match=r"cannot write to .*/state \(File exists\); see facilitator.state_dir"
    ):
        make_directory(tmp_path / "state", "facilitator.state_dir")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs sysfs")
def test_a_directory_in_which_nothing_can_be_made_is_a_sentence() -> None:
    with pytest.raises(CannotStart, match="cannot write to /sys/kernel/facilitator"):
        make_directory(Path("/sys/kernel/facilitator"), "facilitator.state_dir")


@pytest.mark.parametrize(
    ("error", "code"),
    [(Occupied(), Exit.RUNNING), (MissingRight("why"), Exit.NO_RIGHT), (KernelError("why"), Exit.FAILED)],
)
def test_what_the_kernel_refuses_has_its_exit_code(error: KernelError, code: Exit) -> None:
    assert (refused(error).code, str(refused(error))) == (code, str(error))
