"""Who else keeps a VPN client running: supervisord, and the restart loop that `Restart=always` of a plain
openvpn unit is.

Both run the very client that the facilitator runs in the lab, with the route that the server pushes and a
masquerade made by hand. They stand in for it in `tests.bench.life`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

import psutil

from tests.lab import Lab
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

_ENVIRONMENT = (
    Path(__file__).resolve().parents[2] / ".cache" / "supervisord"
)  # its import package has the name of facilitator's
_REQUIREMENTS = ("supervisor==4.3.0", "setuptools<81")
_DEVICE = "t-rival"
_MASQUERADE = (
    f"table ip rival "
    f"{{ chain postrouting {{ type nat hook postrouting priority 100; oifname {_DEVICE} masquerade; }}; }}"
)
_LOOP = (
    'while :; do "$@" & client=$!; trap "kill $client; wait $client; exit" TERM; wait $client; sleep 1; done'
)
_SUPERVISORD = """
[supervisord]
nodaemon = true
logfile = {directory}/supervisord.log
pidfile = {directory}/supervisord.pid
[unix_http_server]
file = {directory}/supervisor.sock
[supervisorctl]
serverurl = unix://{directory}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:openvpn]
command = {client}
autorestart = true
startsecs = 1
[program:another]
command = /bin/sleep {another}
"""


def supervisord() -> Path:
    """The directory of its programs; installed at the first call."""
    programs = _ENVIRONMENT / "bin"
    if not (programs / "supervisord").exists():
        subprocess.run([sys.executable, "-m", "venv", str(_ENVIRONMENT)], check=True)
        pip = (str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, *_REQUIREMENTS], check=True)
    return programs


class Rival(ABC):
    """One that runs the lab's OpenVPN client: `with Supervisord(lab, directory) as rival`. The methods are
    what can happen to it.
    """

    name = ""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._namespace: Namespace = lab.network["facilitator"]
        self._directory = directory
        self.client = (
            "openvpn",
            "--config",
            str(lab.directory / "acme.ovpn"),
            "--dev",
            _DEVICE,
            "--dev-type",
            "tun",
        )

    def __enter__(self) -> Rival:
        self._namespace.run("nft", "-f", "-", input=_MASQUERADE)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        eventually(lambda: not self._processes(), PATIENCE, "all of them ended")
        self._namespace.run("nft", "delete", "table", "ip", "rival")

    @abstractmethod
    def start(self) -> None:
        """Run it."""

    def crash(self) -> None:
        """Whoever looks after the client is killed, and started again."""
        self._process.kill()
        self._process.wait()
        self.start()

    def upgrade(self) -> None:
        """A new version of whoever looks after the client: ended in good order, and started."""
        self.end()
        self.start()

    def reload(self) -> None:
        """Another client's settings have changed."""

    def planned(self) -> None:
        """A new session of the client is wished."""
        self.upgrade()

    def end(self) -> None:
        """In good order."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)

    def _run(self, *argv: str) -> None:
        with (self._directory / f"{self.name}.log").open("a") as log:
            self._process = self._namespace.popen(
                *argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _processes(self) -> list[psutil.Process]:
        """Clients of it, orphans among them."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if tuple(process.info["cmdline"] or ()) == self.client
        ]


class RestartLoop(Rival):
    """What systemd does for a unit with `ExecStart=openvpn ...` and `Restart=always`, `RestartSec=1s`. It
    cannot crash, being systemd.
    """

    name = "openvpn unit"

    def start(self) -> None:
        """A second after each end, again."""
        self._run("/bin/sh", "-c", _LOOP, "sh", *self.client)

    def crash(self) -> None:
        """Of the client itself: there is nobody else."""
        for process in self._processes():
            process.kill()


class Supervisord(Rival):
    """PyPI's supervisor 4.3, which says of itself that it controls processes."""

    name = "supervisord"

    def start(self) -> None:
        """With a second program, whose settings will change."""
        self._configure(3600)
        self._run(str(supervisord() / "supervisord"), "-c", str(self._file))
        eventually((self._directory / "supervisor.sock").exists, 20, "supervisord listens")

    def reload(self) -> None:
        """`supervisorctl update`."""
        self._configure(3600 + int(time.monotonic()))
        self._ctl("update")

    def planned(self) -> None:
        """`supervisorctl restart openvpn`."""
        self._ctl("restart", "openvpn")

    @property
    def _file(self) -> Path:
        return self._directory / "supervisord.conf"

    def _configure(self, another: int) -> None:
        self._file.write_text(
            _SUPERVISORD.format(directory=self._directory, client=" ".join(self.client), another=another)
        )

    def _ctl(self, *command: str) -> None:
        subprocess.run(
            [str(supervisord() / "supervisorctl"), "-c", str(self._file), *command],
            check=True,
            capture_output=True,
            env={**os.environ},
        )
