"""Examines the files of tunnels (profiles, what they name, keys) before anything is started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from supervisor.app.files import Files
from tunnels.base import AnyKind, Input, ReferencedFile, Tunnel, inputs_of
from tunnels.examination import findings


class Weight(Enum):
    """What a remark is."""

    READS = "reads"  # a file that is read for a profile
    WARNING = "warning"  # something is left out, or who asks cannot see it
    ERROR = "error"  # the tunnel cannot start


@dataclass(frozen=True, slots=True)
class Remark:
    """One line about a file of a tunnel: `TUNNEL: FILE:LINE: sentence`."""

    weight: Weight
    tunnel: str
    text: str  # begins with FILE:LINE where a file is known

    def __str__(self) -> str:
        return f"{self.tunnel}: {self.text}"


def examine(tunnels: Mapping[str, Tunnel], kinds: Mapping[str, AnyKind], files: Files) -> Iterator[Remark]:
    """Read all files of these tunnels that can be read, and judge them as a start would."""
    for tunnel in tunnels.values():
        yield from remarks(tunnel, kinds[tunnel.kind], files)


def remarks(tunnel: Tunnel, kind: AnyKind, files: Files) -> Iterator[Remark]:
    """The same for one tunnel."""
    contents = Contents(tunnel, files)
    own = inputs_of(kind, tunnel)
    yield from contents.read([item for item in own if isinstance(item.where, Path)], OSError)
    if not contents.complete:  # a profile may be made later, or on another host
        return
    try:
        companions = files.companions(kind.referenced_inputs(tunnel, contents.inputs))
    except (OSError, ValueError) as error:
        yield contents.remark(error, PermissionError)
        return
    for item in companions:
        yield Remark(Weight.READS, tunnel.name, _reads(item))
    yield from contents.read(companions, PermissionError)
    contents.read_secrets([item for item in own if not isinstance(item.where, Path)])
    for found in findings(kind, tunnel, contents.inputs, contents.complete):
        yield Remark(Weight.ERROR if found.fatal else Weight.WARNING, tunnel.name, str(found))


def start_problem(tunnel: Tunnel, kind: AnyKind, files: Files) -> str | None:
    """Why the tunnel could not start with its files as they are now; None: it could."""
    try:
        inputs = files.inputs(kind, tunnel)
    except (OSError, ValueError) as error:
        return str(error)
    return next((str(found) for found in findings(kind, tunnel, inputs, complete=True) if found.fatal), None)


class Contents:
    """The inputs of one tunnel, as far as they can be read."""

    def __init__(self, tunnel: Tunnel, files: Files) -> None:
        self._tunnel, self._files = tunnel, files
        self.inputs: dict[str, bytes] = {}
        self.complete = True  # so far

    def read(self, items: list[Input] | tuple[Input, ...], forgiven: type[OSError]) -> Iterator[Remark]:
        """Read these, and say which cannot be read: an error, unless it is of the forgiven class."""
        for item in items:
            try:
                self.inputs[item.name] = self._files.read(item)
            except (OSError, ValueError) as error:
                self.complete = False
                yield self.remark(error, forgiven)

    def read_secrets(self, items: list[Input]) -> None:
        """Read these as far as possible; secrets that are missing here are the subject of `doctor`."""
        for _ in self.read(items, OSError):
            pass

    def remark(self, error: Exception, forgiven: type[OSError]) -> Remark:
        """What is wrong with an input."""
        weight = Weight.WARNING if isinstance(error, forgiven) else Weight.ERROR
        return Remark(weight, self._tunnel.name, str(error))


def _reads(item: Input) -> str:
    where = item.where
    if not isinstance(where, ReferencedFile):
        return item.name
    place = str(where.profile) if where.line is None else f"{where.profile}:{where.line}: {where.option}"
    return f"{place}: reads {where.profile.parent / where.name}"
