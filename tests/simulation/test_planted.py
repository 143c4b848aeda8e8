"""Every planted bug is caught by the test that is named for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.planted import BUGS, ROOT, Bug, caught, copied


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("planted"))


def test_the_table_is_about_the_source_of_today() -> None:
    assert len(BUGS) >= 20
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    for bug in BUGS:
        file, _, test = bug.test.partition("::")
        assert (ROOT / bug.file).read_text().count(bug.good) == 1, bug.name
        assert f"def {test}(" in (ROOT / file).read_text(), bug.name


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_bug_is_caught_by_its_test(bug: Bug, tree: Path) -> None:
    assert caught(bug, tree)
