"""The lock: complete, in line with setup.cfg, and without a trace of the machine that it was written on."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.lock import DEVELOPMENT, RUNTIME, Pin, differences, pins, wanted

LOCKS = [(RUNTIME, ("build",)), (DEVELOPMENT, ("build", "dev"))]


@pytest.mark.parametrize(("lock", "extras"), LOCKS, ids=["runtime", "development"])
def test_each_requirement_is_locked_in_a_version_that_it_allows(lock: Path, extras: tuple[str, ...]) -> None:
    locked = pins(lock)
    unmet = [str(requirement) for requirement in wanted(*extras) if not _met(requirement, locked)]
    assert unmet == [], "run `make lock`"


@pytest.mark.parametrize(("lock", "extras"), LOCKS, ids=["runtime", "development"])
def test_what_locked_packages_need_is_locked_too(lock: Path, extras: tuple[str, ...]) -> None:
    """By what the installed ones say of themselves: `pip install --require-hashes` takes nothing that is
    not listed.
    """
    locked = pins(lock)
    needs = {
        name: importlib.metadata.requires(name) or []
        for name, pin in locked.items()
        if _installed(name) == pin.version
    }
    unmet = [
        f"{name}: {text}"
        for name, texts in needs.items()
        for text in texts
        if not _met(Requirement(text), locked)
    ]
    assert needs
    assert unmet == []


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT], ids=["runtime", "development"])
def test_each_package_is_one_version_with_hashes_and_no_place(lock: Path) -> None:
    for name, pin in pins(lock).items():
        assert [each.operator for each in pin.requirement.specifier] == ["=="], name
        assert pin.requirement.url is None, name
        assert pin.hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in pin.hashes), name
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|(^|\s)/", lock.read_text())


def test_what_runs_is_what_is_tested() -> None:
    assert pins(RUNTIME).items() <= pins(DEVELOPMENT).items()


def test_differences_are_said_in_words() -> None:
    locked = {
        text.split("==")[0]: Pin(Requirement(text), ())
        for text in ("a==1", "b==2", "c==3", "d==4; sys_platform == 'win32'")
    }
    assert differences(locked, {"a": "1", "b": "2.1", "e": "5"}) == [
        "b 2 -> 2.1",
        "c 3 is no longer needed",
        "e 5 is new",
    ]


def _met(requirement: Requirement, locked: dict[str, Pin]) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return True
    pin = locked.get(canonicalize_name(requirement.name))
    return pin is not None and requirement.specifier.contains(pin.version, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
