"""How a program of ours ends when the client that it drives has ended."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def end_like(code: int) -> NoReturn:
    """End as the client ended: with its exit code, or by the signal whose negative number `code` is."""
    sys.stdout.flush()
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(abs(code))
