"""Configurations that another process validates, and those that a daemon has taken before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from supervisor.app.stores import last_configuration
from supervisor.app.stores.last_configuration import ConfigurationReader, LastConfiguration
from supervisor.config import Config, ConfigErrors
from supervisor.config.parse import parse
from supervisor.config.stored import config_as_plain, config_from_plain
from supervisor.core.exits import CannotStart
from supervisor.validation import Validator
from tests.config.test_resolved import every_kind
from tunnels.registry import KINDS

EXAMPLE = (Path(__file__).parents[2] / "config.example.yaml").read_text()
WRONG = """
facilitator: {nam: vpn1}
staff: {networks: [10.8.0.0/16]}
tunnels:
  acme: {kind: openvpn, destinations: [10.77.0.5/24], config: acme.ovpn}
"""


@pytest.mark.parametrize("text", [EXAMPLE, every_kind()], ids=["example", "every kind"])
def test_a_configuration_passes_through_json_as_it_is(text: str) -> None:
    config = parse(text, "/etc/facilitator/config.yaml", KINDS)
    assert config_from_plain(json.loads(json.dumps(config_as_plain(config))), KINDS) == config


def test_another_process_finds_the_same() -> None:
    validate = Validator()
    config = validate(EXAMPLE, "/etc/facilitator/config.yaml")
    assert config == parse(EXAMPLE, "/etc/facilitator/config.yaml", KINDS)
    assert validate(EXAMPLE, "/etc/facilitator/config.yaml") is config, "it is remembered"


def test_another_process_finds_the_same_mistakes() -> None:
    with pytest.raises(ConfigErrors) as expected:
        parse(WRONG, "/etc/facilitator/config.yaml", KINDS)
    validate = Validator()
    for _ in range(2):
        with pytest.raises(ConfigErrors) as found:
            validate(WRONG, "/etc/facilitator/config.yaml")
        assert found.value.problems == expected.value.problems
        assert found.value.warnings == expected.value.warnings


@pytest.mark.parametrize("program", [("/bin/false",), ("/bin/true",), ("/nonexistent",)])
def test_a_program_that_fails_is_a_sentence_and_the_next_one_may_succeed(program: tuple[str, ...]) -> None:
    validate = Validator(program=program)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(CannotStart, match="^the configuration could not be validated: "):
            validate(EXAMPLE, "c.yaml")
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_one_that_does_not_end_is_ended() -> None:
    with pytest.raises(CannotStart, match="timed out"):
        Validator(program=("/bin/sleep",), timeout=0.1)(EXAMPLE, "1000")


class CountingParse:
    """Parses here, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str, name: str) -> Config:
        self.calls += 1
        return parse(text, name, KINDS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file."""
    path = tmp_path / "config.yaml"
    path.write_text(f"facilitator: {{state_dir: {tmp_path}}}\n{every_kind()}")
    return path


def taken(file: Path) -> Config:
    """As a daemon leaves the file's directory that has taken the configuration."""
    good = ConfigurationReader(file, KINDS, CountingParse()).load()
    LastConfiguration(file, file.parent).keep(good.text, good.config)
    return good.config


def test_what_a_daemon_has_taken_is_not_parsed_again(file: Path) -> None:
    config, count = taken(file), CountingParse()
    reader = ConfigurationReader(file, KINDS, count)
    assert (reader.load().config, count.calls) == (config, 0)
    file.write_text(f"{file.read_text()}\n# changed\n")
    assert (reader.load().config, count.calls) == (config, 1)
    kept = file.parent / last_configuration.NAME
    assert kept.stat().st_mode & 0o777 == 0o600


def test_it_is_parsed_where_another_name_or_other_code_may_mean_something_else(file: Path) -> None:
    taken(file)
    count, link = CountingParse(), file.with_name("link.yaml")
    link.symlink_to(file)
    ConfigurationReader(link, KINDS, count).load()
    assert count.calls == 1
    ConfigurationReader(file, {}, count).load()
    assert count.calls == 2, "without these kinds the values cannot be read"
    kept = file.parent / last_configuration.NAME
    raw = json.loads(kept.read_text())
    for changed in (
        {"read_as": "other code"},
        {"config": {"tunnels": {"acme": {"kind": "none"}}}},
        {"config": []},
    ):
        kept.write_text(json.dumps({**raw, **changed}))
        ConfigurationReader(file, KINDS, count).load()
    assert count.calls == 5


def test_what_an_earlier_version_has_kept_is_parsed(file: Path) -> None:
    config, count = taken(file), CountingParse()
    kept = file.parent / last_configuration.NAME
    kept.write_text(json.dumps({"format": 1, "path": str(file.resolve()), "text": file.read_text()}))
    assert ConfigurationReader(file, KINDS, count).load().config == config
    assert count.calls == 1
