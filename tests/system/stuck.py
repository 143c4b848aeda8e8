"""The daemon with a way to get stuck: `python -m tests.system.stuck CONFIG FILE`. While FILE exists, its loop
is in a call that does not return.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from supervisor.app.daemon import run
from tunnels.base import Tunnel
from tunnels.registry import KINDS

FILE = Path(sys.argv[2])


def stuck(tunnel: Tunnel, inputs: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """A kind's code that blocks."""
    while FILE.exists():
        time.sleep(1000)
    return KINDS["openvpn"].certificates(tunnel, inputs)


if __name__ == "__main__":
    kinds = {**KINDS, "openvpn": replace(KINDS["openvpn"], certificates=stuck)}
    sys.exit(run(Path(sys.argv[1]), kinds))
