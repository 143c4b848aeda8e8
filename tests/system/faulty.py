"""The daemon with one more kind of tunnel, whose code raises: `python -m tests.system.faulty CONFIG`.

The file that such a tunnel names says where.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from supervisor.app.daemon import run
from tunnels.base import (
    Carrier,
    Connected,
    Dialogue,
    Input,
    Kind,
    Launch,
    LineSource,
    Observation,
    Placement,
    Say,
    Tunnel,
)
from tunnels.registry import KINDS

ENTRIES = (
    "inputs",
    "launch",
    "dialogue",
    "receive",
    "endpoint",
    "tcp-port",
    "certificates",
    "allows-parallel",
    "inner-probe",
)
FATAL = ("launch", "dialogue", "receive")  # without these no session comes up


class Faulty(Tunnel):
    """Its client says that it is up."""

    where: Path


def raises(entry: str, text: str) -> None:
    """Raise if the fault of the tunnel is here."""
    if entry == text:
        raise RuntimeError(f"a fault in {entry}")


def endpoint(tunnel: Faulty) -> str | None:
    """A gateway."""
    raises("endpoint", tunnel.where.read_text())
    return "gateway"


def tcp_port(tunnel: Faulty) -> int | None:
    """A port."""
    raises("tcp-port", tunnel.where.read_text())
    return 1


def allows_parallel(tunnel: Faulty) -> bool:
    """It can run twice."""
    raises("allows-parallel", tunnel.where.read_text())
    return True


def inner_probe(tunnel: Faulty) -> str | None:
    """Nothing."""
    raises("inner-probe", tunnel.where.read_text())
    return None


def inputs(tunnel: Faulty) -> tuple[Input, ...]:
    """The file itself."""
    raises("inputs", tunnel.where.read_text())
    return (Input("where", tunnel.where),)


def launch(tunnel: Faulty, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    """A shell."""
    raises("launch", tunnel.where.read_text())
    return Launch(("/bin/sh", "-c", "echo up; exec sleep 600"))


class Understanding:
    """Of the one word."""

    def __init__(self, tunnel: Faulty) -> None:
        self._where = tunnel.where.read_text()
        raises("dialogue", self._where)

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        """A generator: it raises when it is looped over."""
        raises("receive", self._where)
        if line == "up":
            yield Connected(peer="127.0.0.1")

    def answer(self, text: str) -> Iterable[Say | Observation]:
        """Nothing is asked."""
        return ()


def dialogue(tunnel: Faulty, inputs: Mapping[str, bytes]) -> Dialogue:
    """A new one."""
    return Understanding(tunnel)


def certificates(inputs: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """None."""
    raises("certificates", inputs.get("where", b"").decode())
    return ()


KIND = Kind(
    "faulty",
    Faulty,
    Carrier.PROXY,
    inputs,
    launch,
    dialogue,
    (),
    allows_parallel=allows_parallel,
    endpoint=endpoint,
    tcp_port=tcp_port,
    inner_probe=inner_probe,
    certificates=certificates,
    start_timeout=5.0,
)

if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), {**KINDS, "faulty": KIND}))
