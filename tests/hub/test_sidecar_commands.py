"""`facilitator-hub profile`, `doctor` and `sidecar` as an operator meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli.main import main

SERVER = """\
topology subnet
server 10.8.0.0 255.255.0.0 nopool
keepalive 5 20
explicit-exit-notify 2
reneg-sec 3600
hand-window 180
auth-user-pass-optional
duplicate-cn
management {socket} unix
management-client-auth
management-hold
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose service does not run."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    tls = {name: str(tmp_path / f"{name}.pem") for name in ("certificate", "key", "ca")}
    people = tmp_path / "people"
    people.mkdir()
    for name in ("ca.crt", "alice.crt", "alice.key"):
        (people / name).write_text(f"PEM of {name}\n")
    path = tmp_path / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "sidecar": {
                    "management": str(directory / "management.sock"),
                    "sessions": {"url": "https://127.0.0.1:1", "tls": tls},
                },
                "profile": {
                    "remotes": ["a.example.net:1194", "[2001:db8::1]:1194"],
                    "ca": "people/ca.crt",
                    "certificates": "people",
                },
            }
        )
    )
    return path


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "-c", str(config)])


def test_a_profile_is_written_for_its_owner_only(config: Path) -> None:
    output = config.with_name("alice.ovpn")
    assert run(config, "profile", "alice", "--codes", "-o", str(output)).exit_code == 0
    assert output.stat().st_mode & 0o777 == 0o600
    lines = output.read_text().splitlines()
    assert "remote 2001:db8::1 1194" in lines
    assert "auth-retry interact" in lines
    assert "PEM of alice.key" in lines


@pytest.mark.parametrize(
    ("person", "said"), [("bob", "bob.crt: No such file"), ("../ca", "cannot be the name"), ("", "cannot be")]
)
def test_a_profile_of_nobody_is_refused(config: Path, person: str, said: str) -> None:
    result = run(config, "profile", person)
    assert result.exit_code != 0
    assert said in result.output


def test_the_doctor_names_what_does_not_fit(config: Path) -> None:
    server = config.with_name("server.conf")
    server.write_text(SERVER.format(socket=config.parent / "run" / "management.sock"))
    result = run(config, "doctor", str(server))
    assert result.exit_code == 1
    problems = [line for line in result.output.splitlines() if line.startswith("problem")]
    assert len(problems) == 2, result.output
    assert "keys are renegotiated" in problems[0]
    assert "the session service does not answer" in problems[1]
    (config.parent / "run").chmod(0o755)
    assert "controls the VPN server" in run(config, "doctor", str(server)).output


def test_a_sidecar_does_not_start_in_a_directory_that_others_can_enter(config: Path) -> None:
    (config.parent / "run").chmod(0o750)
    result = run(config, "sidecar")
    assert result.exit_code == 78


def test_commands_say_when_no_sidecar_runs(config: Path) -> None:
    result = CliRunner().invoke(main, ["sidecar", "-c", str(config), "drain"])
    assert result.exit_code == 1
    assert "no sidecar answers" in result.output


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("management", "run/m.sock", "sidecar.management: must be an absolute path"),
        ("management", "/" + "x" * 120, "longer than the 107 bytes"),
        ("heartbeat", "5", "sidecar.heartbeat"),
        ("hartbeat", "5s", "did you mean heartbeat"),
        ("drain", {"then": "restart"}, "sidecar.drain.then"),
    ],
)
def test_mistakes_in_the_configuration_are_named(config: Path, key: str, value: object, said: str) -> None:
    document = json.loads(config.read_text())
    document["sidecar"][key] = value
    config.write_text(json.dumps(document))
    result = CliRunner().invoke(main, ["sidecar", "-c", str(config), "status"])
    assert result.exit_code == 78
    assert said in result.output
