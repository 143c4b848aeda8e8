"""A class name means one thing in the whole tree: `.ci/class-names`, which `make style` runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.architecture.document import ROOT


def listed(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of the script."""
    done = subprocess.run([ROOT / ".ci" / "class-names", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_each_name_is_defined_once() -> None:
    assert listed() == (0, "each class name is defined once\n")


def test_the_script_sees_nested_private_and_made_classes(tmp_path: Path) -> None:
    for folder in ("supervisor", "tunnels", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "supervisor/a.py").write_text("class Entry: ...\nclass _Row: ...\nclass Once: ...\n")
    (tmp_path / "tunnels/b.py").write_text("def make():\n    class Entry: ...\nOne = TypedDict('One', {})\n")
    (tmp_path / "tests/c.py").write_text("class Outer:\n    class _Row(enum.Enum): ...\nclass One: ...\n")
    code, said = listed(tmp_path)
    assert code == 1
    assert said.splitlines() == [
        "Entry: supervisor/a.py:1, tunnels/b.py:2",
        "One: tests/c.py:3, tunnels/b.py:3",
        "_Row: supervisor/a.py:2, tests/c.py:2",
    ]
