"""A stop that holds: over restarts, and as soon as the disk takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.app.held import Held


def test_a_stop_holds_until_start(tmp_path: Path) -> None:
    Held(tmp_path).hold("acme")
    held = Held(tmp_path)
    assert held.names == {"acme"}
    held.release("acme")
    assert Held(tmp_path).names == frozenset()


@pytest.mark.parametrize("content", ["", "{", "null", "[1, 2]", '"acme"'])
def test_a_torn_file_holds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "held.json").write_text(content)
    assert "acme" not in Held(tmp_path).names


def test_a_stop_that_could_not_be_written_is_written_by_the_next_one(tmp_path: Path) -> None:
    held, moved = Held(tmp_path), tmp_path.with_name("moved")
    tmp_path.rename(moved)
    with pytest.raises(FileNotFoundError):
        held.hold("acme")
    assert held.names == {"acme"}, "it holds for now"
    moved.rename(tmp_path)
    held.hold("acme")
    assert Held(tmp_path).names == {"acme"}
