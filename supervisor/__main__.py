"""Entry point: refuses to start beside PyPI's supervisord, which owns an import package of the same name,
then runs the command line.

Imports nothing that takes time before the daemon has made itself deaf to SIGHUP.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.run_arguments import RunArguments, close_argument, run_arguments

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.validation import Kinds

_OURS = "vpn-facilitator"
_THEIRS = "supervisord.py"


def foreign_owner() -> str | None:
    """Name of the distribution that installed a supervisord into our package `supervisor`, or None."""
    if not Path(__file__).with_name(_THEIRS).exists():
        return None  # to read what every distribution says of itself takes a tenth of the start
    from importlib.metadata import packages_distributions

    owners = set(packages_distributions().get("supervisor", ())) - {_OURS}
    return min(owners, default=_THEIRS)


def prepare() -> None:
    """What a daemon does before its imports."""
    gc.disable()  # what is imported stays: to look for garbage in it again and again is a fifth of the start
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would end us before app/daemon.py listens to it


def run_daemon(
    arguments: RunArguments, kinds: Callable[[], Kinds] | None = None, program: Sequence[str] = ()
) -> int:
    """The kernel is closed first; what goes wrong there, the start says better. The exit code."""
    from supervisor import early_close
    from supervisor.validation import PROGRAM, Validator, registry

    kinds = kinds or registry
    validate = Validator(kinds, program or PROGRAM)

    def validated(text: str, name: str) -> Config:
        """A text that no daemon has taken: in the meantime there is much to import."""
        with contextlib.suppress(OSError):  # said when it is needed
            validate.begin(text, name)
        import supervisor.app.daemon  # noqa: F401

        return validate(text, name)

    early_close.run(arguments.config, parse=validated)

    from supervisor.app import run

    return run(arguments.config, kinds(), watch=arguments.watch, parse=validate)


def main() -> None:
    """Run the command line; exit 1 with one sentence when another distribution shares our package."""
    if sys.argv[1:2] == ["run"]:
        prepare()
    other = foreign_owner()
    if other is not None:
        sys.exit(
            f"facilitator: the distribution {other!r} has installed files into the package 'supervisor' "
            f"beside facilitator's; "
            f"install {_OURS} into a virtual environment of its own"
        )
    closing = close_argument(sys.argv[1:])
    if closing is not None:
        gc.disable()
        from supervisor import early_close

        sys.exit(early_close.command(closing))
    arguments = run_arguments(sys.argv[1:])
    if arguments is not None:
        sys.exit(run_daemon(arguments))
    from supervisor.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
