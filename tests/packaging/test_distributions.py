"""What `make build` and `make release` make: an sdist and a wheel that work without this checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.golden.samples import SORTS
from tests.packaging.checkout import Checkout, copy, files
from tests.packaging.installation import REPOSITORY, wheels
from tests.packaging.lock import RUNTIME

pytestmark = pytest.mark.slow

VERSION = "9.8.7"
RECORD = f"tests/golden/codes-{SORTS['codes'].format}.json"
PACKAGES = ("common", "hub", "supervisor", "tunnels")
RELEASE = f"""# Changelog

## [{VERSION}] - 2031-01-31

- All of it.
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout that is ready to be released."""
    made = copy(tmp_path_factory.mktemp("released") / "checkout")
    (made.path / "CHANGELOG.md").write_text(RELEASE)
    version = made.path / "supervisor/__init__.py"
    version.write_text(re.sub('__version__ = ".*"', f'__version__ = "{VERSION}"', version.read_text()))
    made.commit("Release")
    return made


@pytest.fixture(scope="module")
def dist(released: Checkout) -> Path:
    """The directory with the sdist and the wheel of the release, which is tagged by then."""
    done = released.run(".ci/release", VERSION)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"Tagged v{VERSION}. Next: git push origin v{VERSION}"
    return released.path / "dist"


@pytest.fixture
def clone(released: Checkout, tmp_path: Path) -> Checkout:
    """Another one."""
    released.git("clone", "--quiet", "--no-tags", str(released.path), str(tmp_path / "clone"))
    return Checkout(tmp_path / "clone")


def test_a_dry_run_builds_and_leaves_no_tag(clone: Checkout) -> None:
    done = clone.run(".ci/release", VERSION, "--dry-run")
    assert done.stdout.splitlines() == [
        f"dist/vpn_facilitator-{VERSION}.tar.gz",
        f"dist/vpn_facilitator-{VERSION}-py3-none-any.whl",
        f"All is well; v{VERSION} is removed again, for this was a dry run.",
    ]
    assert done.returncode == 0
    assert clone.git("tag") == ""
    assert clone.git("status", "--porcelain") == ""


def test_the_wheel_holds_every_file_of_the_packages(dist: Path) -> None:
    with zipfile.ZipFile(dist / f"vpn_facilitator-{VERSION}-py3-none-any.whl") as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in files() if name.startswith(tuple(f"{each}/" for each in PACKAGES))}


def test_the_sdist_holds_what_is_needed_to_build_test_and_read(dist: Path) -> None:
    left_out = re.compile(r"\.git(ignore|-blame-ignore-revs|hub/.*)|\.pre-commit-config\.yaml")
    with tarfile.open(dist / f"vpn_facilitator-{VERSION}.tar.gz") as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {name for name in files() if not left_out.fullmatch(name)} <= inside


def test_the_wheel_works_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = environment / "bin" / "python"
    run(elsewhere, sys.executable, "-m", "venv", environment)
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index")
    run(elsewhere, *pip, "--require-hashes", f"--find-links={wheels()}", f"--requirement={RUNTIME}")
    run(elsewhere, *pip, "--no-deps", dist / f"vpn_facilitator-{VERSION}-py3-none-any.whl")

    facilitator, example = environment / "bin" / "facilitator", REPOSITORY / "config.example.yaml"
    assert run(elsewhere, facilitator, "--version") == f"facilitator, version {VERSION}\n"
    assert "configuration OK" in run(elsewhere, facilitator, "check", "-c", example, "--no-files")
    location = "import supervisor, tunnels.registry; print(supervisor.__file__)"
    assert run(elsewhere, python, "-c", location).startswith(str(environment))
    for kind in (REPOSITORY / "tunnels" / "kinds").glob("*/driver.py"):
        module = f"tunnels.kinds.{kind.parent.name}.driver"
        run(elsewhere, python, "-I", "-c", f"import {module}")


def run(directory: Path, *command: str | Path) -> str:
    """The output of a command that succeeds in a directory, with nothing of this environment."""
    done = subprocess.run(
        command, cwd=directory, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("version", "change", "sentence"),
    [
        ("", {}, "say which version, as in: make release VERSION=1.2.3"),
        ("1.2", {}, "say which version, as in: make release VERSION=1.2.3"),
        (VERSION, {"README.md": "other"}, "there are changes that are not committed"),
        ("9.8.8", {}, f"supervisor/__init__.py says {VERSION}, not 9.8.8"),
        (
            VERSION,
            {"CHANGELOG.md": "## [Unreleased]\n"},
            f"CHANGELOG.md has no line '## [{VERSION}] - YYYY-MM-DD'",
        ),
        (
            VERSION,
            {RECORD: None},
            f"there is no golden record of the format that this version writes: {RECORD}",
        ),
    ],
    ids=["no version", "half a version", "changes", "other version", "changelog", "golden record"],
)
def test_a_release_that_is_not_ready_is_refused_in_one_sentence(
    clone: Checkout, version: str, change: dict[str, str | None], sentence: str
) -> None:
    for name, text in change.items():
        if text is None:
            (clone.path / name).unlink()
        else:
            (clone.path / name).write_text(text)
    if "not committed" not in sentence:
        clone.commit()
    done = clone.run(".ci/release", version)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"not released: {sentence}\n")
    assert clone.git("tag") == ""
    assert not (clone.path / "dist").exists()


def test_a_version_is_released_once(released: Checkout, dist: Path) -> None:
    done = released.run(".ci/release", VERSION)
    assert done.stderr == f"not released: the tag v{VERSION} exists already\n"
    assert released.git("tag") == f"v{VERSION}\n"
