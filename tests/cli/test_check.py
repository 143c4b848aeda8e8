"""`facilitator check`: what it says beside the mistakes of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.cli import main

CONFIG = """\
staff: {networks: [10.8.0.0/16]}
tunnels:
  umbrella:
    kind: openfortivpn
    destinations: [10.150.0.0/16]
    server: vpn.umbrella.example
    login: {username: svc, password: {file: umbrella-password}}
"""


@pytest.mark.skipif(Path("/dev/ppp").exists(), reason="this host has PPP")
def test_a_host_without_ppp_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = CliRunner().invoke(main, ["check", "-c", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0, done.output
    assert "tunnels.umbrella: openfortivpn needs /dev/ppp, which this host does not have; kind: openconnect with protocol: fortinet" in (
        done.output
    )
