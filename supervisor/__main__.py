"""Entry point: refuses to start beside PyPI's supervisord, which owns an import package of the same name,
then runs the command line.

Imports nothing that takes time before the daemon has made itself deaf to SIGHUP.
"""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path

from supervisor.run_arguments import close_argument, run_arguments

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
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would end us before app/daemon.py listens to it


def main() -> None:
    """Run the command line; exit 1 with one sentence when another distribution shares our package."""
    if sys.argv[1:2] in (["run"], ["close"]):
        # What is imported stays: to look for garbage in it again and again is a fifth of the start.
        gc.disable()
    if sys.argv[1:2] == ["run"]:
        prepare()
    other = foreign_owner()
    if other is not None:
        sys.exit(
            f"facilitator: the distribution {other!r} has installed files into the package 'supervisor' "
            f"beside ours; "
            f"install {_OURS} into a virtual environment of its own"
        )
    closing = close_argument(sys.argv[1:])
    if closing is not None:
        from supervisor import early_close

        sys.exit(early_close.command(closing))
    arguments = run_arguments(sys.argv[1:])
    if arguments is not None:
        from supervisor import early_close

        # Before anything else. What goes wrong here, the start says better.
        early_close.run(arguments.config)

        from supervisor.app import run

        sys.exit(run(arguments.config, watch=arguments.watch))
    from supervisor.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
