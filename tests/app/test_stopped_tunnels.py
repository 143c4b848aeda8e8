"""A stop that holds: over restarts, and as soon as the disk takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.app.stores.stopped_tunnels import StoppedTunnels


def test_a_stop_holds_until_start(tmp_path: Path) -> None:
    StoppedTunnels(tmp_path).hold("acme")
    held = StoppedTunnels(tmp_path)
    assert held.names == {"acme"}
    held.release("acme")
    assert StoppedTunnels(tmp_path).names == frozenset()


@pytest.mark.parametrize("content", ["", "{", "null", "[1, 2]", '"acme"'])
def test_a_torn_file_holds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "held.json").write_text(content)
    assert "acme" not in StoppedTunnels(tmp_path).names


def test_a_stop_that_could_not_be_written_is_written_by_the_next_one(tmp_path: Path) -> None:
    held, moved = StoppedTunnels(tmp_path), tmp_path.with_name("moved")
    tmp_path.rename(moved)
    with pytest.raises(FileNotFoundError):
        held.hold("acme")
    assert held.names == {"acme"}, "it holds for now"
    moved.rename(tmp_path)
    held.hold("acme")
    assert StoppedTunnels(tmp_path).names == {"acme"}


@pytest.mark.parametrize(
    "content",
    ["{", '{"format": 2, "held": []}', '{"format": 1, "held": ["acme"], "until": 7}', '["acme", 7]'],
)
def test_what_is_not_understood_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "held.json").write_text(content)
    with capture_logs() as logged:
        assert StoppedTunnels(tmp_path).names == frozenset()
    assert [line["log_level"] for line in logged] == ["error"]
    assert "facilitator stop NAME" in logged[0]["event"]
