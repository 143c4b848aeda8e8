"""Writes the generated parts of `docs/architecture.md`: `python -m tests.architecture.document` (or `make
docs`).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from supervisor.core.session.diagram import diagram

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"


def modules() -> str:
    """One row per module: its path, and the first sentence of its docstring."""
    rows = ["| module | what it is |", "|---|---|"]
    packages = ("common", "supervisor", "tunnels")
    for path in sorted(path for package in packages for path in ROOT.glob(f"{package}/**/*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        sentence = re.split(r"(?<=\.)\s|\n\n", text, maxsplit=1)[0].replace("\n", " ").rstrip(".")
        rows.append(f"| `{path.relative_to(ROOT)}` | {sentence} |")
    return "\n".join(rows)


def rendered(text: str) -> str:
    """The document with its generated parts made anew."""
    for name, part in (("modules", modules()), ("states", f"```mermaid\n{diagram()}\n```")):
        marker = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.S)
        assert marker.search(text), f"no place for {name} in {DOCUMENT}"
        text = marker.sub(lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))
