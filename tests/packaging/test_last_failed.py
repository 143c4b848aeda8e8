"""pytest's cache: `--lf` runs what failed last, for the owner of a checkout also after a run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.installation import REPOSITORY

OWNER = 12345  # of the checkout
TESTS = """
def test_good(): pass
def test_bad(): assert False
"""


@pytest.mark.root
def test_the_last_failures_are_known_to_the_owner_after_a_run_as_root(tmp_path: Path) -> None:
    for name in ("setup.cfg", "tests/__init__.py", "tests/conftest.py", "tests/netns.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "tests" / "test_some.py").write_text(TESTS)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, OWNER, OWNER)
    assert "1 failed, 1 passed" in pytest_in(tmp_path, "-n", "2")
    cache = tmp_path / ".cache"
    assert {path.stat().st_uid for path in (cache, *cache.rglob("*"))} == {OWNER}
    assert "1 failed in" in pytest_in(tmp_path, "--lf", "-p", "no:xdist")
    assert "1 failed, 1 passed" in pytest_in(tmp_path, "--ff", "-p", "no:xdist")


def pytest_in(directory: Path, *options: str) -> str:
    """What pytest says of the tests in a directory."""
    command = (sys.executable, "-B", "-m", "pytest", *options)
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True).stdout
