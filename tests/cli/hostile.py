"""Text that would do something to a terminal, and a command that is run on one."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Sequence

from tunnels.text import clean

# title, clear the screen, hidden text, an 8-bit sequence, order of letters, zero width, separators, tags,
# half a pair
WORDS = (
    "\x1b]0;PWNTITLE\x07\x1b[2J\x1b[8m\x9b31m\x9d0;PWNTITLE\x9c\u202e\u2066\u200b\u2060\ufeff\u061c\u180e\u2028\u2029\U000e0041\ufe0f"
    "\x00\x07\x08\r\x7f\x85 answer"
)
_OURS = re.compile(
    r"\x1b\[(?:0|1|2|3[1-6]|1;3[1-6])m|\r(?=\n)"
)  # our colours, and the terminal's own line ends


def remains(printed: str) -> list[str]:
    """What of a command's output could control a terminal or deceive its reader."""
    rest = _OURS.sub("", printed)
    return (
        []
        if clean(rest) == rest
        else [ascii(each) for each in rest.splitlines() if clean(each) != each] or [ascii(rest)]
    )


def on_terminal(argv: Sequence[str], typed: str = "", within: float = 60.0) -> str:
    """Run a program on a terminal of its own; what it prints. `typed` is entered as soon as it asks."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="200", TERM="xterm-256color")
        os.execvp(argv[0], list(argv))
    printed, deadline = b"", time.monotonic() + within
    try:
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                read = os.read(terminal, 65536)
            except OSError:  # it has ended
                break
            printed += read
            if typed and b"asks:" in printed:
                os.write(terminal, typed.encode() + b"\n")
                typed = ""
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return printed.decode()
