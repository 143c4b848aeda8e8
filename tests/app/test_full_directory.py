"""A runtime_dir that is full, by bytes and by inodes, on a file system of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.app.preflight.stores import full
from tests.doctor.test_host import HostTree

pytestmark = pytest.mark.root


@contextlib.contextmanager
def small(directory: Path, options: str) -> Iterator[None]:
    """A tmpfs with these limits."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def host(tmp_path: Path) -> HostTree:
    made = HostTree(tmp_path)
    for name in ("run", "state"):
        (tmp_path / name).mkdir(exist_ok=True)
    return made


FULL = "facilitator.runtime_dir"


def test_bytes(host: HostTree, tmp_path: Path) -> None:
    config = host.config()
    with small(tmp_path / "run", "size=4m"):
        assert full(config) == ()
        filler = tmp_path / "run" / "client.log"
        filler.write_bytes(bytes(4 * 2**20 - 2**16))
        assert full(config) == ((FULL, str(tmp_path / "run")),)
        filler.unlink()
        assert full(config) == ()


def test_inodes(host: HostTree, tmp_path: Path) -> None:
    config = host.config()
    with small(tmp_path / "run", "size=8m,nr_inodes=16"):
        for number in range(15):
            with contextlib.suppress(OSError):
                (tmp_path / "run" / str(number)).touch()
        assert full(config) == ((FULL, str(tmp_path / "run")),)


def test_a_directory_that_is_not_there_is_not_full(host: HostTree, tmp_path: Path) -> None:
    os.rmdir(tmp_path / "run")
    assert full(host.config()) == ()
