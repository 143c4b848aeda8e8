"""What commands print, whatever the daemon says: nothing of it controls the terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.output import Painted, paint
from tests.cli.hostile import WORDS, on_terminal, remains
from tests.cli.stand_in import StandInHandler, answering
from tunnels.text import clean, one_line

NOW = "2026-01-01T00:00:00Z"
ENTRY: dict[str, Any] = {
    "name": f"acme{WORDS}",
    "kind": WORDS,
    "phase": "backoff",
    "health": "unknown",
    "want": "up",
    "carries": [WORDS],
    "reason": WORDS,
    "since": NOW,
    "session": {"id": "1", "pid": 1, "device": WORDS, "address": WORDS, "started": NOW, "peer": WORDS},
    "reconnects": 0,
    "next_attempt": None,
    "last_error": WORDS,
    "asks": {"text": WORDS},
    "drain": None,
    "probe_rtt_seconds": None,
    "degraded": WORDS,
}
STATUS = {
    "facilitator": WORDS,
    "version": WORDS,
    "pid": 1,
    "started": NOW,
    "closed_since": None,
    "draining": False,
    "tunnels": [{**ENTRY, "name": "acme"}],
    "conditions": [{"name": WORDS, "text": WORDS, "severity": "warning"}],
    "upgrades": 0,
}
NUMBERS = {
    name: 1
    for name in (
        "failures",
        "by_hand",
        "mttr_seconds",
        "mtbf_seconds",
        "up_seconds",
        "degraded_seconds",
        "down_seconds",
        "unwatched_seconds",
        "stopped_seconds",
    )
}
RECEIVER = {
    "name": WORDS,
    "configured": True,
    "store_usable": True,
    "pending": 0,
    "oldest": WORDS,
    "last_error": WORDS,
    "trigger": WORDS,
    "resolve": WORDS,
    "taken": True,
    "incidents": [{"since": NOW, "name": WORDS, "there": WORDS, "waits": None}],
    "refused": [{"at": NOW, "action": WORDS, "dedup_key": WORDS, "error": WORDS}],
}
ANSWERS: dict[str, Any] = {
    "/api/v1/status": STATUS,
    "/api/v1/why": {
        "outcome": "down",
        "verdict": WORDS,
        "steps": [{"state": "problem", "name": WORDS, "text": WORDS}],
    },
    "/api/v1/plan": {
        "lanes": {"1": WORDS},
        "wanted": [f"route {WORDS}", f"rule {WORDS}", f"element {WORDS}"],
        "changes": [f"+ {WORDS}"],
    },
    "/api/v1/history": {
        "facilitator": WORDS,
        "problem": WORDS,
        "tunnels": [
            {
                "name": "acme",
                "kind": WORDS,
                "last_day": ["up"],
                "availability": {"1h": {"ratio": 1.0, **NUMBERS, "deaths": {"acme": {WORDS: 1}}}},
            }
        ],
        "sessions": [
            {
                "started": NOW,
                "tunnel": WORDS,
                "id": WORDS,
                "device": WORDS,
                "address": WORDS,
                "lasted": 1.0,
                "ended": NOW,
                "flows": 1,
                "received": 1,
                "sent": 1,
                "reason": WORDS,
                "text": WORDS,
                "port": None,
            }
        ],
        "incidents": [{"opened": NOW, "closed": None, "name": WORDS, "severity": WORDS, "summary": WORDS}],
        "transitions": [
            {
                "at": NOW,
                "before": WORDS,
                "after": WORDS,
                "health": WORDS,
                "lasted": 1.0,
                "rung": WORDS,
                "reason": WORDS,
                "text": WORDS,
            }
        ],
    },
    "/api/v1/alerts": {"receivers": [RECEIVER]},
    "/api/v1/alerts/test": {"receivers": [RECEIVER]},
    "/api/v1/audit": {
        "file": WORDS,
        "events": {WORDS: 1},
        "lost": 0,
        "problem": WORDS,
        "totals": [
            {"tunnel": WORDS, "source": WORDS, "flows": 1, "open": 1, "sent_bytes": 1, "received_bytes": 1}
        ],
    },
    "/api/v1/tunnels/acme/question": {"text": WORDS},
    "/api/v1/tunnels/acme/answer": {**ENTRY, "asks": None},
    "/api/v1/tunnels/acme/start": ENTRY,
    "/api/v1/tunnels/acme/stop": {**ENTRY, "phase": "stopped"},
    "/api/v1/reload": {"done": [WORDS], "errors": [WORDS]},
    "/api/v1/drain": {
        "tunnels": [{"name": WORDS, "drain": {"flows_left": 1, "longest_idle_seconds": 1.0, "until": WORDS}}]
    },
    "/api/v1/upgrade": {"errors": [WORDS]},
}
COMMANDS = (
    ["status"],
    ["status", "acme"],
    ["answer", "acme"],
    ["why", "10.77.0.10"],
    ["history"],
    ["history", "acme"],
    ["logs", "acme"],
    ["alerts"],
    ["alerts", "--test"],
    ["audit"],
    ["plan"],
    ["start", "acme"],
    ["stop", "acme"],
    ["reload"],
    ["drain"],
    ["upgrade"],
    ["status", "--json"],
    ["why", "10.77.0.10", "--json"],
    ["history", "--json"],
    ["alerts", "--json"],
    ["audit", "--json"],
)


class HostileHandler(StandInHandler):
    """Answers with hostile words, whatever is asked."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/v1/tunnels/acme/logs":
            self.send(f"first {WORDS}\nsecond {WORDS}\n".encode(errors="surrogatepass"))
        elif path in ANSWERS:
            self.send(json.dumps(ANSWERS[path]).encode())
        else:
            self.send(WORDS.encode(), 503)

    do_POST = do_GET


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with answering(tmp_path_factory.mktemp("hostile") / "control.sock", HostileHandler) as path:
        yield path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_lets_it_reach_the_terminal(hostile: Path, command: list[str]) -> None:
    printed = on_terminal(
        [sys.executable, "-m", "supervisor", *command, "--socket", str(hostile)], typed="42"
    )
    assert "answer" in printed, printed
    assert "Traceback" not in printed, printed
    assert remains(printed) == []


