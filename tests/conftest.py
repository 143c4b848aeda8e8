"""Fixtures and rules for all tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.netns import Namespace, sweep

# A few dozen examples of each property in the ordinary suite, many in `make soak` (HYPOTHESIS_PROFILE=soak).
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("soak", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the tests that repeat a fault go on."""
    parser.addoption(
        "--flaps", type=int, default=5, help="how often a tunnel is hit in each flap test (make soak: 100)"
    )
    parser.addoption(
        "--flap-seconds",
        type=float,
        default=1.2,
        help="how long a flapping path is dead and alive (make soak: 20)",
    )
    parser.addoption(
        "--takeovers", type=int, default=2, help="how often the daemon is killed or upgraded (make soak: 20)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Root tests are skipped, with a plain reason, where there is no root."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("nspawn"):
            item.add_marker(pytest.mark.skip(reason="needs root: makes network namespaces"))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The cache of a run as root is handed to the owner of this checkout, who goes on with `--lf`."""
    if os.geteuid() == 0 and not hasattr(config, "workerinput"):
        cache = config.rootpath / ".cache"
        hand_over([cache, *cache.glob("pytest"), *cache.glob("pytest/**/*")], config.rootpath)


def hand_over(paths: Iterable[Path], like: Path) -> None:
    """Give files the owner of another one."""
    owner = like.stat()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@pytest.fixture(scope="session", autouse=True)
def _swept() -> Iterator[None]:
    """What a killed earlier run left behind goes first."""
    if os.geteuid() == 0:
        sweep()
    yield


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """An empty private network namespace, entered by the test's thread."""
    namespace = Namespace("t")
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.remove()
