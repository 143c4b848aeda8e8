"""How the programs of tunnels/kinds/sshuttle/driver.py speak for themselves, beside the clients that they
run: `facilitator: ...` on stderr.
"""

from __future__ import annotations

import sys


class Unfit(Exception):
    """The program cannot run here; the text says why."""


def say(text: str) -> None:
    """One line of our own."""
    print(f"facilitator: {text}", file=sys.stderr, flush=True)
