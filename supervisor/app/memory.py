"""What outlives a crash: the engine's memory of each tunnel (`core.memory`), in `runtime_dir/tunnels/`, a file for each; and a drain.

Beside it stands with which settings and inputs the tunnel was run, for the next daemon to compare. A file of another boot, a torn one, or
one that this version does not understand is none: the tunnel begins anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from supervisor.clients.shelf import Shelf
from supervisor.config.difference import fingerprint
from supervisor.core.memory import Record
from tunnels.settings import Tunnel

NAME = "tunnels"
ORDERS = "orders"       # that are not carried out yet
_END = "end"


@dataclass(frozen=True, slots=True)
class Stored:
    """One tunnel, as written down."""

    boot: str
    record: Record
    settings: str       # fingerprint of what its client was started with
    inputs: str         # digest of its secrets and files


_FORMAT = TypeAdapter(Stored)


@dataclass(frozen=True, slots=True)
class End:
    """All of it drains: the order holds until it is carried out or called off, whoever has to carry it out."""

    boot: str
    until: float        # monotonic seconds


_END_FORMAT = TypeAdapter(End)


@dataclass(frozen=True, slots=True)
class Present:
    """What can be said about a tunnel now, by its name."""

    boot: str
    settings: Callable[[str], Tunnel]
    inputs: Callable[[str], str]


def shelf(runtime_dir: Path) -> Shelf:
    """The files."""
    return Shelf(runtime_dir / NAME)


def forget(runtime_dir: Path) -> None:
    """The next daemon begins from nothing. OSError: the disk does not take it."""
    for name in (ORDERS, NAME):
        Shelf(runtime_dir / name).clear()


def ends_by(runtime_dir: Path, boot: str) -> float | None:
    """Monotonic seconds by which a drain is over that an earlier daemon of this boot has not completed; None: there is none."""
    try:
        end = _END_FORMAT.validate_json(Shelf(runtime_dir / ORDERS).load().get(_END, b""))
    except ValidationError:
        return None
    return end.until if end.boot == boot else None


def recall(runtime_dir: Path, boot: str) -> dict[str, Stored]:
    """What an earlier daemon of this boot has left, by tunnel."""
    found = {}
    for name, content in shelf(runtime_dir).load().items():
        try:
            stored = _FORMAT.validate_json(content)
        except ValidationError:
            continue
        if stored.boot == boot:
            found[name] = stored
    return found


class MemoryFiles:
    """The engine's `Keeper`, on disk."""

    def __init__(self, runtime_dir: Path, present: Present) -> None:
        self._shelf, self._orders, self._present = shelf(runtime_dir), Shelf(runtime_dir / ORDERS), present
        self._usable = True
        self._fingerprints: dict[str, tuple[Tunnel, str]] = {}

    def keep(self, records: Mapping[str, Record | None]) -> None:
        """A disk that does not take it is no reason to run without tunnels: the next daemon has to end them and begin anew."""
        try:
            for name, record in records.items():
                if record is None:
                    self._fingerprints.pop(name, None)
                    self._shelf.remove(name)
                else:
                    self._shelf.put(name, _FORMAT.dump_json(self.stored(name, record)))
        except OSError as error:
            if self._usable:
                structlog.get_logger().error("a crash would end the tunnels: their state cannot be written down", error=str(error))
            self._usable = False
        else:
            self._usable = True

    def end_by(self, until: float | None) -> None:
        """All of it drains, and is over then (monotonic seconds); None: that was called off."""
        try:
            if until is None:
                self._orders.clear()
            else:
                self._orders.put(_END, _END_FORMAT.dump_json(End(self._present.boot, until)))
        except OSError as error:
            withdrawn = "the next daemon will drain too: the order cannot be withdrawn; facilitator drain --now, and start it again"
            forgotten = "this drain is forgotten if the daemon crashes: it cannot be written down"
            structlog.get_logger().error(withdrawn if until is None else forgotten, error=str(error))

    def only(self, tunnels: Container[str]) -> None:
        """Forget all others: what an earlier daemon knew of a tunnel that nobody configures any more must not come back with its lane."""
        with contextlib.suppress(OSError):
            for name in self._shelf.load():
                if name not in tunnels:
                    self._shelf.remove(name)

    def stored(self, name: str, record: Record) -> Stored:
        """What is written down of a tunnel."""
        return Stored(self._present.boot, record, self._fingerprint(name), self._present.inputs(name))

    def _fingerprint(self, name: str) -> str:
        tunnel, known = self._present.settings(name), self._fingerprints.get(name)
        if known is None or known[0] is not tunnel:
            known = self._fingerprints[name] = (tunnel, fingerprint(tunnel))
        return known[1]
