"""Files of ours, when something else stands in their place: it neither blocks nor misleads, and makes way."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import disk


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def full_directory(path: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("somebody's")


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": unix_socket,
    "a symbolic link": lambda path: path.symlink_to("/etc/passwd"),
    "a directory": full_directory,
}


@pytest.fixture(params=sorted(OBSTACLES))
def obstacle(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "record"
    OBSTACLES[request.param](path)
    return request.param, path


def test_it_is_not_read(obstacle: tuple[str, Path]) -> None:
    with pytest.raises(OSError):
        disk.read(obstacle[1])
    with pytest.raises(OSError):
        disk.opened(obstacle[1], os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError):
        disk.opened(obstacle[1], os.O_RDWR | os.O_CREAT)


def test_it_is_replaced(obstacle: tuple[str, Path]) -> None:
    disk.replace(obstacle[1], b"ours")
    assert disk.read(obstacle[1]) == b"ours"
    assert obstacle[1].stat().st_mode & 0o777 == 0o600


def test_nothing_is_written_through_what_stands_in_place_of_the_draft(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for make in (
        *OBSTACLES.values(),
        lambda path: path.symlink_to(victim),
        lambda path: path.write_text("torn"),
    ):
        make(tmp_path / "record.new")
        disk.replace(tmp_path / "record", b"ours")
        assert disk.read(tmp_path / "record") == b"ours"
        assert not victim.exists()


def test_it_makes_way_and_that_is_said(obstacle: tuple[str, Path]) -> None:
    what, path = obstacle
    [sentence] = disk.tidy(path.parent)
    assert sentence.startswith(f"{path} was {what}, which does not belong to facilitator")
    assert list(disk.tidy(path.parent)) == [], "once"
    assert not os.path.lexists(path)
    if what == "a directory":
        assert (path.parent / "record.aside-0" / "precious").read_text() == "somebody's", (
            "nothing of others is deleted"
        )


def test_a_directory_too(tmp_path: Path) -> None:
    for what, make in OBSTACLES.items():
        make(tmp_path / "journal")
        said = list(disk.tidy(tmp_path / "journal"))
        assert len(said) == (0 if what == "a directory" else 1)
        (tmp_path / "journal").mkdir(exist_ok=True)
        (tmp_path / "journal").rename(tmp_path / f"past {what}")


def test_a_huge_file_is_none_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "record").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than"):
        disk.read(tmp_path / "record")
    [sentence] = disk.tidy(tmp_path, largest=disk.MAX_RECORD_BYTES)
    assert "a file of 1099511627776 bytes" in sentence


def test_what_is_ours_stays(tmp_path: Path) -> None:
    disk.replace(tmp_path / "record", b"ours")
    assert list(disk.tidy(tmp_path, largest=disk.MAX_RECORD_BYTES)) == []
    assert list(disk.tidy(tmp_path / "missing", names=("record",))) == []
    assert disk.read(tmp_path / "record") == b"ours"
