"""`facilitator init`: the first configuration of a host."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.cli import main


def run(config: Path, *arguments: str, answers: str = "") -> tuple[int, str]:
    """Exit code and output."""
    done = CliRunner().invoke(main, [*arguments[:1], "-c", str(config), *arguments[1:]], input=answers)
    return done.exit_code, done.output


@pytest.mark.parametrize("pager", ["pagerduty", "webhook", "none"])
def test_check_accepts_it_and_nothing_is_overwritten(tmp_path: Path, pager: str) -> None:
    config = tmp_path / "new/config.yaml"
    code, said = run(
        config, "init", "--yes", "--staff", "10.8.0.0/16", "--staff", "fd00::/64", "--pager", pager
    )
    assert code == 0, said
    code, said = run(config, "check")
    assert code == 0, said
    before = config.read_text()
    code, said = run(config, "init", "--yes", "--staff", "10.9.0.0/16")
    assert (code, config.read_text()) == (1, before)
    assert "exists and is left as it is" in said


def test_it_asks(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    code, said = run(config, "init", answers="vpn1\n10.8.0.5/16\n10.8.0.0/16\npagerduty\n")
    assert code == 0, said
    assert "host bits set" in said
    assert f"{tmp_path}/pagerduty-routing-key" in said
    assert 'name: "vpn1"' in config.read_text()
    assert run(config, "check")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--yes",),
        ("--yes", "--staff", "0.0.0.0/0"),
        ("--yes", "--staff", "x"),
        ("--yes", "--staff", "10.8.0.0/16", "--name", 'a"b'),
    ],
)
def test_wrong_options_write_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(tmp_path / "config.yaml", "init", *arguments)[0] == 2
    assert not list(tmp_path.iterdir())
