"""sshuttle against a remote side that wants to hurt us, and connections that would fill our memory: a real
sshd, the real program.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.echo import echoes
from tests.tunnels.driver import ClientRun
from tests.tunnels.ssh_lab import SITE, SshLab
from tunnels.base import Reason

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20
MOST = 256 * MEBIBYTE
SOURCE_PORT = 7070
HELD = 64 * MEBIBYTE  # what one reader leaves unread: far more than sockets and pauses let us hold
# The beginning is an honest one, as far as our end can see: the synchronization, and no routes.
_BEGINNING = """
import os, struct, sys, time
out = os.fdopen(1, "wb", buffering=0)
def frame(channel, command, data=b""):
    return struct.pack("!ccHHH", b"S", b"S", channel, command, len(data)) + data
def send(data):
    view = memoryview(data)
    while view:
        view = view[out.write(view):]
send(b"\\0\\0SSHUTTLE0001" + frame(0, 0x4207))
ends = time.monotonic() + 60
"""
# Each command of the protocol by which the remote side can make us hold something, in the largest and in the
# smallest frames.
_FLOODS = {
    "pings": "while time.monotonic() < ends: send(frame(0, 0x4201, bytes(65535)))",
    "short pings": "send_many = frame(0, 0x4201) * 8192\nwhile time.monotonic() < ends: send(send_many)",
}
# These answer the first connection of staff, whose channel is 1, with data that nobody reads.
_FLOODED_CHANNEL = {
    "data": "while time.monotonic() < ends: send(frame(1, 0x4206, bytes(65535)))",
    "short data": "many = frame(1, 0x4206, b'x') * 8192\nwhile time.monotonic() < ends: send(many)",
}
_BREACHES = {
    "no frame": "send(b'GET / HTTP/1.0\\r\\n\\r\\n')",
    "hosts that are none": "send(frame(0, 0x4209, b'x' * 65535))",
    "routes again": "send(frame(0, 0x4207)); send(frame(0, 0x4207))",
    "an unknown command": "time.sleep(1); send(frame(0, 0x7777))",
}
_IGNORED = (
    "for command in (0x4204, 0x4205, 0x4206, 0x420b, 0x420d, 0x420e, 0x42f0, 0x42f1):\n"
    "    for channel in range(1, 2000): send(frame(channel, command, b'x' * 100))\n"
    "send(frame(0, 0x4203, b'2,127.0.0.1,22') + frame(7, 0x420a, b'x') + frame(8, 0x420c, b'2'))\n"
    "sys.stderr.write('all is sent\\n'); sys.stderr.flush(); time.sleep(60)"
)
# Sends to whoever connects, for as long as it is read.
_SOURCE = f"""
import socket, threading
def serve(connection):
    try:
        connection.sendall(bytes(range(256)) * {HELD // 256})
    except OSError:
        pass
    connection.close()
listener = socket.create_server(("{SITE}", {SOURCE_PORT}), backlog=64)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[SshLab]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        made = SshLab(Path(name))
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def hostile(lab: SshLab, script: str) -> Iterator[ClientRun]:
    """A client whose remote side runs this after an honest beginning."""
    lab.hostile.write_text(_BEGINNING + script)
    run = lab.run(identity="hostile")
    try:
        yield run
    finally:
        run.stop()


class Peak:
    """The most memory that a process had so far."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._path = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            with contextlib.suppress(OSError):
                found = [
                    line.split() for line in self._path.read_text().splitlines() if line.startswith("VmHWM:")
                ]
                self.bytes = max([self.bytes, *(int(words[1]) << 10 for words in found)])

    def end(self) -> int:
        """Look no more; what it was."""
        self._over.set()
        self._thread.join()
        return self.bytes


@pytest.mark.parametrize("script", _FLOODS.values(), ids=_FLOODS)
def test_a_flood_that_wants_answers_ends_the_session(lab: SshLab, script: str) -> None:
    with hostile(lab, script) as run:
        peak = Peak(run.process.pid)
        failed = run.failed(60)
        most = peak.end()
        print(f"{most >> 20} MiB at most; {failed.text}")
        assert (failed.reason, failed.text) == (
            Reason.PROTOCOL,
            "the other end floods this one: more than 16 MiB wait to be sent to it",
        )
        assert run.process.wait(60) == 99
        assert 0 < most < MOST


@pytest.mark.parametrize("script", _FLOODED_CHANNEL.values(), ids=_FLOODED_CHANNEL)
def test_a_flood_for_a_reader_that_does_not_read_ends_the_session(lab: SshLab, script: str) -> None:
    with hostile(lab, "time.sleep(2)\n" + script) as run:
        run.connected()
        lab.redirect(run.port)
        peak = Peak(run.process.pid)
        with lab.hub.entered():
            reader = socket.create_connection((SITE, 80), 10)
        with reader:
            failed = run.failed(60)
            most = peak.end()
        print(f"{most >> 20} MiB at most; {failed.text}")
        assert (failed.reason, failed.text) == (
            Reason.PROTOCOL,
            "the other end floods this one: more than 128 MiB wait for slow readers",
        )
        assert 0 < most < MOST


@pytest.mark.parametrize("script", _BREACHES.values(), ids=_BREACHES)
def test_a_breach_of_the_protocol_ends_the_session_with_that_reason(lab: SshLab, script: str) -> None:
    with hostile(lab, f"{script}\ntime.sleep(60)") as run:  # else the end of ssh may be noticed first
        failed = run.failed(60)
        assert (failed.reason, failed.text.partition(":")[0]) == (
            Reason.PROTOCOL,
            "the other end breaks the protocol",
        )


def test_a_remote_side_that_says_it_ends_has_closed_the_session(lab: SshLab) -> None:
    with hostile(lab, "send(frame(0, 0x4200)); time.sleep(60)") as run:
        failed = run.failed(60)
        assert (failed.reason, failed.text) == (Reason.PEER_CLOSED, "the other end has ended the session")


def test_what_concerns_no_connection_changes_and_says_nothing(lab: SshLab) -> None:
    with hostile(lab, _IGNORED) as run:
        run.connected()
        run.pump(lambda: any("all is sent" in line for line in run.transcript), 60)
        assert run.process.poll() is None
        assert not [line for line in run.transcript if "closed channel" in line]


def test_readers_that_stop_reading_cost_nobody_else_memory_or_time(lab: SshLab) -> None:
    """Sixteen downloads of 64 MiB stand still; a seventeenth connection goes on; then one is read to its
    end, and is complete.
    """
    source = lab.bastion.popen("python3", "-c", _SOURCE, stdout=-1)
    assert source.stdout is not None
    source.stdout.readline()
    run = lab.run()
    try:
        run.connected()
        lab.redirect(run.port)
        with contextlib.ExitStack() as stack:
            peak = Peak(run.process.pid)
            with lab.hub.entered():
                readers = [
                    stack.enter_context(socket.create_connection((SITE, SOURCE_PORT), 10)) for _ in range(16)
                ]
            beside = stack.enter_context(lab.connection())
            ends = time.monotonic() + 5
            while time.monotonic() < ends:
                assert echoes(beside)
            assert read(readers[3]) == HELD
            assert echoes(beside)
            most = peak.end()
            print(f"{most >> 20} MiB at most")
            assert most < 96 * MEBIBYTE
        assert run.process.poll() is None
    finally:
        run.stop()
        source.kill()
        source.wait()


def read(connection: socket.socket) -> int:
    """How many bytes come until the end, each the one that was sent."""
    connection.settimeout(30)
    expected, count = bytes(range(256)) * 1024, 0
    while data := connection.recv(256 * 1024):
        start = count % 256
        assert data == (expected + expected)[start : start + len(data)]
        count += len(data)
    return count
