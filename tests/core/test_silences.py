"""Silences: what receivers get while one holds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.app.closing import Closing
from supervisor.app.stores.silence_file import SilenceFile
from supervisor.app.watchers.silencing import Silencing
from supervisor.cli import main
from supervisor.core.alerting.silences import Silence, active, quiet
from supervisor.core.alerting.verdict import Alert, Verdict

FIRING, CLEAR, HOLD = Verdict.FIRING, Verdict.CLEAR, Verdict.HOLD


def alert(name: str, verdict: Verdict = FIRING, members: tuple[str, ...] = ()) -> Alert:
    return Alert(name, verdict, "critical", "", 0.0, {}, members=members)


def seen(alerts: Mapping[str, Alert], *tunnels: str) -> dict[str, Verdict]:
    silences = [Silence(each, 0.0, 1.0, "root") for each in tunnels]
    return {name: each.verdict for name, each in quiet(alerts, silences).items()}


def test_no_new_incident_is_opened_and_an_open_one_may_end() -> None:
    alerts = {"a": alert("a"), "b": alert("b"), "c": alert("c", CLEAR)}
    assert seen(alerts, "a", "c") == {"a": HOLD, "b": FIRING, "c": CLEAR}
    assert seen(alerts, "") == {"a": HOLD, "b": HOLD, "c": CLEAR}
    assert seen(alerts) == {"a": FIRING, "b": FIRING, "c": CLEAR}


def test_a_group_is_silent_when_all_of_its_tunnels_are() -> None:
    alerts = {"group": alert("group", members=("a", "b"))}
    assert seen(alerts, "a") == {"group": FIRING}
    assert seen(alerts, "a", "b") == {"group": HOLD}


def test_when_a_silence_holds() -> None:
    one = Silence("a", 10.0, 20.0, "root")
    assert [bool(active([one], now)) for now in (9.0, 10.0, 19.9, 20.0)] == [False, True, True, False]


class GivenAlerts:
    """Remembers what a receiver was given."""

    def __init__(self) -> None:
        self.given: list[Verdict] = []

    def set(self, alerts: Mapping[str, Alert]) -> None:
        self.given.append(alerts["a"].verdict)


async def test_what_still_stands_at_the_end_is_sent_then_also_by_the_next_daemon(tmp_path: Path) -> None:
    file, receivers, posted, noted = SilenceFile(tmp_path), GivenAlerts(), asyncio.Event(), list[str]()
    now, closing = time.time(), Closing()
    file.add(Silence("a", now, now + 1.0, "root", "their firewall"))
    silencing = Silencing(
        tmp_path, receivers, lambda _: posted.set(), lambda action, _: noted.append(action), closing
    )
    silencing.start()
    try:
        assert silencing.silenced == ("a",)
        [(name, condition)] = silencing.conditions.items()
        assert name == "silenced:a"
        assert "their firewall" in condition.text
        assert not condition.pages
        silencing.set({"a": alert("a")})
        assert receivers.given == [HOLD]
        posted.clear()
        async with asyncio.timeout(30):
            await posted.wait()
        assert receivers.given == [HOLD, FIRING]
        assert noted == ["silence", "silence-over"]
        assert not silencing.conditions
    finally:
        await closing.close()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[]",
        '{"silences": []}',
        '{"format": 9, "silences": []}',
        '{"format": 1, "silences": [{"tunnel": "a", "since": 0, "until": "x", "by": "root", "reason": ""}]}',
        '{"format": 1, "silences": [{"tunnel": "a", "since": 0, "until": NaN, "by": "root", "reason": ""}]}',
        '{"format": 1, "silences": [{"tunnel": "a", "since": 0, "until": 1e18, "by": "root", "reason": ""}]}',
    ],
    ids=lambda text: text[:100],
)
def test_a_file_that_nobody_understands_is_an_error_in_words(tmp_path: Path, content: str) -> None:
    file = SilenceFile(tmp_path)
    file.path.write_text(content)
    with pytest.raises(ValueError, match="damaged|format|silence|it "):
        file.load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_what_root_writes_the_daemons_user_reads(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4712)
    file = SilenceFile(tmp_path)
    file.add(Silence("a", time.time(), time.time() + 60.0, "root"))
    found = file.path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (4711, 4712, 0o600)


def test_the_command(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"facilitator: {{state_dir: {tmp_path}}}\n")

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["silence", "-c", str(config), *arguments])
        return done.exit_code, done.output

    assert run() == (0, "nothing is silenced\n")
    code, said = run("acme-dc", "2h", "--reason", "planned work")
    assert code == 0, said
    assert "acme-dc until " in said
    assert "planned work" in said
    assert run("--all", "5m")[0] == 0
    assert {each.tunnel for each in SilenceFile(tmp_path).load()} == {"", "acme-dc"}
    assert run("acme-dc", "--end") == (0, "the silence is over\n")
    assert run("acme-dc", "--end") == (0, "there was no silence\n")
    assert {each.tunnel for each in SilenceFile(tmp_path).load()} == {""}
    for wrong in (
        ("acme-dc", "40d"),
        ("acme-dc", "x"),
        ("2h",),
        ("--all", "acme-dc", "2h"),
        ("acme-dc", "2h", "x"),
    ):
        assert run(*wrong)[0] == 2, wrong
