"""The whole daemon with one more kind: `python -m tests.bench.daemon run -c CONFIG`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.__main__ import prepare, run_daemon
from supervisor.run_arguments import RunArguments

if TYPE_CHECKING:
    from tunnels.base import AnyKind

VALIDATOR = (sys.executable, "-m", "tests.bench.daemon", "validate")


def kinds() -> Mapping[str, AnyKind]:
    """All of them."""
    from tests.bench import answering, trivial
    from tunnels.registry import KINDS

    return {**KINDS, "trivial": trivial.KIND, "answering": answering.KIND}


if __name__ == "__main__":
    if sys.argv[1] == "validate":
        from supervisor.validation import answer

        answer(kinds())
    else:
        prepare()
        sys.exit(run_daemon(RunArguments(Path(sys.argv[-1])), kinds, VALIDATOR))
