"""Private network namespaces for tests: random names, removed at the end, and swept up later when a test
run was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

PREFIX = "fct"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace with its loopback up. The name carries our pid, so that `sweep` knows whose it
    was.
    """

    def __init__(self, label: str) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}-{label}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` in this namespace."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(
        self, *command: str, check: bool = True, input: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace to its end."""
        done = subprocess.run(
            self.argv(*command), capture_output=True, text=True, input=input, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *command: str, **kwargs: object) -> subprocess.Popen[str]:
        """Start a command in the namespace."""
        return subprocess.Popen(self.argv(*command), text=True, **kwargs)  # type: ignore[call-overload,no-any-return]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread (and threads it starts) sees this namespace's network."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(home)
            os.close(home)
            os.close(there)

    def remove(self) -> None:
        """End every process in the namespace and delete it."""
        _remove(self.name)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _remove(name: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def link(a: Namespace, a_device: str, b: Namespace, b_device: str) -> None:
    """A virtual cable between two namespaces, both ends up."""
    a.run("ip", "link", "add", a_device, "type", "veth", "peer", "name", b_device, "netns", b.name)
    a.run("ip", "link", "set", a_device, "up")
    b.run("ip", "link", "set", b_device, "up")


def sweep() -> None:
    """Remove namespaces that belong to a test process which is gone."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*"):
        owner = path.name.split("-")[1]
        if not Path(f"/proc/{owner}").exists():
            _remove(path.name)
