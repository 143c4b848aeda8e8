"""How a driver starts and ends: its command line, what it prints about itself, and its exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from typing import NoReturn

FATAL = 99  # exit code of a driver that cannot go on; its output says why. sshuttle uses the same code.


class Unfit(Exception):
    """The driver cannot run on this host; the text says why."""


def say(text: str) -> None:
    """Print one line about the driver itself on stderr: `facilitator: ...`. Other lines are the client's."""
    print(f"facilitator: {text}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """A parser for the options that several drivers have; a driver adds its own."""
    options = argparse.ArgumentParser()
    options.add_argument("--device", required=True, help="name of the interface")
    options.add_argument("--config", type=int, required=True, help="descriptor of the configuration")
    options.add_argument(
        "--talk", type=int, required=True, help="descriptor of the key that the daemon sends first"
    )
    options.add_argument("--mtu", type=int, help="of the interface, in bytes")
    options.add_argument(
        "--append-code",
        action="store_true",
        help="the one-time password follows the password in the same field",
    )
    return options


def ask_to_end(client: Process) -> None:
    """Send SIGTERM to the client, so that it logs out and ends."""
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
