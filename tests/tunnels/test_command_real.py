"""Commands for real: a shell script makes a device in a namespace, and who looks out for it is asked to
tell the truth.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.config.validation import validated
from tests.netns import Namespace
from tests.tunnels.driver import ClientRun, wait_for
from tunnels.base import Connected, Failed, Placement, Reason
from tunnels.kinds.command.kind import COMMAND

pytestmark = pytest.mark.root

DEVICE = "t-acme"
MAKE = (
    f"ip tuntap add dev {DEVICE} mode tun; ip link set {DEVICE} up; ip address add 10.9.9.2/32 dev {DEVICE}"
)


class NamespaceSession:
    """Runs commands in the namespace."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        self.directory, self.namespace = directory, namespace
        self.runs: list[ClientRun] = []

    def start(self, script: str, inputs: dict[str, bytes] | None = None, **options: Any) -> ClientRun:
        """`options` are settings of the tunnel."""
        argv = options.pop("argv", ["sh", "-c", script, "sh", "{device}"])
        tunnel = validated(
            COMMAND.options,
            {"name": "acme", "kind": "command", "destinations": ["10.77.0.0/24"], "argv": argv, **options},
        )
        directory = self.directory / str(len(self.runs))
        directory.mkdir(mode=0o700)
        place = Placement(directory, DEVICE, 0, sys.executable)
        self.runs.append(ClientRun(COMMAND, tunnel, place, inputs or {}, self.namespace))
        return self.runs[-1]

    def make(self, commands: str) -> None:
        self.namespace.run("sh", "-ec", commands)


@pytest.fixture
def session(tmp_path: Path, netns: Namespace) -> Iterator[NamespaceSession]:
    session = NamespaceSession(tmp_path, netns)
    yield session
    for run in session.runs:
        run.stop()


def test_a_device_that_comes_up_and_gets_an_address(session: NamespaceSession) -> None:
    run = session.start("read line; :", argv=["sleep", "1000"], up={"device": DEVICE})
    wait_for(lambda: _names(run) == {"sleep", "python"})
    session.make(f"ip tuntap add dev {DEVICE} mode tun")
    session.make(f"ip address add 10.9.9.2/32 dev {DEVICE}")
    session.make(
        "ip link add other type veth peer name another; ip link set other up; ip address add 10.9.9.3/32 "
        "dev other"
    )
    wait_for(lambda: "10.9.9.2" in session.namespace.run("ip", "-o", "address", "show", "dev", DEVICE).stdout)
    assert run.observations == []
    session.make(f"ip link set {DEVICE} up")
    assert run.connected() == Connected("10.9.9.2", on_interface=True)
    assert psutil.Process(run.process.pid).name() == "sleep"
    wait_for(lambda: _names(run) == {"sleep"})


def _names(run: ClientRun) -> set[str]:
    """Programs in the session of a run."""
    found = set()
    for process in psutil.process_iter(["name"]):
        try:
            if os.getsid(process.pid) == run.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.info["name"].rstrip("0123456789."))
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_a_device_that_is_there_already(session: NamespaceSession) -> None:
    session.make(MAKE)
    assert session.start("exec sleep 1000", up={"device": DEVICE}).connected() == Connected(
        "10.9.9.2", on_interface=True
    )


def test_the_program_is_alone_with_its_end(session: NamespaceSession) -> None:
    """It gets signals, exit code and descriptors as if nobody looked out, and not the NOTIFY_SOCKET."""
    argv = ["sh", "-c", 'echo "${NOTIFY_SOCKET-none} $$"; cat "$1"; exit 7', "sh", "{password_file}"]
    run = session.start(
        "", {"password": b"hunter2\n"}, argv=argv, up={"device": DEVICE}, login={"password": {"file": "x"}}
    )
    run.to_end()
    assert run.transcript == [f"output|none {run.process.pid}", "output|hunter2", "end|"]
    assert run.process.wait() == 7
    killed = session.start("kill -9 $$", up={"device": DEVICE})
    killed.to_end()
    assert killed.process.wait() == -signal.SIGKILL


def test_a_program_that_is_not_there(session: NamespaceSession) -> None:
    failed = session.start("", argv=["no-such-vpn"], up={"device": DEVICE}).failed()
    assert (failed.reason, failed.text) == (Reason.MISSING_BINARY, "no-such-vpn is not installed")
    failed = session.start("", argv=["/etc/passwd"], up={"device": DEVICE}).failed()
    assert (failed.reason, failed.text) == (
        Reason.MISSING_RIGHT,
        "/etc/passwd cannot be run: Permission denied",
    )


def test_the_first_answer_through_the_device(session: NamespaceSession) -> None:
    options: dict[str, Any] = {
        "up": {"probe": True},
        "probe": {"targets": ["icmp://10.77.0.11", "tcp://10.77.0.10:443"]},
    }
    run = session.start(MAKE + "; exec sleep 1000", **options)
    wait_for(lambda: "10.9.9.2" in session.namespace.run("ip", "-o", "address", "show").stdout)
    assert run.observations == []
    far_side = Tun(DEVICE)
    try:
        assert run.connected() == Connected("10.9.9.2", on_interface=True)
    finally:
        far_side.close()


class Tun:
    """Answers behind the interface: answers every SYN with a RST, as a host does on which nobody listens."""

    def __init__(self, device: str) -> None:
        self._tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._tun, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x1001))
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                packet = os.read(self._tun, 2048)
            except OSError:
                return
            if packet and packet[0] >> 4 == 4 and packet[9] == 6 and packet[33] & 2:
                os.write(self._tun, _refusal(packet))

    def close(self) -> None:
        os.close(self._tun)


def _refusal(packet: bytes) -> bytes:
    source, destination = packet[12:16], packet[16:20]
    here, there, number = struct.unpack("!HHI", packet[20:28])
    segment = struct.pack("!HHIIBBHHH", there, here, 0, number + 1, 5 << 4, 0x14, 0, 0, 0)
    check = _sum(destination + source + struct.pack("!HH", 6, len(segment)) + segment)
    segment = segment[:16] + struct.pack("!H", check) + segment[18:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, destination, source)
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + segment


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_a_line_and_a_notification(session: NamespaceSession) -> None:
    run = session.start("echo up at 10.9.9.2; exec sleep 1000", up={"line": "up at (?P<address>.*)"})
    assert run.connected() == Connected("10.9.9.2", on_interface=True)
    run.stop()
    tell = (
        "import os, socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', "
        "os.environ['NOTIFY_SOCKET'])"
    )
    run = session.start("", argv=[sys.executable, "-c", f"{tell}; print('{{device}}')"], up={"notify": True})
    assert run.connected() == Connected(on_interface=True)


def test_words_that_mean_a_failure(session: NamespaceSession) -> None:
    run = session.start(
        "echo wrong password; exec sleep 1000", up={"device": DEVICE}, permanent=["(?P<auth>wrong password)"]
    )
    assert run.failed() == Failed(Reason.AUTH, "wrong password")
