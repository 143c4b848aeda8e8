"""Reads a client that prints lines and asks questions on its standard output; a question is a line without an
end.

    output -> read_output -> on_line(line) | on_prompt(question)

The caller of on_prompt writes the answer to the client's standard input.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

_MAX_LINE_CHARS = 64 << 10


async def read_output(
    output: asyncio.StreamReader,
    prompt: re.Pattern[str],
    on_line: Callable[[str], None],
    on_prompt: Callable[[str], Awaitable[None]],
) -> None:
    """Read until the output ends. `prompt` matches the whole of an unfinished line that is a question;
    reading goes on while `on_prompt` runs.
    """
    answering: set[asyncio.Future[None]] = set()
    line = ""
    while said := await output.read(_MAX_LINE_CHARS):
        *lines, line = (line + said.decode(errors="replace")).split("\n")
        for each in lines:
            on_line(each)
        line = line[-_MAX_LINE_CHARS:]
        if prompt.fullmatch(line):
            relay(line)
            answering.add(asyncio.ensure_future(on_prompt(line)))
            line = ""
    if line:
        relay(line)
    for task in answering:
        task.cancel()


def relay(line: str) -> None:
    """Pass on a line of the client."""
    print(line, flush=True)
