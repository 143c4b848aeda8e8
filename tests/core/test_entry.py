"""Tests decide nothing that production would decide in another way: they call the entry that the engine
calls.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Modules of `core.session` that `step` puts together: what they export beside values is for `step` alone.
INSIDE = frozenset(
    f"supervisor.core.session.{name}"
    for name in ("escalation", "handover", "health", "machine", "silence", "transitions", "tunnel_machine")
)
FILES = sorted(path for room in ("core", "simulation", "why") for path in (TESTS / room).glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_only_values_are_taken_from_inside_the_state_machines(path: Path) -> None:
    taken = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in INSIDE
        for alias in node.names
        if not alias.name[0].isupper()  # classes and constants are values
    ]
    assert taken == []