def test_the_check_itself_sees_each_of_them() -> None:
    assert all(
        remains(letter)
        for letter in WORDS.removesuffix(" answer")
        if not letter.isascii() or not letter.isprintable()
    )
    assert remains(f"{paint('x', 'red')}\r\n") == []


def test_colours_go_around_clean_text() -> None:
    assert paint(WORDS, "red") == "\x1b[31m answer\x1b[0m"
    assert isinstance(paint("x"), Painted)


def test_all_of_the_command_line_prints_in_one_place() -> None:
    package = Path(__file__).parents[2] / "supervisor" / "cli"
    allowed = {"output.py", "screen.py"}
    printing = re.compile(
        r"click\.(?:echo|secho|style|prompt|confirm)\(|\bConsole\(|(?<![\w.])print\(|json\.dumps\(|sys\.stdout"
    )
    assert not [
        path.name
        for path in package.glob("*.py")
        if path.name not in allowed and printing.search(path.read_text())
    ]


# --- the cleaning itself


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain text, grüße ✓ 漢字\tand\nmore", "plain text, grüße ✓ 漢字\tand\nmore"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x9d0;title\x9cx", "x"),
        ("\x1bcreset", "reset"),
        ("\x1b", ""),
        ("a\u200bb\u200db\ufeff", "abb"),
        ("pay\u202elap", "paylap"),
        ("\u2028\u2029\x85", ""),
        ("\U000e0041\U000e0100\ufe0f", ""),
        ("\ud800", "\ufffd"),
        ("\udc9b", "\\x9b"),
        ("\u00ad\u034f\u115f\u3164", ""),
        (WORDS, " answer"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_one_line() -> None:
    assert one_line("first\n\tsecond\r\n\u2028 third ") == "first second third"


@given(st.text(st.characters()))
def test_whatever_it_is_it_can_be_printed(text: str) -> None:
    done = clean(text)
    assert clean(done) == done
    assert all(letter.isprintable() or letter in "\t\n" or not letter.isascii() for letter in done)
    assert done.encode().decode() == done
