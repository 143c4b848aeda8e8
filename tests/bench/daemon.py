"""The whole daemon with one more kind: `python -m tests.bench.daemon run -c CONFIG`."""

from __future__ import annotations

import sys
from pathlib import Path

from supervisor.__main__ import prepare

if __name__ == "__main__":
    prepare()
    from supervisor.app import run
    from tests.bench.trivial import KIND
    from tunnels.registry import KINDS

    sys.exit(run(Path(sys.argv[-1]), kinds={**KINDS, "trivial": KIND}))
