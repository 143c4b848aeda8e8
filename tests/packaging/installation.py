"""This checkout, installed on a machine as `make install` does it: a virtual environment at /opt/facilitator, the unit, the user.

The environment borrows the packages of the environment that runs the tests, so that nothing is downloaded; our own two packages are copies.
For `make install` itself there is what it needs: the checkout, and in the place of a package index the same packages as wheels.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import shutil
import sys
import zipfile
from pathlib import Path

import click
from packaging.requirements import Requirement

from tests.packaging.container import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
FACILITATOR = "/opt/facilitator/bin/facilitator"

SOURCE = "/usr/src/facilitator"             # this checkout, read-only
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
    for package in ("supervisor", "tunnels"):
        shutil.copytree(REPOSITORY / package, ours / package)
    (ours / "packages.pth").write_text(f"{SOURCE}/packages\n")
    binds = {
        target: f"{SOURCE}/opt", REPOSITORY / "systemd": f"{SOURCE}/systemd",
        REPOSITORY / "config.example.yaml": f"{SOURCE}/config.example.yaml",
        Path(click.__file__).resolve().parents[1]: f"{SOURCE}/packages",
    }
    return {**binds, **foreign_interpreter()}


def foreign_interpreter() -> dict[Path, str]:
    """One that is not Debian's comes along."""
    base = Path(sys.base_prefix).resolve()
    return {} if base == Path("/usr") else {base: str(base)}


def sources(target: Path) -> dict[Path, str]:
    """Put what `make install` takes of a checkout, and the wheels that it installs, into an empty directory; what a machine must see."""
    checkout, wheels = target / "checkout", target / "wheels"
    for name in ("supervisor", "tunnels", "systemd", ".ci"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "README.md", "pyproject.toml", "setup.cfg", "config.example.yaml"):
        shutil.copy(REPOSITORY / name, checkout / name)
    wheels.mkdir()
    for distribution in _required():
        _wheel(distribution, wheels)
    return {checkout: f"{SOURCE}/checkout", wheels: WHEELS, **foreign_interpreter()}


def _required() -> list[importlib.metadata.Distribution]:
    """What this package needs, and what that needs."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    todo, found = setup["options"]["install_requires"].split("\n"), dict[str, importlib.metadata.Distribution]()
    while todo:
        requirement = Requirement(line) if (line := todo.pop()) else None
        if requirement is None or requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = importlib.metadata.distribution(requirement.name)
        todo += found[requirement.name].requires or []
    return list(found.values())


def _wheel(distribution: importlib.metadata.Distribution, target: Path) -> None:
    """Pack an installed distribution as the wheel that it came from; its programs pip makes anew."""
    tags = [line.split()[1].split("-") for line in (distribution.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    python, abi, platform = (".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    name = f"{distribution.name.replace('-', '_')}-{distribution.version}-{python}-{abi}-{platform}.whl"
    with zipfile.ZipFile(target / name, "w") as wheel:
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                wheel.write(distribution.locate_file(file), file)


def install(vm: Machine) -> None:
    """The user, the unit, an example configuration; not started."""
    vm.run("cp", "--archive", f"{SOURCE}/opt", "/opt/facilitator")
    vm.run(f"{SOURCE}/systemd/setup.sh", "install")


def put(vm: Machine, name: str, text: str) -> None:
    """A file in /etc/facilitator that the daemon can read and others cannot."""
    vm.write(f"/etc/facilitator/{name}", text, 0o640)
    vm.run("chgrp", "facilitator", f"/etc/facilitator/{name}")
