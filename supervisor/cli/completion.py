"""`facilitator completion`: the script with which a shell completes commands, options and tunnels' names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from supervisor.cli.output import say

_PROGRAM = "facilitator"
_VARIABLE = "_FACILITATOR_COMPLETE"  # click looks for it when the command line is started
_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


def script(shell: str) -> str:
    """What this shell is to read."""
    from supervisor.cli import main

    writer = _SHELLS[shell](main, {}, _PROGRAM, _VARIABLE)
    return ShellComplete.source(writer)  # that of Bash runs bash first, to learn its version


@click.command()
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
def completion(shell: str) -> None:
    """Print the script for tab completion in a shell.

    It completes commands, options and the names of tunnels, which it asks the daemon for. Packages install
    it; by hand: `facilitator completion zsh > ~/.zfunc/_facilitator`, or for fish
    `facilitator completion fish > ~/.config/fish/completions/facilitator.fish`.

    \b
    Example: eval "$(facilitator completion bash)"
    """
    say(script(shell))
