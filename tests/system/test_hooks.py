"""Hooks: the operator's programs that are told of transitions. Whatever they do, no tunnel waits for them."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.clients.processes import all_pids, tag_of
from tests.lab import DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root

TELL = """#!/bin/sh
env > "$1/$FACILITATOR_EVENT.$$.tmp"
id -u >> "$1/$FACILITATOR_EVENT.$$.tmp"
grep -E '^(NoNewPrivs|CapEff|CapBnd)' /proc/self/status >> "$1/$FACILITATOR_EVENT.$$.tmp"
ls "$2" > /dev/null 2>&1 && echo STATE_IS_OPEN >> "$1/$FACILITATOR_EVENT.$$.tmp"
mv "$1/$FACILITATOR_EVENT.$$.tmp" "$1/$FACILITATOR_EVENT.$$"
echo "told $FACILITATOR_EVENT of $FACILITATOR_TUNNEL"
"""
FAIL = '#!/bin/sh\necho something is wrong\n[ -e "$1/cured" ] && exit 0\necho really wrong; exit 7\n'
HANG = "#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 1000; done\n"
FORK = (
    "#!/bin/sh\n(setsid sleep 1000 &)\n(env -i setsid sleep 1001 &)\n(trap '' TERM; exec sleep 1002) &\n"
    'touch "$1/forked"\nexit 0\n'
)
FLOOD = '#!/bin/sh\nhead -c 100000000 /dev/zero | tr "\\0" "x" | fold -w 100\ntouch "$1/flooded"\n'


class Desk:
    """A directory that every user may write, and hooks in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.chmod(0o777)

    def hook(self, name: str, text: str, *words: str) -> list[str]:
        """A program of this text, and its arguments."""
        program = self.place / name
        program.write_text(text)
        program.chmod(0o755)
        return [str(program), str(self.place), *words]

    def told(self, event: str) -> list[str]:
        """What the hooks of this event have written."""
        return [each.read_text() for each in self.place.glob(f"{event}.*") if each.suffix != ".tmp"]


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        yield Desk(Path(place))


def hooks_of(daemon: LabDaemon) -> list[int]:
    """Processes of hooks, those without an environment too."""
    prefix = str(daemon.runtime_dir.resolve())
    tagged = [
        pid
        for pid in all_pids()
        if (tag_of(pid) or "").startswith(prefix) and "/hook-" in (tag_of(pid) or "")
    ]
    return tagged + [pid for pid in all_pids() if _command(pid) in SLEEPS]


SLEEPS = tuple(f"sleep\0{seconds}\0".encode() for seconds in (1000, 1001, 1002))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_what_they_are_told(lab: Lab, config: Config, desk: Desk) -> None:
    daemon = lab.daemon(config)
    argv = desk.hook("tell", TELL, str(daemon.directory / "state"))
    config["tunnels"]["acme-dc"]["hooks"] = {"up": argv, "down": argv, "changed": argv}
    daemon.configure(config)
    with daemon:
        daemon.wait_well()
        (said,) = eventually(lambda: desk.told("up"), 10, "the hook has run")
        session = daemon.tunnel("acme-dc")["session"]
        lines = said.splitlines()
        assert f"FACILITATOR_INTERFACE={session['device']}" in lines
        assert f"FACILITATOR_ADDRESS={session['address']}" in lines
        assert {"FACILITATOR_TUNNEL=acme-dc", "FACILITATOR_NAME=lab", "FACILITATOR_KIND=openvpn"} <= set(
            lines
        )
        assert "FACILITATOR_PHASE=up" in lines
        assert "0" not in lines, "it is not root"
        assert "STATE_IS_OPEN" not in lines
        status = {line.split(":")[0]: line.split()[-1] for line in lines if ":\t" in line}
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == 0
        eventually(lambda: desk.told("changed"), 10, "and the one for every transition")
        assert "[hook up] told up of acme-dc" in daemon.cli("logs", "acme-dc").stdout
        assert not desk.told("down")

        daemon.signal(signal.SIGKILL)
        daemon.ended()
        daemon.start()
        daemon.wait_well()
        assert daemon.tunnel("acme-dc")["session"]["id"] == session["id"], "it was adopted"
        assert len(desk.told("up")) == 1
        assert not desk.told("down")

        (victim,) = daemon.client_pids("openvpn")
        os.kill(victim, signal.SIGKILL)
        daemon.wait_well()
        eventually(lambda: len(desk.told("up")) == 2, 10, "it is up again")
        assert len(desk.told("down")) == 1
        # its device may be missed before its process
        assert any(
            f"FACILITATOR_REASON={word}\n" in desk.told("down")[0] for word in ("killed", "device-lost")
        )
        assert daemon.stop() == 0
        assert len(desk.told("down")) == 2, "the end of the daemon is told, too"
        daemon.start()
        daemon.wait_well()
        eventually(lambda: len(desk.told("up")) == 3, 10, "a new session")
    assert daemon.leftovers() == {}


def test_a_failing_one_is_a_condition(lab: Lab, config: Config, desk: Desk) -> None:
    config["tunnels"]["acme-dc"]["hooks"] = {"changed": desk.hook("fail", FAIL)}
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()

        def conditions() -> dict[str, str]:
            return {each["name"]: each["text"] for each in daemon.status()["conditions"]}

        text = eventually(lambda: conditions().get("hook-changed:acme-dc"), 10, "it is a condition")
        assert "exit code 7" in text
        assert text.endswith("its last line: really wrong")
        (desk.place / "cured").touch()
        daemon.cli("restart", "acme-dc")
        eventually(lambda: "hook-changed:acme-dc" not in conditions(), 10, "and gone")
    assert daemon.leftovers() == {}


@pytest.mark.timed
@pytest.mark.parametrize("text", [HANG, FAIL, FORK, FLOOD], ids=["hangs", "fails", "forks", "prints 100 MB"])
def test_no_tunnel_waits_for_them(lab: Lab, config: Config, desk: Desk, text: str) -> None:
    argv = desk.hook("hook", text)
    config["defaults"]["hooks"] = {"up": argv, "down": argv, "changed": argv, "timeout": "20s"}
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()
        outages = []
        for _ in range(3):
            daemon.wait_for("acme-dc", phase="up", health="healthy")
            (victim,) = daemon.client_pids("openvpn")
            kill = functools.partial(os.kill, victim, signal.SIGKILL)
            outages.append(lab.outage(DATACENTRE_WEB, kill, until=daemon.replaced("acme-dc")).seconds)
        print("killed, outages in seconds:", *(f"{seconds:.2f}" for seconds in outages))
        assert sorted(outages)[1] <= 1.0 * NOISE
        if text is FORK:
            eventually((desk.place / "forked").exists, 10, "it has run")
            eventually(lambda: not hooks_of(daemon), 10, "nothing of it is left")
        if text is FLOOD:
            eventually((desk.place / "flooded").exists, 30, "it was read to its end")
            assert len(daemon.cli("logs", "acme-dc").stdout) < 100_000
        if text is HANG:
            assert hooks_of(daemon)
        daemon.signal(signal.SIGKILL)
        daemon.ended()
        assert daemon.cli("cleanup").returncode == 0
        assert not hooks_of(daemon)
    assert daemon.leftovers() == {}
