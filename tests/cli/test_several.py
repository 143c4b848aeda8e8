"""Several tunnels at once, and the choice and order of rows, with a daemon that answers by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from supervisor.cli import main
from supervisor.cli.selection import selected
from supervisor.core.exits import Exit
from tests.cli.stand_in import StandInHandler, answering

NOW = "2026-01-01T00:00:00Z"
BROKEN = "broken"  # a tunnel in whose log the daemon ends


def tunnel(name: str, kind: str, phase: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "phase": phase,
        "health": "healthy" if phase == "up" else "unknown",
        "want": "up",
        "reason": "connected" if phase == "up" else "network",
        "since": NOW,
        "carries": [],
        "destinations": ["10.77.0.0/24"],
        "session": None,
        "reconnects": 0,
        "next_attempt": None,
        "last_error": None if phase == "up" else "no answer",
        "asks": None,
        "drain": None,
        "probe_rtt_seconds": None,
        "degraded": None,
        **fields,
    }


SESSION = {"id": "7", "pid": 42, "device": "fac1", "address": "10.78.0.2", "peer": None, "path_mtu": 1400}
TUNNELS = {
    each["name"]: each
    for each in (
        tunnel("acme-dc", "openvpn", "up", session=SESSION | {"started": NOW, "port": None}),
        tunnel("globex", "openconnect", "backoff", next_attempt=NOW),
        tunnel("own-cloud", "openvpn", "up", degraded="slow", probe_rtt_seconds=0.2),
    )
}
EVENT = {
    "at": NOW,
    "before": "starting",
    "after": "up",
    "health": "unknown",
    "reason": "connected",
    "text": "",
}


class SeveralHandler(StandInHandler):
    """Answers orders with the tunnel's state."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/v1/")
        name = path.split("/")[1] if path.startswith("tunnels/") else ""
        answers = {
            "status": {
                "facilitator": "vpn1",
                "started": NOW,
                "draining": False,
                "tunnels": [*TUNNELS.values()],
            },
            "history": {"transitions": [EVENT]},
        }
        if path == "/metrics":
            body = (
                b'facilitator_tunnel_receive_bytes_total{tunnel="acme-dc"} 4.2e+06\n'
                b'facilitator_tunnel_transmit_bytes_total{tunnel="acme-dc"} 1000.0\n'
            )
        elif path.endswith("/logs"):
            body = f"hello from {name}\n".encode()
        elif name:
            body = json.dumps(TUNNELS[name]).encode()
        else:
            body = json.dumps(answers[path]).encode()
        if name == BROKEN:
            self._break_off(body)
        else:
            self.send(body)

    def _break_off(self, body: bytes) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Connection", "close")
        self.send_header("Transfer-Encoding", "chunked")  # and no last chunk
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))

    do_POST = do_GET


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with answering(tmp_path_factory.mktemp("several") / "control.sock", SeveralHandler) as path:
        yield path


def call(daemon: Path, *command: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*command, "--socket", str(daemon)])
    return done.exit_code, done.output


def test_several_are_ordered_at_once_and_reported_in_order(daemon: Path) -> None:
    code, said = call(daemon, "restart", "own-cloud", "acme-dc")
    assert (code, said) == (Exit.OK, "own-cloud: up (connected)\nacme-dc: up (connected)\n")
    code, said = call(daemon, "restart", "--kind", "openvpn")
    assert (code, said.count("\n")) == (Exit.OK, 2)
    code, said = call(daemon, "start", "--all")
    assert code == Exit.FAILED
    assert "acme-dc: up (connected)\n" in said
    assert "facilitator: globex: backoff (network); no answer; see: facilitator logs globex\n" in said


def test_orders_as_json(daemon: Path) -> None:
    code, said = call(daemon, "stop", "acme-dc", "--drain", "--json")
    assert code == Exit.FAILED, "it is still up"
    assert json.loads(said[: said.rindex("}") + 1])["tunnels"] == [TUNNELS["acme-dc"]]


def test_no_tunnel_at_all_is_wrong_usage(daemon: Path) -> None:
    assert call(daemon, "restart")[0] == Exit.USAGE
    assert call(daemon, "logs")[0] == Exit.USAGE


def test_logs_of_several_name_the_tunnel(daemon: Path) -> None:
    assert call(daemon, "logs", "acme-dc") == (Exit.OK, "hello from acme-dc\n")
    assert call(daemon, "logs", "acme-dc", "globex") == (
        Exit.OK,
        "acme-dc  hello from acme-dc\nglobex   hello from globex\n",
    )
    code, said = call(daemon, "logs", "--all", "--json")
    assert [json.loads(line)["tunnel"] for line in said.splitlines()] == [*TUNNELS]


def test_logs_of_several_whose_daemon_breaks_off_do_not_end_well(daemon: Path) -> None:
    code, said = call(daemon, "logs", "acme-dc", "globex", "-f")
    assert code == Exit.OK, said
    code, said = call(daemon, "logs", "acme-dc", BROKEN, "-f")
    assert code == Exit.NO_DAEMON
    assert "hello from acme-dc" in said
    assert "the connection broke" in said


def test_an_order_without_an_answer_is_an_exit_code(daemon: Path) -> None:
    assert call(daemon.with_name("none.sock"), "restart", "acme-dc", "globex")[0] == Exit.NO_DAEMON


def test_one_tunnel_in_detail(daemon: Path) -> None:
    code, said = call(daemon, "status", "acme-dc")
    assert code == Exit.OK
    for part in ("fac1", "10.78.0.2", "1400 bytes", "4.2 MB received, 1.0 kB sent", "process 42"):
        assert part in said
    assert f"{NOW}  starting -> up, unknown: connected" in said
    assert "hello from acme-dc" in said
    assert "the next attempt, at" in call(daemon, "status", "globex")[1]
    code, said = call(daemon, "status", "globex", "--state", "up")
    assert code == Exit.OK, said
    assert "globex" not in said


def test_rows_are_chosen_and_sorted(daemon: Path) -> None:
    document: Any = {"tunnels": [*TUNNELS.values()]}

    def names(states: tuple[str, ...], sort: str | None) -> list[str]:
        return [entry["name"] for entry in selected(document, states, sort)["tunnels"]]

    assert names((), None) == ["acme-dc", "globex", "own-cloud"]
    assert names(("up",), "rtt") == ["own-cloud", "acme-dc"]
    assert names((), "state") == ["globex", "own-cloud", "acme-dc"]
    assert names(("degraded", "backoff"), None) == ["globex", "own-cloud"]
    wide = call(daemon, "status", "-o", "wide")[1]
    assert "RECEIVED" in wide
    assert "4.2 MB" in wide
