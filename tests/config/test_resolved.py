"""The settings that result from a file: complete, marked, readable as a file again, and free of secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.quantities import duration_text, parse_duration
from supervisor.config import Config
from supervisor.config.parse import parse
from supervisor.config.resolved import changes, chosen, resolved, tree
from tests.tunnels.test_kinds import EXAMPLES
from tunnels.registry import KINDS

EXAMPLE = (Path(__file__).parents[2] / "config.example.yaml").read_text()
SMALL = """\
staff: {networks: [10.8.0.0/16]}
defaults: {probe: {interval: 7s}}
tunnels:
  acme:
    kind: openvpn
    destinations: [10.77.0.0/24]
    description: "yes: it's [ours]"
    config: /etc/acme.ovpn
    login: {username: "0123", password: {file: acme-password}}
"""


def read(text: str) -> Config:
    return parse(text, "/etc/facilitator/c.yaml", KINDS)


def as_file(config: Config) -> str:
    return "".join(f"{line}\n" for line in tree(resolved(config)))


def every_kind() -> str:
    tunnels = {
        name: {"kind": name, "destinations": [f"10.{number}.0.0/16"], **options, "device": f"t-{name[:8]}"}
        for number, (name, (options, _)) in enumerate(EXAMPLES.items(), 20)
        if name not in ("command", "sshuttle")
    }
    return yaml.safe_dump({"staff": {"networks": ["10.8.0.0/16"]}, "tunnels": tunnels})


@pytest.mark.parametrize("text", [EXAMPLE, SMALL, every_kind()], ids=["example", "small", "every kind"])
def test_the_tree_is_a_file_with_the_same_meaning(text: str) -> None:
    config = read(text)
    again = read(as_file(config))
    assert replace(again, **{"warnings": config.warnings}) == config


def test_defaults_are_marked_and_what_was_chosen_is_not() -> None:
    lines = [line.strip() for line in tree(resolved(read(SMALL)))]
    assert "interval: 7s" in lines, "it stands under defaults: in the file, so it was chosen"
    assert "timeout: 2s  # default" in lines
    assert "password: {file: acme-password}" in lines
    assert chosen(read(SMALL)) == {
        "staff.networks": "[10.8.0.0/16]",
        "tunnels.acme.kind": "openvpn",
        "tunnels.acme.description": '"yes: it\'s [ours]"',
        "tunnels.acme.destinations": "[10.77.0.0/24]",
        "tunnels.acme.login.username": '"0123"',
        "tunnels.acme.login.password": "{file: acme-password}",
        "tunnels.acme.probe.interval": "7s",
        "tunnels.acme.config": "/etc/acme.ovpn",
    }


def test_a_difference_names_each_setting_with_both_values() -> None:
    new = SMALL.replace("7s", "1m").replace("[10.77.0.0/24]", "[10.77.0.0/24, 10.78.0.0/24]")
    assert list(changes(read(SMALL), read(new))) == [
        "tunnels.acme.destinations: [10.77.0.0/24] -> [10.77.0.0/24, 10.78.0.0/24]",
        "tunnels.acme.probe.interval: 7s -> 1m",
    ]
    gone = list(changes(read(SMALL), read("staff: {networks: [10.8.0.0/16]}\ntunnels: {}\n")))
    assert "tunnels.acme.kind: openvpn -> absent" in gone
    assert list(changes(read(SMALL), read(SMALL))) == []


@given(st.integers(10, 10**9))
def test_a_duration_is_read_as_it_was_written(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    if seconds < 10**8:
        assert parse_duration(duration_text(seconds)) == pytest.approx(seconds, rel=1e-9)
