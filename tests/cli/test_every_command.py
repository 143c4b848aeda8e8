"""What every command has: help with an example, JSON where it answers, completion, a part of the man page."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from supervisor.cli import main
from supervisor.cli.completion import script
from supervisor.cli.manual import command_page, commands, settings_page, write
from supervisor.config.markdown_tables import sections
from tunnels.registry import KINDS

ALL = dict(commands(main))
BY_NAME = {" ".join(path): command for path, command in ALL.items()}
# These print what is no answer about the daemon or the host: a log, a script, a file that they write.
WITHOUT_JSON = {"run", "close", "cleanup", "completion", "init", "import"}
# These are no tunnel that the daemon knows.
TUNNEL_PARAMETERS = ("tunnel", "tunnels")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """The configuration file of a daemon with two tunnels."""
    body = json.dumps({"tunnels": [{"name": "acme-dc"}, {"name": "own-cloud"}]}).encode()

    class CompletionHandler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    path = tmp_path / "control.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), CompletionHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = tmp_path / "config.yaml"
        config.write_text(f"facilitator: {{runtime_dir: {tmp_path}}}")
        yield config
        server.shutdown()


@pytest.mark.parametrize("name", BY_NAME)
def test_help_has_an_example(name: str) -> None:
    done = CliRunner().invoke(main, [*name.split(), "--help"])
    assert done.exit_code == 0
    assert "Example:" in done.output
    assert f"facilitator {name}" in done.output.partition("Example:")[2]


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in WITHOUT_JSON])
def test_a_command_that_answers_has_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in BY_NAME[name].params)


def completed(name: str, begun: str, *before: str) -> set[str]:
    shell = BashComplete(main, {}, "facilitator", "_FACILITATOR_COMPLETE")
    return {item.value for item in shell.get_completions([*name.split(), *before], begun)}


@pytest.mark.parametrize("name", BY_NAME)
def test_the_shell_completes_it(name: str) -> None:
    *group, last = name.split()
    assert last in completed(" ".join(group), last[:2])
    assert "--help" in completed(name, "--h")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, command in BY_NAME.items()
        if any(isinstance(each, click.Argument) and each.name in TUNNEL_PARAMETERS for each in command.params)
    ],
)
def test_the_shell_completes_tunnels(name: str, daemon: Path) -> None:
    assert completed(name, "", "-c", str(daemon)) >= {"acme-dc", "own-cloud"}
    assert completed(name, "ac", "-c", str(daemon)) == {"acme-dc"}
    assert not completed(name, "ac", "-c", f"{daemon}.gone")


def test_the_manual_has_every_command_and_every_setting(tmp_path: Path) -> None:
    page = command_page(main).replace("\\-", "-")
    for name in BY_NAME:
        assert f'.SS "{name} ' in page
    settings = settings_page(KINDS).replace("\\-", "-")
    for section in sections(KINDS):
        for path, _, _ in section.rows:
            assert f".B {path}\n" in settings
    write(tmp_path)
    for written in ("man/man1/facilitator.1", "man/man5/facilitator.yaml.5"):
        if shutil.which("groff") is not None:
            done = subprocess.run(
                ["groff", "-man", "-ww", "-Tutf8", "-z", tmp_path / written],
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_this_shell(shell: str, tmp_path: Path) -> None:
    text = CliRunner().invoke(main, ["completion", shell]).output
    assert text.strip() == script(shell).strip()
    assert "_FACILITATOR_COMPLETE" in text
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)
