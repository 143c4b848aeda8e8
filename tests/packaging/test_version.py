"""The version that is reported: from git in a checkout, from the package elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.version import described
from tests.packaging.checkout import Checkout, copy, repository


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return repository(tmp_path / "checkout")


def test_a_tagged_commit_has_the_version_of_the_tag(checkout: Checkout) -> None:
    checkout.commit()
    checkout.git("tag", "v1.2.3")
    assert described(checkout.path, "0.9.0") == "1.2.3"


def test_later_commits_are_counted_from_the_tag(checkout: Checkout) -> None:
    checkout.commit()
    checkout.git("tag", "v1.2.3")
    checkout.git("tag", "nightly")
    checkout.commit()
    last = checkout.commit()
    assert described(checkout.path, "0.9.0") == f"1.2.3+2.g{last}"


def test_before_the_first_tag_the_commit_is_added(checkout: Checkout) -> None:
    assert described(checkout.path, "0.9.0") == "0.9.0", "no commit"
    only = checkout.commit()
    assert described(checkout.path, "0.9.0") == f"0.9.0+g{only}"


def test_what_is_no_checkout_has_the_version_that_it_says(checkout: Checkout, tmp_path: Path) -> None:
    checkout.commit()
    checkout.git("tag", "v1.2.3")
    unpacked = checkout.path / "vendor" / "facilitator"
    unpacked.mkdir(parents=True)
    (broken := tmp_path / "broken" / ".git").mkdir(parents=True)
    assert described(unpacked, "0.9.0") == "0.9.0", "the repository around it is another one"
    assert described(broken.parent, "0.9.0") == "0.9.0"


@pytest.mark.slow
def test_the_code_in_a_checkout_asks_git_and_needs_none(tmp_path: Path) -> None:
    """Also where git is told of another repository, as in its own hooks."""
    code, other = copy(tmp_path / "code"), repository(tmp_path / "other")
    other.commit()
    other.git("tag", "v7.7.7")
    code.git("tag", "v1.2.3")
    last = code.commit()
    assert (
        reported(code.path, PATH=os.environ["PATH"], GIT_DIR=str(other.path / ".git")) == f"1.2.3+1.g{last}"
    )
    (only := tmp_path / "bin").mkdir()
    written = (code.path / "supervisor/__init__.py").read_text().split('__version__ = "')[1].split('"')[0]
    assert reported(code.path, PATH=str(only)) == written


def reported(code: Path, **environment: str) -> str:
    """The version that the code in a directory prints."""
    command = (sys.executable, "-m", "supervisor", "--version")
    done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=True)
    name, version = done.stdout.strip().split(", version ")
    assert name == "facilitator"
    return version
