"""This checkout, installed on a machine as `make install` does it: a virtual environment at /opt/facilitator, the unit, the user.

The environment borrows the packages of the environment that runs the tests, so that nothing is downloaded; our own two packages are copies.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from tests.packaging.container import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
FACILITATOR = "/opt/facilitator/bin/facilitator"

SOURCE = "/usr/src/facilitator"             # this checkout, read-only
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
    base = Path(sys.base_prefix).resolve()
    return binds if base == Path("/usr") else {**binds, base: str(base)}     # an interpreter that is not Debian's comes along


def install(vm: Machine) -> None:
    """The user, the unit, an example configuration; not started."""
    vm.run("cp", "--archive", f"{SOURCE}/opt", "/opt/facilitator")
    vm.run(f"{SOURCE}/systemd/setup.sh", "install")


def put(vm: Machine, name: str, text: str) -> None:
    """A file in /etc/facilitator that the daemon can read and others cannot."""
    vm.write(f"/etc/facilitator/{name}", text, 0o640)
    vm.run("chgrp", "facilitator", f"/etc/facilitator/{name}")
