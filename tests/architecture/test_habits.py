"""What contributors are asked for is what the repository holds itself to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.packaging.lock import DEVELOPMENT, pins
from tunnels.registry import KINDS

ROOT = Path(__file__).parents[2]
HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}
BLANKET = re.compile(HOOKS["no-blanket-noqa"]["entry"])
LOCKED_AS = {"lint-imports": "import-linter"}


@pytest.mark.parametrize("comment", ["noqa", " noqa - because", " type: ignore"])
def test_a_blanket_exception_is_found(comment: str) -> None:
    assert BLANKET.search(f"x = 1  #{comment}")


def test_every_exception_names_what_it_silences() -> None:
    assert not BLANKET.search("x = 1  # noqa: S603 - why")
    assert not BLANKET.search("x = 1  # type: ignore[misc]")
    texts = {
        path: path.read_text()
        for top in ("common", "hub", "supervisor", "tunnels", "tests")
        for path in (ROOT / top).rglob("*.py")
    }
    assert [str(path) for path, text in texts.items() if BLANKET.search(text)] == []


def test_hooks_run_what_the_lock_installs() -> None:
    programs = {hook["entry"].split()[0] for hook in HOOKS.values() if hook["language"] == "system"}
    names = {Path(program).name for program in programs}
    assert all(program.startswith(".venv/bin/") for program in programs)
    assert {LOCKED_AS.get(name, name) for name in names} <= pins(DEVELOPMENT).keys()


def test_the_issue_form_offers_every_kind() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    (kinds,) = (each["attributes"]["options"] for each in form["body"] if each.get("id") == "kind")
    assert sorted(kinds) == sorted([*KINDS, "none in particular"])
