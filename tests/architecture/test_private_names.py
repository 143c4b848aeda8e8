"""Tests use public names: a private name of the product can change without a test that has to
change with it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.document import ROOT

TESTS = sorted(set((ROOT / "tests").rglob("*.py")) - {Path(__file__)})
PACKAGES = ("supervisor", "tunnels", "common", "hub")
# Public in spite of their underscore: of named tuples and of the standard library.
PUBLIC = {"_replace", "_asdict", "_fields", "_make"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def own(value: ast.expr) -> bool:
    """The object itself: `self`, `cls`, `super()`, and a module's standard `os._exit`."""
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls", "os")


def peeks(tree: ast.AST) -> Iterator[str]:
    """Private names of other objects and modules, with the line."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if private(name) and not own(value):
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in PACKAGES:
                for each in names:
                    if any(map(private, [*module.split("."), each.name])):
                        yield f"{node.lineno}: {module}.{each.name}"
            case ast.Constant(value=str(text)) if any(f"from {package}" in text for package in PACKAGES):
                yield from code_peeks(text, node.lineno)


def code_peeks(text: str, line: int) -> Iterator[str]:
    """The same in a string that is a program."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    yield from (f"{line}: in a string: {each}" for each in peeks(tree))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_uses_a_private_name(path: Path) -> None:
    found = list(peeks(ast.parse(path.read_text())))
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "history._writer.flush()",
        "a.b._c = 1",
        "from supervisor.engine import _turn",
        "import supervisor\nrun('from supervisor import x\\nx._y()')",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert list(peeks(ast.parse(text)))


@pytest.mark.parametrize("text", ["self._a", "super()._a", "os._exit(0)", "row._replace(a=1)", "x.__class__"])
def test_a_public_name_is_not(text: str) -> None:
    assert not list(peeks(ast.parse(text)))
