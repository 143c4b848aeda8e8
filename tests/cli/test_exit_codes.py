"""The exit codes of commands that talk to a daemon, where there is none, or one that says no."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.cli import main
from supervisor.core.exits import Exit

pytestmark = pytest.mark.slow

LOGS = ["logs", "acme-dc"]
COMMANDS = (
    ["status"],
    ["status", "acme-dc"],
    ["start", "acme-dc"],
    ["stop", "acme-dc"],
    ["restart", "acme-dc"],
    LOGS,
    ["reload"],
    ["health"],
    ["health", "acme-dc"],
)
HEAD = b"HTTP/1.1 200 OK\r\n"
BREAKS = {
    "nothing": b"",
    "junk": b"junk\r\n\r\n",
    "half": HEAD + b'Content-Length: 60\r\n\r\n{"tunnels": [',
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n40\r\nhalf a li",
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\na line\n\r\n",
}


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A daemon that gives every request the same answer and hangs up."""

    class ExitCodeHandler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingUnixStreamServer(str(path), ExitCodeHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def call(path: Path, command: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*command, "--socket", str(path)])
    return done.exit_code, done.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_daemon(tmp_path: Path, command: list[str]) -> None:
    code, said = call(tmp_path / "control.sock", command)
    assert code == Exit.NO_DAEMON
    assert said.count("\n") == 1
    assert "cannot connect to the daemon (" in said


@pytest.mark.parametrize("command", [*COMMANDS, ["plan"]], ids=" ".join)
@pytest.mark.parametrize(
    ("status", "expected"), [(b"403 Forbidden", Exit.NO_RIGHT), (b"503 Service Unavailable", Exit.FAILED)]
)
def test_no_is_an_answer(tmp_path: Path, command: list[str], status: bytes, expected: Exit) -> None:
    path = tmp_path / "control.sock"
    with answering(path, b"HTTP/1.1 " + status + b"\r\nContent-Length: 6\r\n\r\nfor me"):
        assert call(path, command) == (expected, "facilitator: for me\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("broken", BREAKS)
def test_a_daemon_that_dies_while_it_answers(tmp_path: Path, command: list[str], broken: str) -> None:
    if (command, broken) == (LOGS, "half"):
        pytest.skip("what may go on for ever has no length that could be missed")
    path = tmp_path / "control.sock"
    with answering(path, BREAKS[broken]):
        code, said = call(path, command)
    assert code == Exit.NO_DAEMON, said
    assert "cannot connect to the daemon (" in said


@pytest.mark.parametrize("command", ["status", "start", "stop", "restart", "logs"])
@pytest.mark.parametrize("name", ["../x", "a b?c", "ä", "", "A", "a/stop"])
def test_what_cannot_be_a_tunnel_is_wrong_usage(tmp_path: Path, command: str, name: str) -> None:
    code, said = call(tmp_path / "control.sock", [command, name])
    assert (code, "is not a valid tunnel name" in said) == (Exit.USAGE, True)


def test_watch_into_a_pipe_is_refused_in_one_sentence_at_once(tmp_path: Path) -> None:
    """There is a daemon: it is not asked."""
    code, said = call(tmp_path / "control.sock", ["status", "--watch"])
    assert code == Exit.USAGE
    assert said.count("\n") == 1
    assert "add --json" in said


def test_watch_as_json_is_one_document_a_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    body = b'{"facilitator": "vpn1", "tunnels": []}'
    command = [sys.executable, "-m", "supervisor", "status", "--watch", "--json", "--socket", str(path)]
    with (
        answering(path, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching,
    ):
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(2)]
        watching.terminate()
    assert [json.loads(line) for line in lines] == [json.loads(body)] * 2


@pytest.mark.parametrize(
    ("entry", "draining", "code", "said"),
    [
        ({}, False, Exit.OK, "acme-dc: up, healthy\n"),
        ({"health": "unknown"}, False, Exit.OK, "acme-dc: up, unknown\n"),
        ({"health": "unhealthy", "last_error": "no answer"}, False, Exit.FAILED, "no answer\n"),
        (
            {"phase": "backoff", "reason": "network"},
            False,
            Exit.FAILED,
            "acme-dc: backoff, healthy: network\n",
        ),
        ({"drain": {"left": 1}}, False, Exit.FAILED, "acme-dc: up, healthy, draining\n"),
        ({}, True, Exit.FAILED, "acme-dc: up, healthy, draining\n"),
        ({"name": "other"}, False, Exit.FAILED, "acme-dc: there is no such tunnel\n"),
    ],
)
def test_health_of_a_tunnel_is_one_line(
    tmp_path: Path, entry: dict[str, object], draining: bool, code: Exit, said: str
) -> None:
    well = {"name": "acme-dc", "phase": "up", "health": "healthy", "drain": None, "last_error": None}
    tunnel = {**well, "reason": "healthy", **entry}
    body = json.dumps({"facilitator": "vpn1", "draining": draining, "tunnels": [tunnel]}).encode()
    path = tmp_path / "control.sock"
    with answering(path, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body):
        got, text = call(path, ["health", "acme-dc"])
        assert (got, text.count("\n")) == (code, 1)
        assert text.endswith(said)
        assert call(path, ["health"])[0] == Exit.OK, "the daemon itself works in each of these cases"
