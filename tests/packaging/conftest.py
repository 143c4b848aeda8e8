"""Machines for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging import container


@pytest.fixture(scope="session")
def machines() -> None:
    """Skips where no machine can be made, sweeps up after killed runs, and builds the root file system
    when there is none.
    """
    reason = container.unavailable()
    if reason is not None:
        pytest.skip(reason)
    container.sweep()
    container.root_file_system()


@pytest.fixture
def scratch(machines: None, tmp_path: Path) -> Path:
    """A directory for one machine."""
    return tmp_path
