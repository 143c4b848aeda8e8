"""Writes the generated parts of docs/: `python -m tests.architecture.document` (or `make docs`).

docs/modules.md lists every module with the first sentence of its docstring; the diagram of states in
docs/internals/session-life.md is drawn by asking the state machine, the table of reasons in docs/kinds.md
and docs/reasons.md come from the retry policies.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from supervisor.core.session.diagram import diagram
from supervisor.core.session.policy_table import policy_table
from supervisor.core.session.reason_pages import reasons_page

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "hub", "supervisor", "tunnels")
MODULES = ROOT / "docs" / "modules.md"
STATES = ROOT / "docs" / "internals" / "session-life.md"
REASONS = ROOT / "docs" / "kinds.md"
PAGES = ROOT / "docs" / "reasons.md"
DOCUMENTS = (MODULES, STATES, REASONS, PAGES)


def sources() -> list[Path]:
    """All modules of the product, package by package."""
    found = (path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
    return sorted(found, key=lambda path: (path.parent, path.name))


def first_sentence(module: ast.Module) -> str:
    """The first sentence of a module's docstring, on one line and without its full stop."""
    text = ast.get_docstring(module) or ""
    return re.split(r"(?<=\.)\s|\n\n", text, maxsplit=1)[0].replace("\n", " ").rstrip(".")


def modules() -> Iterator[str]:
    """A heading and a table for each package: one row a module."""
    package = None
    for path in sources():
        if path.parent != package:
            package = path.parent
            yield from ("", f"## {package.relative_to(ROOT)}/", "", "| module | what it is |", "|---|---|")
        sentence = first_sentence(ast.parse(path.read_text()))
        if sentence:  # an empty __init__.py says nothing
            yield f"| [`{path.name}`](../{path.relative_to(ROOT)}) | {sentence} |"


def rendered(document: Path) -> str:
    """The document with its generated part made anew."""
    parts = {
        MODULES: lambda: "\n".join(modules()),
        STATES: lambda: f"```mermaid\n{diagram()}\n```",
        REASONS: lambda: "\n".join(policy_table()),
        PAGES: lambda: "\n".join(reasons_page()),
    }
    part = parts[document]()
    text = document.read_text()
    marker = re.compile(r"(<!-- generated: make docs -->\n).*?(<!-- end -->)", re.S)
    assert marker.search(text), f"no place for it in {document}"
    return marker.sub(lambda m: f"{m[1]}{part}\n{m[2]}", text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(rendered(document))
