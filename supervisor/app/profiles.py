"""Checks customers' profiles (OpenVPN configurations and others) and the files that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from supervisor.app.files import Files
from tunnels.base import AnyKind, Input, ReferencedFile, Tunnel, inputs_of


class Weight(Enum):
    """What a remark is."""

    READS = "reads"  # a file that is read for a profile
    WARNING = "warning"  # who asks cannot see it; the daemon may
    ERROR = "error"  # the tunnel cannot start


@dataclass(frozen=True, slots=True)
class Remark:
    """One line about a profile: `TUNNEL: FILE:LINE: OPTION: ...`."""

    weight: Weight
    text: str


def examine(tunnels: Mapping[str, Tunnel], kinds: Mapping[str, AnyKind], files: Files) -> Iterator[Remark]:
    """Read the profiles of these tunnels, and what they name, as a start would."""
    for name, tunnel in tunnels.items():
        for remark in _remarks(tunnel, kinds[tunnel.kind], files):
            yield remark if remark.weight is Weight.ERROR else Remark(remark.weight, f"{name}: {remark.text}")


def _remarks(tunnel: Tunnel, kind: AnyKind, files: Files) -> Iterator[Remark]:
    profiles = [item for item in inputs_of(kind, tunnel) if isinstance(item.where, Path)]
    unread = [remark for item in profiles for remark in _unreadable(item, files)]
    if unread:
        yield from unread
        return
    try:
        companions = files.companions(
            kind.referenced_inputs(tunnel, {item.name: files.read(item) for item in profiles})
        )
    except (OSError, ValueError) as error:
        yield _remark(error, PermissionError)
        return
    for item in companions:
        yield (
            Remark(Weight.READS, _reads(item.where))
            if isinstance(item.where, ReferencedFile)
            else Remark(Weight.READS, item.name)
        )
        yield from _unreadable(item, files)


def _unreadable(item: Input, files: Files) -> Iterator[Remark]:
    try:
        files.read(item)
    except (OSError, ValueError) as error:
        # a profile itself may be made later, or on another host; a file that it names has to come with it
        yield _remark(error, PermissionError if isinstance(item.where, ReferencedFile) else OSError)


def _remark(error: Exception, forgiven: type[OSError]) -> Remark:
    return Remark(Weight.WARNING if isinstance(error, forgiven) else Weight.ERROR, str(error))


def _reads(where: ReferencedFile) -> str:
    place = str(where.profile) if where.line is None else f"{where.profile}:{where.line}: {where.option}"
    return f"{place}: reads {where.profile.parent / where.name}"
