"""Starts the process of the name service (`supervisor.names.program`): confined as a client is, and in the
clients' control group, so that it outlives a crash of the daemon.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from supervisor import disk
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.launch import PATH
from supervisor.clients.reaper import Reaper
from supervisor.clients.sandbox import boundary, confined
from supervisor.version import version
from tunnels.base import Launch

DIRECTORY, SOCKET, KEY, OUTPUT = "names", "control.sock", "key", "output"  # in runtime_dir, and in it
_HOME = Path(__file__).parents[2]  # of our packages
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from supervisor.names.program import main; main()"
_BIND = "net_bind_service"


def start(runtime_dir: Path, reaper: Reaper, group: ClientGroup | None) -> int:
    """Start it; its pid. Whoever connects to its socket shows the key that stands beside it. OSError."""
    directory = (runtime_dir / DIRECTORY).resolve()
    disk.make_way(directory, directory=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    disk.replace(directory / KEY, secrets.token_hex(32).encode())
    argv = (sys.executable, "-I", "-c", _START, str(_HOME), str(directory), version())
    launch = Launch(argv, reads=(_HOME / "supervisor",), capabilities=(_BIND,))
    (directory / SOCKET).unlink(missing_ok=True)  # of one that was killed
    disk.make_way(directory / OUTPUT)
    output = disk.opened(directory / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        process = confined(
            boundary(launch, directory),
            lambda: subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": PATH, "LANG": "C.UTF-8"},
                start_new_session=True,
            ),
        )
    finally:
        os.close(output)
    process.returncode = 0  # keep Popen from waiting for the process
    reaper.add(process.pid)
    if group is not None:
        group.add(process.pid)
    return process.pid


def reaped(pid: int) -> bool:
    """It has ended, or is none of our children; never waits."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
