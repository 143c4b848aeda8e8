"""Daemons that start quickly: a server imports the program once and forks it for each start, one after the
other.

Most of a start is the import of libraries, a second of processor time. What is forked is the real program, in
a process of its own, from the reading of its command line on; only the import is shared. `python -m
tests.system.forked` is the server: it reads `COMMAND CONFIG LOG` from stdin for each start, and prints the
process id, and at the end of that process its exit code.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TextIO

from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import REPOSITORY, LabDaemon
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace


class Forked:
    """The running daemon, with the part of `subprocess.Popen` that `LabDaemon` uses."""

    def __init__(self, pid: int, codes: TextIO) -> None:
        self.pid, self._codes = pid, codes
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        if self.returncode is None and select.select([self._codes], [], [], 0)[0]:
            self.returncode = int(self._codes.readline())
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, as soon as it has ended. TimeoutExpired."""
        if self.returncode is None and not select.select([self._codes], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(["facilitator", "run"], timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """As `kill`, but not to a later process with its number."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts daemons in a namespace: `with ForkServer(namespace) as server`."""

    def __init__(self, namespace: Namespace) -> None:
        argv = (sys.executable, "-m", "tests.system.forked")
        self._process = namespace.popen(
            *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1, cwd=REPOSITORY
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=PATIENCE)

    def start(self, daemon: LabDaemon, command: str = "run") -> Forked:
        """`facilitator run` with the daemon's configuration; its output is appended to the daemon's log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command} {daemon.config_file} {daemon.log}\n")
        return Forked(int(self._process.stdout.readline()), self._process.stdout)


class QuickDaemon(LabDaemon):
    """A `LabDaemon` that such a server starts. Set `server` before `start`."""

    server: ForkServer

    def start(self, within: float = 15.0, ready: int | None = 200) -> None:
        """Start it and wait until it answers so."""
        self._process = self.server.start(self)  # type: ignore[assignment]
        if ready is not None:
            eventually(lambda: self._ready(ready), within, f"GET /readyz is answered with {ready}")

    def cleanup(self) -> int:
        """`facilitator cleanup`; its exit code."""
        return self.server.start(self, "cleanup").wait()


class QuickLab(Lab):
    """A lab with such a server."""

    def __enter__(self) -> QuickLab:
        self._server = ForkServer(self.network["facilitator"])
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
        self.close()

    def daemon(self, config: Config, user: int | None = None) -> LabDaemon:
        """As `Lab.daemon`; another user's daemon is a program of its own from the start."""
        if user is not None:
            return super().daemon(config, user)
        daemon = QuickDaemon(self.network["facilitator"], self.directory, config)
        daemon.server = self._server
        return daemon


def _run(command: str, config: str, log: str) -> None:
    """In the forked process: become the program."""
    from supervisor.cli import main

    os.setsid()
    for fd, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
        os.dup2(os.open(path, flags), fd)
    os.dup2(1, 2)
    main([command, "-c", config])


def _serve() -> None:
    import supervisor.app.cleanup  # noqa: F401
    import supervisor.app.http_app  # noqa: F401
    import supervisor.cli.host  # noqa: F401
    import supervisor.reports.paging.http  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(*line.split())
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
