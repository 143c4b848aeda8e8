"""`make install HUB=1`: the files it puts onto a host, and the example of an OpenVPN server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hub.core.openvpn.server_config import FindingWeight, server_findings, server_options

REPOSITORY = Path(__file__).parents[2]


def test_the_units_come_and_go_and_the_daemon_is_not_among_them(tmp_path: Path) -> None:
    def setup(*words: str) -> set[str]:
        environment = {**os.environ, "DESTDIR": str(tmp_path)}
        subprocess.run(
            [REPOSITORY / "systemd/setup.sh", *words], check=True, env=environment, capture_output=True
        )
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    assert setup("install", "--hub") == {
        "etc/systemd/system/facilitator-hub-sessions.service",
        "etc/systemd/system/facilitator-hub-sidecar.service",
        "etc/sysusers.d/facilitator-hub.conf",
        "etc/tmpfiles.d/facilitator-hub.conf",
        "usr/local/share/facilitator/facilitator-hub.yaml",
        "usr/local/share/facilitator/openvpn-server.conf",
    }
    assert (tmp_path / "etc/facilitator-hub").is_dir()
    assert setup("uninstall") == set()
    assert setup("uninstall", "--purge") == set()
    assert not (tmp_path / "etc/facilitator-hub").exists()


def test_the_example_of_a_server_is_fine() -> None:
    text = (REPOSITORY / "examples/openvpn-server.conf").read_text()
    found = server_findings(server_options(text), "/run/facilitator-hub/management.sock")
    assert [each.weight for each in found] == [FindingWeight.OK]
