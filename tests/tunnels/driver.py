"""Performs a `Launch` for real, without the daemon: anonymous files, management socket, NOTIFY_SOCKET, and
everything written down.

A run can be kept as a transcript (`ClientRun.transcript`), which `replay` feeds to a fresh dialogue later,
without root.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

from supervisor.app.files import Files
from tests.netns import Namespace
from tunnels.base import (
    KEY,
    AnyKind,
    Connected,
    Dialogue,
    Failed,
    Keep,
    Launch,
    LineSource,
    NextServer,
    Observation,
    Placement,
    Question,
    Say,
    Tunnel,
)

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
MANAGEMENT_KEY = b"open sesame\n"
ObservationT = TypeVar("ObservationT", Connected, Question, Keep)
Words = queue.SimpleQueue[tuple[LineSource, str] | None]


def wait_for(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Poll a condition that has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class ClientRun:
    """One session of a kind's client."""

    def __init__(
        self,
        kind: AnyKind,
        tunnel: Tunnel,
        place: Placement,
        inputs: Mapping[str, bytes],
        namespace: Namespace,
        *prefix: str,
    ) -> None:
        self.launch: Launch = kind.launch(tunnel, place, inputs)
        self._new_dialogue: Callable[[], Dialogue] = lambda: kind.dialogue(tunnel, inputs)
        self.dialogue = self._new_dialogue()
        self.port = place.port
        self.transcript: list[str] = []
        self.said: list[Say] = []
        self.observations: list[Observation] = []
        self._words: Words = queue.SimpleQueue()
        self._management: socket.socket | None = None
        self._notify = self._notify_socket(place.directory) if self.launch.notify else None
        self.process = self._spawn(place, namespace, prefix)
        self._over = False
        readers = [threading.Thread(target=self._read_output, daemon=True)]
        if self.launch.management is not None:
            readers.append(
                threading.Thread(target=self._read_management, args=(self.launch.management,), daemon=True)
            )
        for reader in readers:
            reader.start()
        threading.Thread(target=self._end_when_all_is_read, args=(readers,), daemon=True).start()
        if self._notify is not None:
            threading.Thread(target=self._read_notify, args=(self._notify,), daemon=True).start()

    def _spawn(
        self, place: Placement, namespace: Namespace, prefix: tuple[str, ...]
    ) -> subprocess.Popen[bytes]:
        # as the daemon's own, where the directory is another user's
        owner = place.directory.stat().st_uid
        files = {**self.launch.files, KEY[1:-1]: MANAGEMENT_KEY}
        descriptors = {name: _anonymous_file(name, content, owner) for name, content in files.items()}
        argv = list(self.launch.argv)
        for name, descriptor in descriptors.items():
            argv = [word.replace(f"{{{name}}}", str(descriptor)) for word in argv]
        notify = {"NOTIFY_SOCKET": str(place.directory / "notify.sock")} if self.launch.notify else {}
        try:
            return subprocess.Popen(
                namespace.argv(*prefix, *argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, **self.launch.environment, **notify},
                pass_fds=tuple(descriptors.values()),
                start_new_session=True,
                cwd=place.directory,
            )
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    # --- sources, one thread each
    # ----------------------------------------------------------------------------------------------

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._words.put((LineSource.OUTPUT, line.decode(errors="replace").rstrip("\r\n")))
        self.process.wait()

    def _end_when_all_is_read(self, readers: list[threading.Thread]) -> None:
        """Its last words may come by either way, and the later one counts."""
        for reader in readers:
            reader.join()
        self._words.put(None)

    def _read_management(self, path: Path) -> None:
        connection = socket.socket(socket.AF_UNIX)
        while self.process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(str(path))
                break
            time.sleep(0.005)
        else:
            return
        if any(KEY in word for word in self.launch.argv):
            connection.sendall(MANAGEMENT_KEY)
        self._management = connection
        self._words.put((LineSource.MANAGEMENT, ""))
        with contextlib.suppress(OSError):
            for line in connection.makefile(errors="replace"):
                self._words.put((LineSource.MANAGEMENT, line.rstrip("\r\n")))

    def _notify_socket(self, directory: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(directory / "notify.sock"))
        os.chown(directory / "notify.sock", directory.stat().st_uid, -1)
        return listener

    def _read_notify(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while datagram := listener.recv(4096):
                for line in datagram.decode().splitlines():
                    self._words.put((LineSource.NOTIFY, line))

    # --- what the test does
    # ------------------------------------------------------------------------------------------------------

    def words(self, timeout: float) -> Iterator[tuple[LineSource, str]]:
        """Every line until the client is gone."""
        deadline = time.monotonic() + max(timeout, 60.0)  # a busy machine is slow
        while (
            not self._over
            and (heard := self._words.get(timeout=max(0.001, deadline - time.monotonic()))) is not None
        ):
            yield heard
        if not self._over:
            self._over = True
            yield LineSource.END, ""

    def pump(self, until: Callable[[], bool], timeout: float = 15.0) -> None:
        """Feed the dialogue until a condition holds or the client is gone."""
        for source, line in self.words(timeout):
            self.transcript.append(f"{source.value}|{line}")
            for answer in self.dialogue.receive(source, line):
                self.take(answer)
            if until():
                return

    def take(self, answer: Say | Observation) -> None:
        self.transcript.append(describe(answer))
        if isinstance(answer, Say):
            self.said.append(answer)
            assert self._management is not None
            with contextlib.suppress(OSError):
                self._management.sendall(answer.line.encode() + b"\n")
        else:
            self.observations.append(answer)

    def connected(self, timeout: float = 15.0) -> Connected:
        """Run on until it is connected (again)."""
        return self._next(Connected, timeout)

    def asked(self, timeout: float = 15.0) -> Question:
        """Run on until it asks (again)."""
        return self._next(Question, timeout)

    def kept(self, timeout: float = 15.0) -> Keep:
        """Run on until it has something to keep."""
        return self._next(Keep, timeout)

    def answer(self, text: str) -> None:
        """Answer its question."""
        self.transcript.append(f"answer|{text}")
        for answer in self.dialogue.answer(text):
            self.take(answer)

    def tell(self, say: Say) -> None:
        """Say something to its management socket that no line of it called for."""
        assert self._management is not None
        self.transcript.append(f"told|{say.line}")
        self._management.sendall(say.line.encode() + b"\n")

    def _next(self, wanted: type[ObservationT], timeout: float) -> ObservationT:
        before = len(self.observations)
        self.pump(lambda: isinstance(self._last(before), wanted | Failed), timeout)
        last = self._last(before)
        assert isinstance(last, wanted), "\n".join(self.transcript)
        return last

    def failed(self, timeout: float = 30.0) -> Failed:
        """Run on until it says why it failed."""
        self.pump(lambda: any(isinstance(o, Failed) for o in self.observations), timeout)
        assert isinstance(self._last(), Failed), "\n".join(self.transcript)
        return cast("Failed", self._last())

    def _last(self, before: int = 0) -> Observation | None:
        """The latest observation after this number of earlier ones."""
        return self.observations[-1] if len(self.observations) > before else None

    def to_end(self, timeout: float = 15.0) -> None:
        """Run on until the client is gone."""
        self.pump(lambda: False, timeout)

    def hang_up(self) -> None:
        """Leave the management socket, as a daemon does that ends."""
        assert self._management is not None
        self._management.shutdown(socket.SHUT_RDWR)
        self._management.close()
        self._management = None

    def attach_again(self) -> None:
        """Come back to it, as a restarted daemon does: with a dialogue that has heard nothing yet."""
        assert self.launch.management is not None
        self.dialogue = self._new_dialogue()
        threading.Thread(target=self._read_management, args=(self.launch.management,), daemon=True).start()

    def stop(self) -> int:
        """SIGTERM its process group; SIGKILL after half a minute. Gives the exit code."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
                break
        for closable in (self._management, self._notify):
            if closable is not None:
                closable.close()
        return self.process.wait()


def with_companions(kind: AnyKind, tunnel: Tunnel, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
    """The inputs and the files that they name, read as the daemon reads them."""
    files = Files(Path("/nowhere"), lambda _: None, {})
    return {
        **inputs,
        **{item.name: files.read(item) for item in files.companions(kind.referenced_inputs(tunnel, inputs))},
    }


def _anonymous_file(name: str, content: bytes, owner: int) -> int:
    descriptor = os.memfd_create(name)
    os.fchown(descriptor, owner, owner)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def translate(namespace: Namespace, device: str, connected: Connected) -> None:
    """What the daemon's kernel layer does with assigned addresses: source NAT, and an interface that is up
    without them.
    """
    namespace.run("ip", "link", "set", device, "up")
    rules = "".join(
        f"oifname {device} meta nfproto {family} snat {version} to {address};"
        for family, version, address in (
            ("ipv4", "ip", connected.address),
            ("ipv6", "ip6", connected.address6),
        )
        if address is not None
    )
    namespace.run(
        "nft", f"table inet t-snat {{ chain p {{ type nat hook postrouting priority srcnat; {rules} }}; }}"
    )


# --- transcripts
# ----------------------------------------------------------------------------------------------------------


def describe(answer: Say | Observation) -> str:
    """One line of a transcript for what a dialogue gave."""
    match answer:
        case Say(line, secret):
            return f"say|{'(secret) ' if secret else ''}{line}"
        case Connected(address, peer, routes, lasts):
            limit = "" if lasts is None else f"|{lasts:g} s"
            return f"connected|{address}|{peer}|{' '.join(str(route) for route in routes)}{limit}"
        case Question(wanted, text):
            return f"question|{wanted.value}|{text}"
        case NextServer():
            return "next-server"
        case Keep(secret):
            return f"keep|{secret}"
        case Failed(reason, text):
            return f"failed|{reason.value}|{text}"


def explained(dialogue: Dialogue, *lines: str) -> list[Failed]:
    """The failures that a client reports which prints these lines and ends: at its end, and not before."""
    assert not [
        answer
        for line in lines
        for answer in dialogue.receive(LineSource.OUTPUT, line)
        if isinstance(answer, Failed)
    ]
    return [answer for answer in dialogue.receive(LineSource.END, "") if isinstance(answer, Failed)]


_SOURCES = {source.value: source for source in LineSource}


def replay(dialogue: Dialogue, lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """What a transcript's client said, fed to a dialogue: (what it gave, what the transcript says it
    should give).
    """
    given: list[str] = []
    wanted: list[str] = []
    for line in lines:
        source, _, words = line.partition("|")
        if source in _SOURCES:
            given.extend(describe(answer) for answer in dialogue.receive(_SOURCES[source], words))
        elif source == "answer":
            given.extend(describe(answer) for answer in dialogue.answer(words))
        elif source != "told":
            wanted.append(line)
    return given, wanted
