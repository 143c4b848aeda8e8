"""What a gateway can say through its client, and what a pattern of ours can meet: the daemon goes on, and
nobody's terminal obeys.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.hostile import WORDS, on_terminal, remains
from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.daemon import LabPagerDuty
from tests.lab.wait import eventually
from tests.tunnels.test_command import HOSTILE
from tunnels.regex import MAX_MATCHED_CHARS
from tunnels.text import clean

pytestmark = pytest.mark.root

# an openconnect that asks what a hostile server would have it ask, and says the rest
_OPENCONNECT = """#!/usr/bin/python3
import sys, time
if "--version" in sys.argv:
    print("OpenConnect version v9.01")
    sys.exit()
words = {words!r}
for line in ("POST https://x/", words, "Failed to connect to host " + words):
    sys.stderr.buffer.write((line + "\\n").encode(errors="surrogateescape"))
sys.stderr.buffer.write(("What is the " + words.replace("\\r", "") + ":").encode())
sys.stderr.buffer.flush()
time.sleep(600)
"""


class WithProgram(LabDaemon):
    """A daemon that sees another program in place of one of this host's."""

    program: tuple[Path, str]

    def _unprivileged(self, user: int, argv: list[str]) -> list[str]:
        ours, theirs = self.program
        return ["unshare", "--mount", "sh", "-c", f'mount --bind {ours} {theirs} && exec "$@"', "sh", *argv]


@contextmanager
def asked(lab: Lab, config: Config, words: str) -> Iterator[LabDaemon]:
    """A daemon whose tunnel `bad` asks a hostile question."""
    fake = lab.directory / "openconnect"
    fake.write_text(_OPENCONNECT.format(words=words))
    fake.chmod(0o755)
    config["tunnels"] = {
        "bad": {
            "kind": "openconnect",
            "destinations": ["10.201.0.0/24"],
            "server": "203.0.113.2:444",
            "login": {"username": "u"},
            "description": "ACME \u200b\u202edata\u2066",
        }
    }
    daemon = WithProgram(lab.network["facilitator"], lab.directory, config, user=0)
    daemon.program = fake, "/usr/sbin/openconnect"
    with daemon:
        yield daemon


def test_a_hostile_question_reaches_nobodys_terminal(
    lab: Lab, config: Config, pagerduty: LabPagerDuty
) -> None:
    words = "".join(letter for letter in WORDS if letter not in "\x00\n")
    config |= {"alerts": lab.configuration(pagerduty)["alerts"]}
    config["defaults"]["alert"] = {"after": "1s"}
    question = "answer Failed to connect to host answer What is the answer:"
    with asked(lab, config, words) as daemon:
        eventually(lambda: daemon.tunnel("bad")["asks"], 20, "it asks")
        assert daemon.tunnel("bad")["asks"]["text"] == question
        eventually(pagerduty.open, 20, "somebody is called")
        for command in (
            ["status"],
            ["why", "10.201.0.5"],
            ["history", "bad"],
            ["logs", "bad"],
            ["alerts"],
            ["answer", "bad"],
        ):
            printed = on_terminal(
                daemon.namespace.argv(
                    sys.executable, "-m", "supervisor", *command, "-c", str(daemon.config_file)
                ),
                typed="42" if command[0] == "answer" else "",  # the terminal's echo would cut sequences
            )
            assert "answer" in printed or command[0] in ("why", "history", "alerts"), printed
            assert remains(printed) == [], command
        for text in (
            json.dumps(pagerduty.state(), ensure_ascii=False),
            daemon.get("/api/v1/status")[1],
            daemon.get("/")[1],
        ):
            decoded = "".join(_texts(json.loads(text))) if text.startswith("{") else text
            assert clean(decoded) == decoded
        logged = "".join(
            text for line in daemon.log.read_text().splitlines() for text in _texts(json.loads(line))
        )
        assert "answer" in logged
        assert clean(logged) == logged


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from (name, *_texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


# a client that makes its device, says so, and then talks without end
_TALKER = """
import fcntl, os, struct, subprocess, sys, time
lines, device = {lines!r}, sys.argv[1]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", device.encode(), 1))
subprocess.run(["ip", "link", "set", device, "up"], check=True)
print("it is up", flush=True)
while True:
    for line in lines:
        try:
            os.write(1, (line + "\\n").encode())
        except OSError:     # nobody reads, and the file is as large as it may be
            time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "patterns",
    [
        [".*.*.*.*=x", "(a{1,16}){1,16}b"],
        list(HOSTILE[1:2] + HOSTILE[5:9]),
        [f"{number}.*.*.*=x(a|b)*c" for number in range(200)],
    ],
    ids=["as reported", "large", "many"],
)
def test_health_is_answered_whatever_pattern_and_line(lab: Lab, config: Config, patterns: list[str]) -> None:
    """Also by a daemon that takes the client over, and reads its lines again."""
    talker = lab.directory / "talker.py"
    talker.write_text(
        _TALKER.format(lines=["a" * MAX_MATCHED_CHARS, "ab" * 256, "a=" * 256, "abba=x ü" * 64])
    )
    config["tunnels"] = {
        "talker": {
            "kind": "command",
            "destinations": ["10.202.0.0/24"],
            "argv": [sys.executable, str(talker), "{device}"],
            "up": {"line": "^it .*.*.*is up$"},
            "transient": [f"{pattern}never" for pattern in patterns],
        }
    }
    daemon = lab.daemon(config)
    with daemon:
        client = daemon.wait_for("talker", phase="up")["session"]["pid"]
        assert _slowest(daemon) < 1.0
        daemon.kill9()
        daemon.start()
        assert _slowest(daemon) < 1.0
        assert daemon.wait_for("talker", phase="up")["session"]["pid"] == client


def _slowest(daemon: LabDaemon, seconds: float = 4.0) -> float:
    """How long the slowest answer of /healthz took."""
    end, slowest = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        since = time.monotonic()
        assert daemon.get("/healthz")[0] == 200
        slowest = max(slowest, time.monotonic() - since)
    return slowest
