"""What ssh says about itself, apart from what the remote host prints: a banner must not look like a failure.

    ssh -E (its own log)     -> pipe -> our stderr
    ssh -E of the jump host  -> pipe -> our stderr, each line after `jump: `
    stderr of ssh (banner, motd, the remote command) -> pipe -> our stderr, each line after `remote: `

ssh writes its log before it ends, so what is printed after `drain` comes after ssh's explanation.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from tunnels.drivers.cli import Unfit
from tunnels.kinds.sshuttle.limits import JUMP, REMOTE

_CHUNK_BYTES = 1 << 14
_MOST_CHUNKS = 16  # in one turn: a remote host that floods us must not keep others waiting


class _Stream:
    """A pipe whose lines are printed with a prefix."""

    def __init__(self, prefix: str) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self._prefix, self._rest = prefix.encode(), b""

    def relay(self) -> None:
        """Print the lines that have come since; a very long one in parts."""
        for _ in range(_MOST_CHUNKS):
            try:
                data = os.read(self.reading, _CHUNK_BYTES)
            except BlockingIOError:
                return
            *lines, self._rest = (self._rest + data.replace(b"\r", b"\n")).split(b"\n")
            if len(self._rest) >= _CHUNK_BYTES:
                lines, self._rest = [*lines, self._rest], b""
            self._print(line for line in lines if line.strip())

    def flush(self) -> None:
        """Print what came without an end of line."""
        if self._rest.strip():
            self._print((self._rest,))
        self._rest = b""

    def _print(self, lines: Any) -> None:
        text = b"".join(self._prefix + line + b"\n" for line in lines)
        while text:
            text = text[os.write(2, text) :]


class SshOutput:
    """The pipes for the output of one ssh. Its descriptors are inherited by nobody: ssh opens them by their
    paths below /proc.
    """

    def __init__(self) -> None:
        # the jump host's first: when it fails, the other ssh only notices that its connection has ended
        self._jump, self._own, self._remote = _Stream(JUMP), _Stream(""), _Stream(REMOTE)
        self._streams = (self._jump, self._own, self._remote)
        self._lock = threading.RLock()  # a signal handler may print while its thread drains

    @property
    def log(self) -> str:
        """The path of the log of the ssh to the remote host."""
        return f"/proc/{os.getpid()}/fd/{self._own.writing}"

    @property
    def jump_log(self) -> str:
        """The path of the log of the ssh to the jump host."""
        return f"/proc/{os.getpid()}/fd/{self._jump.writing}"

    @property
    def stderr(self) -> int:
        """The descriptor that becomes the stderr of ssh."""
        return self._remote.writing

    def begin(self) -> None:
        """Relay from now on, in a thread; and let sshuttle's own lines come after what explains them."""
        threading.Thread(target=self._relay, daemon=True).start()
        sys.stderr = _AfterOutput(sys.stderr, self)

    def drain(self, last: bool = False) -> None:
        """Print what is there; `last`: nothing follows."""
        with self._lock:
            for stream in self._streams:
                with contextlib.suppress(OSError):  # nobody reads our stderr any more: no reason to end
                    stream.relay()
                    if last:
                        stream.flush()

    def _relay(self) -> None:
        waiting = select.poll()
        for stream in self._streams:
            waiting.register(stream.reading, select.POLLIN)
        while True:
            waiting.poll()
            self.drain()


class _AfterOutput:
    """A text stream: what is written to it comes after everything that ssh has said."""

    def __init__(self, stream: Any, output: SshOutput) -> None:
        self._stream, self._output = stream, output

    def write(self, text: str) -> int:
        """Write it now."""
        self._output.drain()
        written: int = self._stream.write(text)
        self._stream.flush()
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_options(command: Sequence[str]) -> None:
    """Let ssh read its options without connecting (ssh -G), while all that it prints is its own: later, what
    it says before it opens its log could as well be the remote host's. Unfit: it refuses them.
    """
    try:
        done = subprocess.run([*command, "-G", "localhost"], capture_output=True, check=False)
    except OSError:
        return  # sshuttle says what is missing
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip().splitlines()
        print("\n".join(text), file=sys.stderr, flush=True)
        raise Unfit(f"ssh refuses its options ({done.returncode})")
