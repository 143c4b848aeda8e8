"""Names in backticks exist: paths, and dotted names of modules, classes, attributes, configuration keys and
files.

Looked for in docstrings and comments of all Python files, and in docs/. A dotted name may begin anywhere in a
module's path (`core.session.machine`, `step.step`) or with a class (`Runner.busy`).
"""

from __future__ import annotations

import ast
import configparser
import functools
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.config.model import AdminSettings, SessionsSettings
from hub.config.sidecar import ProfileSettings, SidecarSettings
from tests.architecture.document import ROOT

pytestmark = pytest.mark.slow

FOLDERS = ("common", "hub", "supervisor", "tunnels", "tests")
HUB = {
    "sessions": SessionsSettings,
    "sidecar": SidecarSettings,
    "profile": ProfileSettings,
    "admin": AdminSettings,
}
MODULES = {
    path: path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
}
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*\.(py|md|cfg|json|toml|yaml|yml|nft|txt|hcl)|[\w.-]+(/[\w.-]+)+/?")
FILE = re.compile(r"[\w-]+\.(db|key|sock|json)")
# Name: what it is. They look like one of ours and are none.
FOREIGN = {
    "_state.py": "h11",
    "dedup_stage.go": "Alertmanager",
    "pagerduty.go": "Alertmanager",
    "retry_stage.go": "Alertmanager",
    "status.flagwantup": "s6-supervise",
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def prose(path: Path) -> Iterator[str]:
    """Docstrings and comments."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    yield from (token.string for token in tokens if token.type == tokenize.COMMENT)


def members(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module or a class defines, or imports."""
    for node in body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
            case ast.If() | ast.Try():
                yield from members(node.body)
            case _:
                yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def attributes(owner: ast.ClassDef) -> Iterator[str]:
    """Names that a class defines, and those that its methods assign to `self`."""
    yield from members(owner.body)
    yield from (each.attr for each in ast.walk(owner) if isinstance(each, ast.Attribute))


@functools.cache
def known() -> frozenset[str]:
    """Every dotted name: modules with what they define, classes with their attributes."""
    found = set(sys.stdlib_module_names)
    for path, place in MODULES.items():
        name = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        found.add(name)
        found.update(f"{name}.{member}" for member in members(tree(path).body))
        for owner in [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]:
            found.update(f"{name}.{owner.name}.{attribute}" for attribute in attributes(owner))
    return frozenset(found | {suffix for name in found for suffix in suffixes(name)})


def suffixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[start:]) for start in range(1, len(parts)))


@functools.cache
def keys() -> frozenset[str]:
    """Every dotted key of the facilitator's and of the hub's configuration."""
    facilitator = json.loads((ROOT / "docs/config.schema.json").read_text())
    hub = (f"{group}.{key}" for group, model in HUB.items() for key in keys_of(model.model_json_schema()))
    return frozenset((*keys_of(facilitator), *hub))


def keys_of(schema: dict[str, Any]) -> frozenset[str]:
    """Every dotted key of a JSON schema."""

    def below(node: object, path: str, seen: tuple[str, ...]) -> Iterator[str]:
        if isinstance(node, list):
            for each in node:
                yield from below(each, path, seen)
        if not isinstance(node, dict):
            return
        reference = node.get("$ref", "").removeprefix("#/$defs/")
        if reference and reference not in seen:
            yield from below(schema["$defs"][reference], path, (*seen, reference))
        for name, value in node.get("properties", {}).items():
            yield f"{path}{name}"
            yield from below(value, f"{path}{name}.", seen)
        for name in ("additionalProperties", "items", "anyOf", "allOf", "oneOf", "if", "then", "else"):
            yield from below(node.get(name), path, seen)

    return frozenset(below(schema, "", ()))


@functools.cache
def foreign_modules() -> frozenset[str]:
    """Top-level modules of Python and of the packages that are required."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    required = re.findall(r"^[\w-]+", parser["options"]["install_requires"], flags=re.M)
    return sys.stdlib_module_names | {name.replace("-", "_").lower() for name in required}


@functools.cache
def files() -> frozenset[str]:
    """Every path in the tree, and each of its ends."""
    skipped = {".git", ".venv", ".cache", ".mypy_cache", ".ruff_cache"}
    tops = [path for path in ROOT.iterdir() if path.name not in skipped]
    paths = [path.relative_to(ROOT) for top in tops for path in (top, *top.rglob("*"))]
    return frozenset("/".join(path.parts[start:]) for path in paths for start in range(len(path.parts)))


@functools.cache
def literals() -> str:
    """All strings in the product, as far as they may name a file."""
    nodes = (node for path in MODULES if "tests" not in path.parts for node in ast.walk(tree(path)))
    return "\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


def exists(name: str) -> bool:
    if name in FOREIGN:
        return True
    if DOTTED.fullmatch(name):
        first = name.split(".", maxsplit=1)[0]
        return (
            name in known()
            or name in keys()
            or any(key.endswith(f".{name}") for key in keys())
            or first in foreign_modules()
            or name in files()
            or (FILE.fullmatch(name) is not None and name in literals())
        )
    return name.rstrip("/") in files() or not re.match(
        r"(supervisor|tunnels|tests|common|docs|\.ci)/|.*\.py$", name
    )


def wrong(texts: Iterator[str]) -> list[str]:
    named = {name for text in texts for name in re.findall(r"`([^`\s]+)`", text)}
    return sorted(n for n in named if (DOTTED.fullmatch(n) or PATH.fullmatch(n)) and not exists(n))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(MODULES[path]))
def test_names_in_docstrings_and_comments_exist(path: Path) -> None:
    assert wrong(prose(path)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_names_in_documents_exist(path: Path) -> None:
    assert wrong(iter([path.read_text()])) == []


def test_what_does_not_exist_is_found() -> None:
    good = "`supervisor.engine.Engine` `session.machine` `Runner.busy` `probe.targets` `app/daemon.py` `sqlite3.Error`"
    bad = "`supervisor.engine.Motor` `session.engine` `Runner.lazy` `probe.aims` `app/demon.py`"
    assert wrong(iter([good])) == []
    assert len(wrong(iter([bad]))) == 5
