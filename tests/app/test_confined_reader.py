"""Files below a directory: what is reached, and that nothing leads out of it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from supervisor.app.confined_reader import MAX_BYTES, MAX_FILES, names_beneath, read_beneath, read_regular

INSIDE = (
    "ca.crt",
    "keys/client.key",
    "same",
    "keys/up",
    "hop",
    "whole/ca.crt",
    "absolute",
    "./ca.crt",
    "keys//client.key",
    "..data/new",
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A directory with files and links that stay in it, beside one with a secret."""
    directory = tmp_path / "acme"
    (directory / "keys").mkdir(parents=True)
    (directory / "..2026").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").write_text("secret")
    for name in ("ca.crt", "keys/client.key", "..2026/new"):
        (directory / name).write_text("good")
    links = {
        "same": "ca.crt",
        "keys/up": "../ca.crt",
        "hop": "keys/up",
        "whole": ".",
        "absolute": str(directory / "ca.crt"),
        "..data": "..2026",
        "out": "../other/secret",
        "far": "/etc/passwd",
        "folder": "../other",
        "keys/deep": "../../other/secret",
        "loop": "loop",
        "near": f"{directory}-other",
        "round": "keys/../../acme/ca.crt",
        "missing": "nothing",
        "dotted": f"{directory}/../other/secret",
    }
    for name, target in links.items():
        (directory / name).symlink_to(target)
    os.mkfifo(directory / "fifo")
    return directory


@pytest.mark.parametrize("name", INSIDE)
def test_what_lies_in_the_directory(profile: Path, name: str) -> None:
    assert read_beneath(profile, name) == b"good"


@pytest.mark.parametrize(
    "name",
    [
        "out",
        "far",
        "folder/secret",
        "keys/deep",
        "near",
        "round",
        "dotted",
        "../other/secret",
        "keys/../../other/secret",
        "..",
    ],
)
def test_nothing_leads_out_of_it(profile: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of the profile's directory"):
        read_beneath(profile, name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fifo", "not a regular file"),
        ("keys", "not a regular file"),
        ("loop", "Too many levels"),
        ("missing", "No such file"),
        ("ca.crt/x", "Not a directory"),
        ("nothing/at/all", "No such file"),
    ],
)
def test_only_a_file_is_read(profile: Path, name: str, why: str) -> None:
    with pytest.raises((OSError, ValueError), match=why):
        read_beneath(profile, name)


def test_a_fifo_a_socket_and_a_device_hold_up_nobody(profile: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(profile / "socket"))
        for name in (profile / "fifo", profile / "socket", Path("/dev/zero"), profile):
            with pytest.raises((OSError, ValueError)):
                read_regular(name)


def test_a_file_of_an_insane_size(profile: Path) -> None:
    os.truncate(profile / "ca.crt", MAX_BYTES + 1)
    with pytest.raises(ValueError, match="larger than 4 MiB"):
        read_beneath(profile, "ca.crt")


def test_the_files_of_a_folder(profile: Path) -> None:
    assert names_beneath(profile, "keys") == ["client.key", "deep", "up"]
    assert names_beneath(profile, "none") == []
    with pytest.raises(ValueError, match="leads out"):
        names_beneath(profile, "folder")
    for number in range(MAX_FILES):
        (profile / "keys" / str(number)).touch()
    with pytest.raises(ValueError, match=f"more than {MAX_FILES}"):
        names_beneath(profile, "keys")


def test_a_link_that_is_exchanged_all_the_time_leads_nowhere_else(profile: Path) -> None:
    """Somebody who may write to the directory races with us."""
    (profile / "mine").write_text("good")
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            for target in ("mine", "../other/secret", "/etc/passwd"):
                (profile / "new").symlink_to(target)
                (profile / "new").rename(profile / "raced")

    (profile / "raced").symlink_to("mine")
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        contents = []
        for _ in range(5000):
            try:
                contents.append(read_beneath(profile, "raced"))
            except (OSError, ValueError):
                continue
        assert set(contents) <= {b"good"}
        assert contents
    finally:
        over.set()
        thread.join()
