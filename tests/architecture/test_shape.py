"""The shape of the code: the document that describes it is true, and the budgets hold."""

from __future__ import annotations

import ast
import configparser
import functools
from pathlib import Path

import pytest

from tests.architecture.document import DOCUMENTS, ROOT, rendered

PACKAGES = ("common", "hub", "supervisor", "tunnels")
SOURCES = sorted(path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
# Modules of PyPI's supervisord: a file of ours with such a name would mix with theirs where both are
# installed.
SUPERVISORD = {
    "childutils",
    "compat",
    "confecho",
    "datatypes",
    "dispatchers",
    "events",
    "http",
    "http_client",
    "loggers",
    "medusa",
    "options",
    "pidproxy",
    "poller",
    "process",
    "rpcinterface",
    "skel",
    "socket_manager",
    "states",
    "supervisorctl",
    "supervisord",
    "templating",
    "web",
    "xmlrpc",
}


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The file as a tree."""
    return ast.parse(path.read_text())


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path):
    return [n for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def depth(node: ast.AST, level: int = 0) -> int:
    """How deep if, for, while, with, try and match are nested; an elif is not deeper."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        nests = isinstance(
            child,
            ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.Match,
        )
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child, level + (nests and not chained)))
    return deepest


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_the_generated_documents_are_up_to_date(document: Path) -> None:
    assert rendered(document) == document.read_text(), "run: make docs"


# Files that are larger than 350 lines of code, and how large they may be.
LARGER = {
    "supervisor/control/openapi.py": 410,  # descriptions of the API only
    "supervisor/core/views/documents.py": 540,  # declarations of types only
}


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_a_file_fits_in_one_reading(path: Path) -> None:
    code = [
        line for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    assert len(code) <= LARGER.get(names(path), 350)


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_functions_are_short_and_flat(path: Path) -> None:
    for function in functions(path):
        assert function.end_lineno - function.lineno < 60, f"{function.name} is too long"
        assert depth(function) <= 4, f"{function.name} is nested too deeply"


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_no_global_state(path: Path) -> None:
    tree = parsed(path)
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Global)]
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.Dict | ast.List | ast.Set
        ):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assert all(
                isinstance(t, ast.Name) and (t.id.isupper() or t.id.startswith("_") or t.id == "__all__")
                for t in targets
            )


def test_functions_are_mostly_tiny() -> None:
    lengths = sorted(f.end_lineno - f.lineno + 1 for path in SOURCES for f in functions(path))
    assert sum(lengths) / len(lengths) <= 12
    assert lengths[int(len(lengths) * 0.95)] <= 40


# Where something that may have a fault of its own is contained, or told: the faults themselves, kinds, the
# top of tasks, the end.
CONTAIN = {
    "supervisor/core/faults.py",
    "supervisor/core/session/kind_guard.py",
    "supervisor/config/tunnel_entries.py",
    "supervisor/clients/client.py",
    "supervisor/clients/launch.py",
    "supervisor/kernel/network.py",
    "supervisor/reports/paging/pager.py",
    "supervisor/app/closing.py",
    "tunnels/kinds/sshuttle/ssnet_patch.py",
}


def test_broad_excepts_stand_once_where_faults_are_contained() -> None:
    broad = [
        names(path)
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert sorted(broad) == sorted(CONTAIN)


def test_no_conditional_expression_stands_in_another() -> None:
    nested = [
        f"{names(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.IfExp) and sum(isinstance(each, ast.IfExp) for each in ast.walk(node)) > 1
    ]
    assert nested == []


def test_nothing_is_cast() -> None:
    called = [
        f"{names(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast")
    ]
    assert called == []


def test_what_the_kinds_share_is_pure() -> None:
    """All modules of `tunnels` but the drivers' own are under the import contract `pure`."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    pure = set(parser["importlinter:contract:pure"]["source_modules"].split())
    shared = {f"tunnels.{path.stem}" for path in (ROOT / "tunnels").glob("*.py") if path.stem != "__init__"}
    assert shared <= pure
    assert "tunnels.kinds.*.kind" in pure


def test_no_module_shares_a_name_with_supervisord() -> None:
    direct = {path.stem for path in (ROOT / "supervisor").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not direct & SUPERVISORD


def test_nothing_imports_the_folders_that_hold_no_python() -> None:
    for path in SOURCES:
        imported = {
            a.name.split(".")[0] for n in ast.walk(parsed(path)) if isinstance(n, ast.Import) for a in n.names
        }
        assert not imported & {"systemd", "nomad"}, names(path)
