"""The man pages facilitator(1) and facilitator.yaml(5), and the scripts for tab completion, from the commands
and the settings themselves.

    python -m supervisor.cli.manual DIRECTORY

writes them below DIRECTORY as they stand below /usr/share.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from supervisor.config.markdown_tables import REQUIRED, sections
from supervisor.config.tunnel_entries import Kinds
from supervisor.version import version

_PROGRAM = "facilitator"
_EXIT_CODES = {
    "0": "Success.",
    "1": "Failed.",
    "2": "Wrong usage.",
    "3": "A tunnel is not up (status, why).",
    "4": "The daemon does not answer.",
    "75": "Another daemon is running.",
    "77": "A privilege is missing; the message says which.",
    "78": "The configuration is wrong.",
}
_FILES = {
    "/etc/facilitator/config.yaml": "The configuration; see facilitator.yaml(5).",
    "/run/facilitator/control.sock": "The daemon's control socket.",
    "/var/lib/facilitator": "Its history and state.",
}


def command_page(main: click.Group) -> str:
    """facilitator(1)."""
    context = click.Context(main, info_name=_PROGRAM)
    lines = [
        _head(_PROGRAM, 1),
        ".SH NAME",
        f"facilitator \\- {_quoted(main.get_short_help_str(200))}",
        ".SH SYNOPSIS",
        ".B facilitator",
        ".I COMMAND",
        "[OPTION]... [ARGUMENT]...",
        ".SH DESCRIPTION",
        *_prose(main.help or ""),
        ".SH COMMANDS",
    ]
    for path, command in commands(main):
        lines += _of_command(click.Context(command, context, info_name=" ".join(path)))
    lines += [".SH EXIT STATUS", *_definitions(_EXIT_CODES), ".SH FILES", *_definitions(_FILES)]
    lines += [".SH ENVIRONMENT", *_definitions({"FACILITATOR_CONFIG": "Another configuration file."})]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR facilitator.yaml (5)", ""])


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words, those of groups too."""
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def settings_page(kinds: Kinds) -> str:
    """facilitator.yaml(5)."""
    lines = [
        _head("facilitator.yaml", 5),
        ".SH NAME",
        "facilitator.yaml \\- the configuration of facilitator(1)",
        ".SH SYNOPSIS",
        ".I /etc/facilitator/config.yaml",
        ".SH DESCRIPTION",
        *_prose(
            "A YAML file. Durations are written `250ms`, `5s`, `2m`, `4h`, `1d`. A secret is `{file: NAME}` or "
            "`{env: NAME}`. `facilitator check` reports every error with its line and column."
        ),
    ]
    for section in sections(kinds):
        lines.append(f'.SH "{_quoted(_plain(section.title).upper())}"')
        for setting, default, meaning in section.rows:
            shown = "" if default in ("", REQUIRED) else f"Default: {default}."
            needed = "Required." if default == REQUIRED else shown
            lines += [".TP", f".B {_quoted(setting)}", _line(f"{_plain(meaning)}. {needed}".strip())]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR facilitator (1)", ""])


def _of_command(context: click.Context) -> Iterator[str]:
    command = context.command
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "{_quoted(f"{context.info_name} {pieces}".strip())}"'
    yield from _prose(command.help or "")
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield from (".TP", f".B {_quoted(record[0])}", _line(_plain(record[1])))


def _prose(text: str) -> Iterator[str]:
    """Paragraphs; one that click does not wrap is printed as it is."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.lstrip().startswith("\b"):
            yield from (".PP", ".nf")
            yield from (_line(line.strip()) for line in paragraph.replace("\b", "").strip().splitlines())
            yield ".fi"
        else:
            yield from (".PP", _line(_plain(" ".join(paragraph.split()))))


def _definitions(items: dict[str, str]) -> Iterator[str]:
    for term, meaning in items.items():
        yield from (".TP", f".B {_quoted(term)}", _line(meaning))


def _head(name: str, section: int) -> str:
    return f'.TH "{name.upper()}" "{section}" "" "facilitator {_quoted(version())}" ""'


def _plain(text: str) -> str:
    """Without Markdown's quotes."""
    return text.replace("`", "")


def _quoted(text: str) -> str:
    """Characters that mean something to roff (groff_char(7))."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("…", "...")


def _line(text: str) -> str:
    """A line of text, which no dot or quote at its beginning makes a request."""
    quoted = _quoted(text)
    return f"\\&{quoted}" if quoted.startswith((".", "'")) else quoted


def write(directory: Path) -> None:
    """Write everything below a directory such as /usr/share."""
    from supervisor.cli import main
    from supervisor.cli.completion import script
    from tunnels.registry import KINDS

    texts = {
        "man/man1/facilitator.1": command_page(main),
        "man/man5/facilitator.yaml.5": settings_page(KINDS),
        "bash-completion/completions/facilitator": script("bash"),
        "zsh/site-functions/_facilitator": script("zsh"),
        "fish/vendor_completions.d/facilitator.fish": script("fish"),
    }
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
