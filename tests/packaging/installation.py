"""This checkout, installed on a machine as `make install` does it: a virtual environment at
/opt/facilitator, the unit, the user.

The environment borrows the packages of the environment that runs the tests, so that nothing is downloaded;
our own two packages are copies. For `make install` itself there is what it needs: the checkout, and in the
place of a package index the locked wheels.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.packaging.container import CACHE, Machine
from tests.packaging.lock import RUNTIME

REPOSITORY = Path(__file__).resolve().parents[2]
FACILITATOR = "/opt/facilitator/bin/facilitator"

SOURCE = "/usr/src/facilitator"  # this checkout, read-only
WHEELS = f"{SOURCE}/wheels"
EXAMPLES = "/usr/local/share/facilitator"
_COMMAND = """#!/opt/facilitator/bin/python3
import sys
from supervisor.__main__ import main
sys.exit(main())
"""


def environment(target: Path) -> dict[Path, str]:
    """Make a virtual environment in an empty directory; what a machine must see of the host, and where."""
    interpreter = Path(sys.executable).resolve()
    ours = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for directory in (target / "bin", ours):
        directory.mkdir(parents=True)
    (target / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\ninclude-system-site-packages = false\n")
    (target / "bin" / "python3").symlink_to(interpreter)
    (target / "bin" / "facilitator").write_text(_COMMAND)
    (target / "bin" / "facilitator").chmod(0o755)
    for package in ("common", "hub", "supervisor", "tunnels"):
        shutil.copytree(REPOSITORY / package, ours / package)
    (ours / "packages.pth").write_text(f"{SOURCE}/packages\n")
    binds = {
        target: f"{SOURCE}/opt",
        REPOSITORY / "systemd": f"{SOURCE}/systemd",
        REPOSITORY / "config.example.yaml": f"{SOURCE}/config.example.yaml",
        Path(click.__file__).resolve().parents[1]: f"{SOURCE}/packages",
    }
    return {**binds, **foreign_interpreter()}


def foreign_interpreter() -> dict[Path, str]:
    """One that is not Debian's comes along."""
    base = Path(sys.base_prefix).resolve()
    return {} if base == Path("/usr") else {base: str(base)}


def sources(target: Path) -> dict[Path, str]:
    """Put what `make install` takes of a checkout into an empty directory; that and the locked wheels are
    what a machine must see.
    """
    checkout = target / "checkout"
    for name in ("common", "hub", "supervisor", "tunnels", "systemd", ".ci", "requirements"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "LICENSE",
        "Makefile",
        "README.md",
        "pyproject.toml",
        "setup.cfg",
        "setup.py",
        "config.example.yaml",
    ):
        shutil.copy(REPOSITORY / name, checkout / name)
    return {checkout: f"{SOURCE}/checkout", wheels(): WHEELS, **foreign_interpreter()}


def wheels() -> Path:
    """What is locked for run time, as wheels for this interpreter: downloaded at the first call, kept in
    the cache.
    """
    recipe = hashlib.sha256(RUNTIME.read_bytes() + sys.version.encode()).hexdigest()[:12]
    kept = CACHE.with_name("wheels") / recipe
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as unfinished:
            pip = (
                sys.executable,
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "download",
                "--require-hashes",
            )
            subprocess.run([*pip, f"--requirement={RUNTIME}", f"--dest={unfinished}/all"], check=True)
            Path(unfinished, "all").rename(kept)
    return kept


def install(vm: Machine) -> None:
    """The user, the unit, an example configuration; not started."""
    vm.run("cp", "--archive", f"{SOURCE}/opt", "/opt/facilitator")
    vm.run(f"{SOURCE}/systemd/setup.sh", "install")


def put(vm: Machine, name: str, text: str) -> None:
    """A file in /etc/facilitator that the daemon can read and others cannot."""
    vm.write(f"/etc/facilitator/{name}", text, 0o640)
    vm.run("chgrp", "facilitator", f"/etc/facilitator/{name}")
