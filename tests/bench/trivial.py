"""A client that only says when it started, and the kind that runs it: what is left is the daemon's own
cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from tunnels.base import Carrier, Connected, Kind, Launch, LineSource, Observation, Placement, Say
from tunnels.settings import Tunnel

SCRIPT = 'echo $$ >"$1"; echo up; exec sleep infinity'


class Trivial(Tunnel):
    """Settings of a trivial client."""

    kind: Literal["trivial"] = "trivial"
    fifo: str


class TrivialDialogue:
    """Up at its first line."""

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        """Any line means connected."""
        return [Connected()] if source is LineSource.OUTPUT else []

    def answer(self, text: str) -> Iterable[Say | Observation]:
        """It asks nothing."""
        return ()


def _launch(tunnel: Trivial, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    return Launch(("/bin/sh", "-c", SCRIPT, "trivial", tunnel.fifo), writes=(Path(tunnel.fifo),))


KIND = Kind("trivial", Trivial, Carrier.PROXY, lambda t: (), _launch, lambda t, i: TrivialDialogue(), ("sh",))
