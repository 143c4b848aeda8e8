"""The lab's servers go on when the host's accounts file is replaced, as every package installation may do."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.servers import BastionServer
from tests.netns import Namespace

pytestmark = pytest.mark.root

# $1: where the copy is made. It holds no account of the lab's.
_HOST = 'mount -t tmpfs tmpfs "$1" && cp -a /etc/. "$1" && mount --move "$1" /etc && echo ready && exec cat'


class EtcNamespace(Namespace):
    """A namespace whose /etc is a copy of this host's: what is done to its files leaves the real ones
    alone.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__("host")
        argv = ("unshare", "--mount", "sh", "-c", _HOST, "sh", str(directory))
        self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` here."""
        holder = getattr(self, "_holder", None)
        within = super().argv(*command)
        return (
            within if holder is None else ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--wd=/", *within]
        )

    def remove(self) -> None:
        """End everything in it."""
        super().remove()
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every account can read."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o755)
        yield directory


@pytest.fixture
def host(directory: Path) -> Iterator[EtcNamespace]:
    (directory / "copy").mkdir()
    host = EtcNamespace(directory / "copy")
    yield host
    host.remove()


def test_logins_go_on_when_the_accounts_file_of_the_host_is_replaced(
    host: EtcNamespace, directory: Path
) -> None:
    server = BastionServer(host, directory)
    server.start()
    try:
        assert greeting(host, server) == "hello"
        before = Path("/etc/passwd").stat()
        host.run("sh", "-c", "cp -a /etc/passwd /etc/passwd.new && mv /etc/passwd.new /etc/passwd")
        assert greeting(host, server) == "hello"
        assert Path("/etc/passwd").stat().st_ino == before.st_ino, "the real one was left alone"
    finally:
        server.stop()


def greeting(host: EtcNamespace, server: BastionServer) -> str:
    options = (
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    )
    done = host.run(
        "ssh", *options, "-i", str(server.client_key), "facilitator@127.0.0.1", "echo", "hello", check=False
    )
    return done.stdout.strip() or done.stderr
