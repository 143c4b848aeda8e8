"""`facilitator doctor` as a person or a script meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from supervisor.cli import main
from supervisor.core.preflight.finding import Finding, Severity, info, ok, problem, warning
from tests.doctor.test_host import HostTree
from tests.netns import Namespace


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_a_wrong_configuration_is_78(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("tunnels: {acme: {kind: openvpn}}\n")
    done = doctor("-c", str(config))
    assert done.exit_code == 78
    assert f"{config}:1:" in done.stderr
    assert done.stdout == ""
    assert doctor("-c", str(tmp_path / "none")).exit_code == 78


def test_problems_are_1_and_their_remedies_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    host = HostTree(tmp_path)
    (host.root / "key").unlink()
    done = doctor("-c", str(host.file))
    assert (done.exit_code, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    at = lines.index(f"  problem own: identity: no file {host.root}/key")
    assert (
        lines[at + 1].strip()
        == f"install -m 0640 -g facilitator /dev/stdin {host.root}/key   # paste it, Ctrl-D"
    )
    assert "problem" in lines[-1]


@pytest.mark.root
def test_a_fit_host_is_0(tmp_path: Path, netns: Namespace) -> None:
    host = HostTree(tmp_path)
    done = doctor("--json", "-c", str(host.file))
    said = json.loads(done.stdout)
    assert (done.exit_code, said["fit"], done.stderr) == (0, True, "")
    assert all(set(finding) == {"severity", "subject", "text", "remedy"} for finding in said["findings"])


def test_the_table_of_findings(capsys: pytest.CaptureFixture[str]) -> None:
    from supervisor.cli.findings import print_findings

    print_findings(
        [
            ok("a", "fine [bold]"),
            info("a", "known"),
            warning("b", "soon", "do x"),
            problem("c", "x" * 300, "y" * 300),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "a",
        "  ok      fine [bold]",
        "  info    known",
        "b",
        "  warning soon",
        "          do x",
        "c",
        "  problem " + "x" * 300,
        "          " + "y" * 300,
        "",
        "1 problem, 1 warning",
    ]
    print_findings([Finding(Severity.OK, "a", "fine")])
    assert capsys.readouterr().out.splitlines()[-1] == "no problems found"
