"""SIGHUP while the daemon starts, as whoever changes the configuration then may send it: it must never end
the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.control.client import ControlClient, Unreachable
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace
from tests.packaging.installation import REPOSITORY

pytestmark = pytest.mark.root

SHIPPED = "/opt/facilitator/bin/facilitator"
HERE = shlex.join([sys.executable, "-m", "supervisor"])
ROUNDS = 3


def shipped() -> list[str]:
    """The command of the Nomad job, with this checkout in place of the installed one."""
    job = (REPOSITORY / "nomad" / "facilitator.nomad.hcl").read_text()
    command, arguments = re.search(r'command = "(.*)"\n', job), re.search(r"args    = (\[.*\])\n", job)
    assert command is not None
    assert command[1] == SHIPPED
    assert arguments is not None
    words = " ".join(f'"{word}"' for word in json.loads(arguments[1]))
    return ["/bin/sh", "-c", f"exec {HERE} {words}"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Namespace, Path]]:
    """A network, and a directory with a configuration."""
    (tmp_path / "config.yaml").write_text(
        f"facilitator: {{state_dir: {tmp_path}/state, runtime_dir: {tmp_path}/run}}\nstaff: "
        f"{{networks: [10.8.0.0/16]}}\ntunnels: {{}}\n"
    )
    namespace = Namespace("hup")
    try:
        yield namespace, tmp_path
    finally:
        namespace.remove()


@contextlib.contextmanager
def hail(pid: int) -> Iterator[list[int]]:
    """SIGHUP every millisecond; the list holds how many there were."""
    over, sent = threading.Event(), [0]

    def send() -> None:
        while not over.wait(0.001):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
                sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def test_a_sighup_at_any_moment_of_the_start_does_not_end_the_daemon(place: tuple[Namespace, Path]) -> None:
    namespace, directory = place
    for _ in range(ROUNDS):
        process = namespace.popen(
            *shipped(),
            cwd=REPOSITORY,
            env={**os.environ, "NOMAD_SECRETS_DIR": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            eventually(lambda: ignores_hangup(process), 5, "SIGHUP is ignored", every=0)
            began = time.monotonic()
            with hail(process.pid) as sent:
                eventually(
                    lambda: answers(directory / "run" / "control.sock", process), 20, "the daemon answers"
                )
                took = time.monotonic() - began
            assert sent[0] > took * 100, "the hail was dense"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.communicate()


def ignores_hangup(process: subprocess.Popen[str]) -> bool:
    """The process that was started has SIGHUP ignored (proc(5), SigIgn); a handler comes later."""
    assert process.poll() is None
    mask = re.search(r"^SigIgn:\t(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) >> (signal.SIGHUP - 1) & 1)


def answers(control: Path, process: subprocess.Popen[str]) -> bool:
    """The daemon lives, and does its work."""
    assert process.poll() is None, f"ended with {process.returncode}"
    with contextlib.suppress(Unreachable):
        return bool(ControlClient(control).get("/api/v1/status")["pid"] == process.pid)
    return False
