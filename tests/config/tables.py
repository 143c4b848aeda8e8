"""Writes the tables of `docs/configuration.md` (`make docs`)."""

from __future__ import annotations

from supervisor.config.markdown_tables import tables
from tests.architecture.document import ROOT
from tunnels.registry import KINDS

DOCUMENT = ROOT / "docs" / "configuration.md"
MARKER = "supervisor.config.markdown_tables -->\n\n"

if __name__ == "__main__":
    head, _, _ = DOCUMENT.read_text().partition(MARKER)
    DOCUMENT.write_text(f"{head}{MARKER}{tables(KINDS)}\n")
