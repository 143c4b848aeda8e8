"""Hears a client that prints lines and asks questions on its standard output: a question is a line without
an end.

output -> hear -> on_line(line) | on_prompt(words) whose answer the caller writes to the client's standard
input
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

_LARGEST = 64 << 10  # characters of a line


async def hear(
    output: asyncio.StreamReader,
    prompt: re.Pattern[str],
    on_line: Callable[[str], None],
    on_prompt: Callable[[str], Awaitable[None]],
) -> None:
    """Until the output ends. `prompt` is the whole of an unfinished line that is a question; `on_prompt`
    runs beside the listening.
    """
    answering: set[asyncio.Future[None]] = set()
    line = ""
    while said := await output.read(_LARGEST):
        *lines, line = (line + said.decode(errors="replace")).split("\n")
        for each in lines:
            on_line(each)
        line = line[-_LARGEST:]
        if prompt.fullmatch(line):
            say(line)
            answering.add(asyncio.ensure_future(on_prompt(line)))
            line = ""
    if line:
        say(line)
    for task in answering:
        task.cancel()


def say(line: str) -> None:
    """Pass on a line of the client, or say one of ours: those begin with `facilitator: `."""
    print(line, flush=True)
