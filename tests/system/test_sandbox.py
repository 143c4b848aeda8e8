"""A client that was taken over reaches neither the daemon nor other clients: tried for real, with a
control outside of the sandbox.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.clients import syscalls
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.wait import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(syscalls.landlock_abi() < 6, reason="this kernel's Landlock does not know of signals"),
]

INTRUDER = Path(__file__).parent / "programs" / "intruder.py"
USER = 61234


class Scene:
    """A daemon with two clients: the victim waits with a password, the intruder is told whom to attack
    when all is there.
    """

    def __init__(self, lab: Lab, config: Config, user: int | None) -> None:
        self.daemon = lab.daemon({**config, "tunnels": {}}, user=user)
        self._program, self._secret = (
            self._own("intruder.py", INTRUDER.read_text()),
            self._own("victim-password", "hunter2hunter2"),
        )
        self._go = self.daemon.runtime_dir / "clients" / "intruder" / "go"
        wait = (
            f"until read -r orders 2>/dev/null <{self._go}; do sleep 0.05; done; exec python3 "
            f"{self._program} $orders"
        )
        common = {"kind": "command", "probe": {"targets": []}}
        self.daemon.configure(
            {
                **config,
                "tunnels": {
                    "victim": {
                        **common,
                        "argv": ["/bin/sh", "-c", "echo waiting; exec sleep 1000", "sh", "{password_file}"],
                        "device": "t-victim",
                        "up": {"notify": True},
                        "login": {"password": {"file": str(self._secret)}},
                        "destinations": ["10.91.0.0/24"],
                    },
                    "intruder": {
                        **common,
                        "argv": ["/bin/sh", "-c", wait],
                        "device": "t-intruder",
                        "up": {"line": "never"},
                        "reads": [str(self._program)],
                        "destinations": ["10.92.0.0/24"],
                    },
                },
            }
        )

    def _own(self, name: str, text: str) -> Path:
        path = self.daemon.directory / name
        path.write_text(text)
        path.chmod(0o600)
        if self.daemon.user is not None:
            os.chown(path, self.daemon.user, self.daemon.user)
        return path

    def victim(self) -> int:
        """Its process."""
        session: dict[str, Any] = eventually(
            lambda: self.daemon.tunnel("victim")["session"], 15, "the victim runs"
        )
        return int(session["pid"])

    def orders(self, number: int) -> list[str]:
        """What the intruder is told."""
        runtime = self.daemon.runtime_dir
        files = (
            self._secret,
            self.daemon.config_file,
            runtime / "control.key",
            runtime / "journal" / "victim.json",
            runtime / "clients" / "victim" / "output.log",
            self.daemon.directory / "state" / "history.db",
        )
        return [str(runtime), str(self.daemon.pid), str(self.victim()), str(number), *map(str, files)]

    def attack(self) -> list[str]:
        """Let it try everything; what came of it."""
        draft = self._go.with_suffix(".new")
        draft.write_text(" ".join(self.orders(9)) + "\n")
        if self.daemon.user is not None:
            os.chown(draft, self.daemon.user, self.daemon.user)
        draft.rename(self._go)
        log = self._go.with_name("output.log")
        eventually(lambda: "all was tried" in log.read_text(), 60, "the intruder has tried everything")
        return [line for line in log.read_text().splitlines() if ": reached" in line or ": refused" in line]


@pytest.fixture(params=[None, USER], ids=["root", "unprivileged"])
def scene(lab: Lab, config: Config, request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(lab, config, request.param)
    with scene.daemon:
        yield scene
    assert scene.daemon.leftovers() == {}


def test_everything_that_an_intruder_tries_is_refused(scene: Scene) -> None:
    victim = scene.victim()
    tried = scene.attack()
    print(*tried, sep="\n")
    assert len(tried) == 30
    assert [line for line in tried if ": reached" in line] == []
    assert all("belongs to a client of this daemon" in line for line in tried if line.startswith("control: "))
    assert scene.daemon.running
    assert scene.victim() == victim
    assert scene.daemon.tunnel("victim")["phase"] == "starting", (
        "what it sent to the victim's NOTIFY_SOCKET was not believed"
    )
    assert "a notification was ignored" in scene.daemon.cli("logs", "victim").stdout


def test_the_same_outside_of_the_sandbox(scene: Scene) -> None:
    """The control: the same program with the same uid and capability, started by somebody else, reaches
    the victim.
    """
    user = (
        []
        if scene.daemon.user is None
        else [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={USER}",
            "--clear-groups",
            "--inh-caps=-all,+net_admin",
            "--ambient-caps=-all,+net_admin",
            "--bounding-set=-all,+net_admin",
        ]
    )
    program = shutil.copy(INTRUDER, f"/tmp/{os.getpid()}-intruder.py")
    try:
        with subprocess.Popen(
            [*user, "/usr/bin/python3", program, *scene.orders(0)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            tried = []
            for line in process.stdout:
                tried.append(line)
                if "all was tried" in line:
                    process.kill()
    finally:
        os.unlink(program)
    print(*tried)
    assert "all was tried" in tried[-1]
    reached = {line.partition(": reached")[0] for line in tried if ": reached" in line}
    assert reached >= {
        "control: read",
        "victim: memory",
        "victim: anonymous files",
        "victim: kill",
        "daemon: kill",
        "directory: list",
    }
    if scene.daemon.user is not None:  # root may look into everything
        assert not reached & {
            "daemon: memory",
            "daemon: anonymous files",
            "daemon: environment",
            "daemon: ptrace",
        }
