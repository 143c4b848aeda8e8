"""How a program of ours and the client that it drives end together."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from typing import NoReturn


def ask_to_end(client: Process) -> None:
    """Let it log off and end by itself."""
    with contextlib.suppress(ProcessLookupError):
        client.terminate()


def end_like(code: int) -> NoReturn:
    """End as the client ended: with its exit code, or by the signal whose negative number `code` is."""
    sys.stdout.flush()
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(abs(code))
