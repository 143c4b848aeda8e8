"""Writes the transcripts anew, from the real programs: `python -m tests.tunnels.record` as root. Look at
what changed.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.tunnels.driver import ClientRun
from tests.tunnels.openvpn_lab import OpenVPNLab
from tests.tunnels.scenarios import OPENVPN, SSHUTTLE
from tests.tunnels.ssh_lab import SshLab

FOLDER = Path(__file__).parent / "transcripts"


def _write(kind: str, name: str, run: ClientRun, directory: Path) -> None:
    lines = (
        re.sub(r"(?<=\b)1\d{9}(?=,)", "1700000000", line.replace(str(directory), "/lab"))
        for line in run.transcript
    )
    (FOLDER / f"{kind}-{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def main(wanted: Iterable[str]) -> None:
    """Record the named scenarios, or all."""
    names = set(wanted)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "openvpn").mkdir()
        (directory / "ssh").mkdir()
        lab, ssh_lab = OpenVPNLab(directory / "openvpn"), SshLab(directory / "ssh")
        try:
            for scenario in OPENVPN:
                if not names or scenario.name in names:
                    _write("openvpn", scenario.name, scenario.play(lab), directory)
            for ssh_scenario in SSHUTTLE:
                if not names or ssh_scenario.name in names:
                    _write("sshuttle", ssh_scenario.name, ssh_scenario.play(ssh_lab), directory)
        finally:
            lab.close()
            ssh_lab.close()


if __name__ == "__main__":
    main(sys.argv[1:])
