"""The ssh process of a worker: watched, because sshuttle may not notice its end."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from tunnels.drivers.cli import FATAL, say
from tunnels.kinds.sshuttle.ssh_output import SshOutput

GRACE_SECONDS = 0.5  # in which sshuttle may notice by itself that its ssh has ended


class SshProcess:
    """Replaces `sshuttle.ssh.connect`: starts ssh with it, once, and watches the process."""

    def __init__(self, connect: Callable[..., Any], output: SshOutput, on_end: Callable[[], None]) -> None:
        """`connect`: sshuttle's own. `output`: where ssh's stderr goes. `on_end` is called from any thread
        when ssh has ended or closed its output.
        """
        self._connect, self._output, self._on_end = connect, output, on_end
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Start ssh and watch it: an idle sshuttle may wait for ever after its ssh has ended."""
        named["stderr"] = self._output.stderr
        self._process, stream, *rest = self._connect(*arguments, **named)
        threading.Thread(target=self._watch, args=(os.pidfd_open(self._process.pid),), daemon=True).start()
        return self._process, _ReadStream(stream, self._on_end), *rest

    def report(self) -> None:
        """Print how ssh ended: sshuttle often sees the end of the stream before the exit code is known."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(GRACE_SECONDS)
            self._output.drain(last=True)
            say(f"ssh ended with code {code}")

    def _watch(self, pidfd: int) -> None:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        waiting.poll()
        self._on_end()
        time.sleep(GRACE_SECONDS)
        say("ssh is gone")
        os._exit(FATAL)


class _ReadStream:
    """The output of ssh. Its end is the first sign that ssh has ended; the process may take half a second
    more.
    """

    def __init__(self, raw: Any, on_end: Callable[[], None]) -> None:
        self._raw, self._on_end = raw, on_end

    def read(self, size: int) -> bytes | None:
        """Read like a raw stream. At its end `on_end` closes the listener, and that wakes sshuttle up."""
        try:
            data: bytes | None = self._raw.read(size)
        except OSError:
            self._on_end()
            raise
        if data == b"":
            self._on_end()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
