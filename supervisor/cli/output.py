"""Everything that a command prints, with control characters removed; only our own colours pass.

The daemon may be of another version, and the configuration, a customer's file or this host may contain
anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from tunnels.text import clean, one_line


class Painted(str):
    """Clean text in our own colours, which `say` prints as it is."""

    __slots__ = ()


def paint(text: str, colour: str | None = None, bold: bool | None = None) -> Painted:
    """The text in a colour."""
    return Painted(click.style(clean(text), colour, bold=bold))


def say(*parts: str, err: bool = False) -> None:
    """Print a line, or several; on standard error with `err`."""
    click.echo("".join(part if isinstance(part, Painted) else clean(part) for part in parts), err=err)


def say_json(document: Any) -> None:
    """Print a document as JSON, which escapes control characters."""
    click.echo(json.dumps(document, indent=2).replace("\x7f", "\\u007f"))


def draws() -> bool:
    """The output is a terminal, on which something can be drawn again."""
    return sys.stdout.isatty()


def say_json_line(document: Any) -> None:
    """Print a document as JSON in one line, at once: another program reads it as it comes."""
    click.echo(json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f"))
    sys.stdout.flush()


def ask(
    question: str,
    default: str | None = None,
    *,
    choices: Sequence[str] | None = None,
    read: Callable[[str], str] | None = None,
) -> str:
    """Ask the operator for a setting: one of `choices`, or what `read` makes of it."""
    kind = None if choices is None else click.Choice(choices)
    answer: str = click.prompt(question, default, type=kind, value_proc=read)
    return answer


def prompt(question: str) -> str:
    """Ask the operator; the answer is not echoed."""
    answer: str = click.prompt(one_line(question), hide_input=True, prompt_suffix=" ")
    return answer
