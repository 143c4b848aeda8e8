"""`facilitator try` before it logs in: what it refuses, and whose name it resolves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.app.trial import gateway
from supervisor.cli import main
from supervisor.config.parse import parse
from supervisor.core.exits import Exit
from tests.cli.test_import import CONF
from tunnels.registry import KINDS

TUNNEL = "staff: {{networks: [10.8.0.0/16]}}\ntunnels: {{acme: {{destinations: [10.77.0.0/24], {}}}}}\n"


def test_a_target_that_cannot_be_probed_is_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["try", "acme", "--probe", "tcp://10.77.0.10:99999"])
    assert done.exit_code == Exit.USAGE
    assert "a port is a number from 1 to 65535" in done.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may try")
def test_a_file_that_no_configuration_takes_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "acme.conf"
    file.write_text(CONF.replace("10.160.0.0/16", "198.51.100.0/25"))  # the users' network of the trial
    done = CliRunner().invoke(main, ["try", str(file), "-c", str(tmp_path / "config.yaml")])
    assert done.exit_code == Exit.CONFIG, (done.output, done.exception)
    assert "198.51.100.0/25" in done.output


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ('kind: openconnect, server: "[2001:db8::1]:4443", login: {username: x}', ("2001:db8::1", 4443)),
        ("kind: openconnect, server: vpn.example.net, login: {username: x}", ("vpn.example.net", 443)),
        ("kind: openvpn, config: acme.ovpn", None),
    ],
)
def test_the_gateway_that_the_settings_name(settings: str, named: tuple[str, int] | None) -> None:
    tunnel = parse(TUNNEL.format(settings), "config.yaml", KINDS).tunnels["acme"]
    assert gateway(tunnel, KINDS[tunnel.kind]) == named
