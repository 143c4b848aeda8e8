"""This checkout, installed on a machine as docs/deployment.md says: a virtual environment at /opt/facilitator, the unit, the user.

The environment borrows the packages of the environment that runs the tests, so that nothing is downloaded; our own two packages are copies.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from tests.packaging.container import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = REPOSITORY / "systemd" / "facilitator.service"
FACILITATOR = "/opt/facilitator/bin/facilitator"

_COMMAND = """#!/opt/facilitator/bin/python3
import sys
from supervisor.__main__ import main
sys.exit(main())
"""


def environment(target: Path) -> dict[Path, str]:
    """Make a virtual environment in an empty directory; what a machine must see of the host, and where."""
    interpreter = Path(sys.executable).resolve()
    ours = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for directory in (target / "bin", target / "packages", ours):
        directory.mkdir(parents=True)
    (target / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\ninclude-system-site-packages = false\n")
    (target / "bin" / "python3").symlink_to(interpreter)
    (target / "bin" / "facilitator").write_text(_COMMAND)
    (target / "bin" / "facilitator").chmod(0o755)
    for package in ("supervisor", "tunnels"):
        shutil.copytree(REPOSITORY / package, ours / package)
    (ours / "packages.pth").write_text("/opt/facilitator/packages\n")
    binds = {target: "/opt/facilitator", Path(sysconfig.get_path("purelib")).resolve(): "/opt/facilitator/packages"}
    base = Path(sys.base_prefix).resolve()
    return binds if base == Path("/usr") else {**binds, base: str(base)}     # an interpreter that is not Debian's comes along


def install(vm: Machine) -> None:
    """The user, the unit; not started."""
    vm.write("/etc/systemd/system/facilitator.service", UNIT.read_text())
    vm.write("/etc/sysusers.d/facilitator.conf", (REPOSITORY / "systemd" / "facilitator.sysusers.conf").read_text())
    vm.run("systemd-sysusers")
    vm.run("systemctl", "daemon-reload")


def put(vm: Machine, name: str, text: str) -> None:
    """A file in /etc/facilitator that the daemon can read and others cannot."""
    vm.write(f"/etc/facilitator/{name}", text, 0o640)
    vm.run("chgrp", "facilitator", f"/etc/facilitator/{name}")
