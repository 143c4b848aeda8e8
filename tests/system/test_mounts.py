"""Two daemons on one host, each in a mount namespace of its own, whose runtime directories have the same
path: two containers, for example.

They see each other's processes. Each must start, adopt, stop and clean up without touching what the other one
runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from supervisor.clients import processes
from tests.clients.scripted import alive
from tests.lab.daemon import FACILITATOR, REPOSITORY
from tests.lab.wait import eventually
from tests.netns import Namespace

pytestmark = pytest.mark.root


class Container:
    """A network namespace, and a mount namespace in which this directory is a file system of its own."""

    def __init__(self, label: str, directory: Path) -> None:
        self.directory, self._network = directory, Namespace(label)
        script = f"mount -t tmpfs tmpfs {directory} && echo mounted && exec sleep infinity"
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        self._holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"
        self._daemon: subprocess.Popen[str] | None = None
        client = {
            "kind": "command",
            "argv": ["/bin/sh", "-c", "(setsid sleep 1000 &); echo up; exec sleep 1000"],
            "up": {"line": "^up$"},
            "device": "t-acme",
            "destinations": ["10.91.0.0/24"],
        }
        places = {"state_dir": f"{directory}/state", "runtime_dir": f"{directory}/run"}
        config = {"facilitator": places, "staff": {"networks": ["10.8.0.0/16"]}, "tunnels": {"acme": client}}
        self.run("sh", "-c", 'cat > "$1"', "sh", f"{directory}/config.yaml", input=yaml.safe_dump(config))

    def argv(self, *command: str) -> list[str]:
        namespaces = (f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--net=/run/netns/{self._network.name}")
        return ["nsenter", *namespaces, f"--wd={REPOSITORY}", *command]

    def run(self, *command: str, input: str = "") -> str:
        done = subprocess.run(self.argv(*command), capture_output=True, text=True, input=input, timeout=60)
        assert done.returncode == 0, done
        return done.stdout

    def command(self, name: str, *words: str) -> str:
        return self.run(*FACILITATOR, name, *words, "-c", f"{self.directory}/config.yaml")

    def start(self) -> None:
        """Start the daemon and wait until its client is up."""
        self._daemon = subprocess.Popen(
            self.argv(*FACILITATOR, "run", "-c", f"{self.directory}/config.yaml"),
            stdout=subprocess.DEVNULL,
            text=True,
        )
        eventually(lambda: self.client() is not None, 30, "its client is up")

    def client(self) -> int | None:
        """The process of its client, while that is up."""
        done = subprocess.run(
            self.argv(*FACILITATOR, "status", "--json", "-c", f"{self.directory}/config.yaml"),
            capture_output=True,
            text=True,
        )
        tunnels = (
            json.loads(done.stdout)["tunnels"]
            if done.returncode in (0, 1) and done.stdout.startswith("{")
            else []
        )
        return next(
            (tunnel["session"]["pid"] for tunnel in tunnels if tunnel["phase"] == "up" and tunnel["session"]),
            None,
        )

    def stop(self, number: signal.Signals) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)
        if number is not signal.SIGKILL:
            self._daemon.send_signal(number)
        self._daemon.wait(30)

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        self.command("cleanup")
        self._holder.kill()
        self._holder.wait()
        self._network.remove()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Container, Container]]:
    containers = tuple(Container(label, tmp_path) for label in ("one", "two"))
    try:
        yield containers[0], containers[1]
    finally:
        for container in containers:
            container.close()


def family(main: int | None) -> set[int]:
    """A client's processes, the stray included."""
    assert main is not None
    tag = processes.tag_of(main)
    return {pid for pid in processes.all_pids() if processes.tag_of(pid) == tag}


def test_neither_touches_what_the_other_runs(two: tuple[Container, Container]) -> None:
    one, other = two
    one.start()
    theirs = family(one.client())
    assert len(theirs) >= 2, "the client and what has left its session"

    other.start()
    ours = family(other.client())
    tags = {(processes.tag_of(pid) or "").rpartition("/")[0] for pid in theirs | ours}
    assert len(tags) == 1, "by the path they are one and the same"
    assert all(map(alive, theirs)), "the other one has started"

    other.stop(signal.SIGTERM)
    eventually(lambda: not any(map(alive, ours)), 10, "its own client ends with it")
    other.command("cleanup")
    assert all(map(alive, theirs)), "it has stopped and cleaned up"

    one.stop(signal.SIGKILL)
    other.start()
    assert all(map(alive, theirs)), "what looks like left behind is not its own"
    other.stop(signal.SIGKILL)
    left = family(
        next(
            pid
            for pid in processes.all_pids()
            if (processes.tag_of(pid) or "").startswith(f"{one.directory}/run/acme/") and pid not in theirs
        )
    )
    assert "ended process" in other.command("cleanup")
    eventually(lambda: not any(map(alive, left)), 10, "its own are ended, strays too")
    assert all(map(alive, theirs))

    one.start()
    assert one.client() in theirs, "whose they are goes on with them"
    one.stop(signal.SIGTERM)
    eventually(lambda: not any(map(alive, theirs)), 10, "and ends them")


def test_a_directory_that_was_replaced_is_still_known(tmp_path: Path) -> None:
    """Without RuntimeDirectoryPreserve= systemd removes it: the clients of a daemon that is gone must not
    stay for ever.
    """
    from supervisor.clients.process_journal import Journal
    from supervisor.clients.sweep import leftovers

    runtime = tmp_path / "run"
    script = 'mount --bind "$1" "$1"; cd /; echo mounted; exec sleep 1000'
    runtime.mkdir()
    environment = {"PATH": os.environ["PATH"], "FACILITATOR_CLIENT": f"{runtime}/acme/abc"}
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(runtime)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "mounted\n"
        runtime.rmdir()
        runtime.mkdir()
        [found] = leftovers(Journal(runtime))
        os.close(found.pidfd)
        assert found.pid == client.pid
        client.kill()
