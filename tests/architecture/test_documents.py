"""What the documents point at exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.document import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PATHS = re.compile(
    r"`((?:common|supervisor|tunnels|tests|docs|systemd|monitoring|nomad|requirements|\.ci)/[\w./*-]*)`"
)
LINKS = re.compile(r"\]\((?!\w+:|#)([^)#]+)")
TARGETS = re.compile(r"`(?:sudo )?make ([a-z-]+)")


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    missing = [path for path in PATHS.findall(text) if not list(ROOT.glob(path.rstrip("/")))]
    missing += [link for link in LINKS.findall(text) if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_target_that_a_document_names_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    assert set(TARGETS.findall(document.read_text())) <= targets


def test_internals_and_decisions_are_listed() -> None:
    for folder in ("internals", "decisions"):
        index = ROOT / "docs" / folder / "README.md"
        listed = set(LINKS.findall(index.read_text()))
        assert listed == {path.name for path in index.parent.glob("*.md")} - {index.name}


def test_nothing_that_is_documented_is_ignored() -> None:
    """A file that git ignores would be missing in a fresh clone."""
    checked = subprocess.run(
        ("git", "-C", ROOT, "check-ignore", *map(str, DOCUMENTS)), capture_output=True, text=True
    )
    assert checked.stdout == ""
