"""What outlives a crash: the engine's memory of each tunnel (`core.session.record`), in
`runtime_dir/tunnels/`, a file for each; and a drain.

Beside it stands with which settings and inputs the tunnel was run, for the next daemon to compare. A file of
another boot is none. One that is damaged, or that this version does not understand, is told in the log: its
tunnel starts over, but refused logins still count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from supervisor.clients.json_store import JsonStore
from supervisor.config.difference import fingerprint
from supervisor.core.formats import NotUnderstood, document, parsed
from supervisor.core.session import record_formats
from supervisor.core.session.record import Spent, TunnelRecord, spent_in
from supervisor.core.session.record_formats import NESTED_SINCE
from tunnels.settings import Tunnel

NAME = "tunnels"
ORDERS = "orders"  # that are not carried out yet
_END = "end"


@dataclass(frozen=True, slots=True)
class Stored:
    """One tunnel, as written down."""

    boot: str
    record: TunnelRecord
    settings: str  # fingerprint of what its client was started with
    inputs: str  # digest of its secrets and files


def upgraded(format: int, raw: Any) -> Any:
    """What an earlier version has stored of a tunnel, as this version would have stored it."""
    if format >= NESTED_SINCE or not isinstance(raw, dict) or "record" not in raw:
        return raw
    return {**raw, "record": record_formats.upgraded(raw["record"])}


# The format grows with each change of what is stored, down to the fields of a tunnel's state (tests/golden
# has one record of each).
RECORD = document(Stored, NESTED_SINCE, upgraded)


@dataclass(frozen=True, slots=True)
class End:
    """All of it drains: the order holds until it is carried out or called off, whoever has to carry it
    out.
    """

    boot: str
    until: float  # monotonic seconds


END = document(End, 1)


@dataclass(frozen=True, slots=True)
class Present:
    """What can be said about a tunnel now, by its name."""

    boot: str
    settings: Callable[[str], Tunnel]
    inputs: Callable[[str], str]


def shelf(runtime_dir: Path) -> JsonStore:
    """The files."""
    return JsonStore(runtime_dir / NAME)


def forget(runtime_dir: Path) -> None:
    """The next daemon begins from nothing. OSError: the disk does not take it."""
    for name in (ORDERS, NAME):
        JsonStore(runtime_dir / name).clear()


def ends_by(runtime_dir: Path, boot: str) -> float | None:
    """Monotonic seconds by which a drain is over that an earlier daemon of this boot has not completed;
    None: there is none.
    """
    content = JsonStore(runtime_dir / ORDERS).load().get(_END)
    if content is None:
        return None
    try:
        end = END.read(content)
    except NotUnderstood as error:
        if _boot(content) in (boot, None):
            structlog.get_logger().error(
                "an order to drain is not understood, and not followed", why=str(error)
            )
        return None
    return end.until if end.boot == boot else None


@dataclass(frozen=True, slots=True)
class Recalled:
    """What an earlier daemon has left, by tunnel."""

    stored: Mapping[str, Stored] = field(default_factory=dict)
    spent: Mapping[str, Spent] = field(default_factory=dict)  # of those whose record is not understood


def recall(runtime_dir: Path, boot: str) -> Recalled:
    """What an earlier daemon of this boot has left."""
    stored, spent, log = {}, {}, structlog.get_logger()
    for name, content in shelf(runtime_dir).load().items():
        try:
            found = RECORD.read(content)
        except NotUnderstood as error:
            if _boot(content) in (boot, None):
                log.error(
                    "what an earlier daemon knew of a tunnel is not understood: it starts from scratch",
                    tunnel=name,
                    why=str(error),
                )
                spent[name] = spent_in(_raw(content))
            continue
        if found.boot == boot:
            stored[name] = found
    return Recalled(stored, {name: each for name, each in spent.items() if each is not None})


def _raw(content: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return parsed(content)
    return None


def _boot(content: bytes) -> str | None:
    """In which boot a document was written that is not understood; None: it does not say."""
    raw = _raw(content)
    boot = raw.get("boot") if isinstance(raw, dict) else None
    return boot if isinstance(boot, str) else None


class MemoryFiles:
    """The engine's `Keeper`, on disk."""

    def __init__(self, runtime_dir: Path, present: Present) -> None:
        self._shelf, self._orders, self._present = (
            shelf(runtime_dir),
            JsonStore(runtime_dir / ORDERS),
            present,
        )
        self._usable = True
        self._fingerprints: dict[str, tuple[Tunnel, str]] = {}

    def keep(self, records: Mapping[str, TunnelRecord | None]) -> None:
        """A disk that does not take it is no reason to run without tunnels: the next daemon has to end
        them and start over.
        """
        try:
            for name, record in records.items():
                if record is None:
                    self._fingerprints.pop(name, None)
                    self._shelf.remove(name)
                else:
                    self._shelf.put(name, RECORD.written(self.stored(name, record)))
        except OSError as error:
            if self._usable:
                structlog.get_logger().error(
                    "a crash would end the tunnels: their state cannot be written down", error=str(error)
                )
            self._usable = False
        else:
            self._usable = True

    def end_by(self, until: float | None) -> None:
        """All of it drains, and is over then (monotonic seconds); None: that was called off."""
        try:
            if until is None:
                self._orders.clear()
            else:
                self._orders.put(_END, END.written(End(self._present.boot, until)))
        except OSError as error:
            withdrawn = (
                "the next daemon will drain too: the order cannot be withdrawn; facilitator drain "
                "--now, and start it again"
            )
            forgotten = "this drain is forgotten if the daemon crashes: it cannot be written down"
            structlog.get_logger().error(withdrawn if until is None else forgotten, error=str(error))

    def only(self, tunnels: Container[str]) -> None:
        """Forget all others: what an earlier daemon knew of a tunnel that nobody configures any more must
        not come back with its lane.
        """
        with contextlib.suppress(OSError):
            for name in self._shelf.load():
                if name not in tunnels:
                    self._shelf.remove(name)

    def stored(self, name: str, record: TunnelRecord) -> Stored:
        """What is written down of a tunnel."""
        return Stored(self._present.boot, record, self._fingerprint(name), self._present.inputs(name))

    def _fingerprint(self, name: str) -> str:
        tunnel, known = self._present.settings(name), self._fingerprints.get(name)
        if known is None or known[0] is not tunnel:
            known = self._fingerprints[name] = (tunnel, fingerprint(tunnel))
        return known[1]
