"""Examines the files of a tunnel as a start would, without one: pure, so that `check`, `reload`, `doctor` and
the running daemon all find the same.

    contents of the inputs -> kind.examine, kind.launch, kind.dialogue -> FileFinding (file, line, sentence)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tunnels.base import AnyKind, FileFinding, Inputs, Placement, Tunnel, device_name
from tunnels.profiles import ProfileError


def findings(kind: AnyKind, tunnel: Tunnel, inputs: Inputs, complete: bool) -> tuple[FileFinding, ...]:
    """All notes, and of each file the first fatal finding. `complete`: the inputs are all that a start needs;
    else only what can be said without the missing ones.
    """
    found = list(_examined(kind, tunnel, inputs))
    if complete and not any(each.fatal for each in found):
        found += _refused(kind, tunnel, inputs)
    return tuple(_first_fatal_of_each_file(found))


def _examined(kind: AnyKind, tunnel: Tunnel, inputs: Inputs) -> Iterator[FileFinding]:
    try:
        yield from kind.examine(tunnel, inputs)
    except ValueError as error:
        yield finding(error)


def _refused(kind: AnyKind, tunnel: Tunnel, inputs: Inputs) -> Iterator[FileFinding]:
    """What keeps a start from being prepared."""
    somewhere = Placement(Path("/nonexistent"), device_name(tunnel), 0, "python3")
    try:
        kind.launch(tunnel, somewhere, inputs)
        kind.dialogue(tunnel, inputs)
    except ValueError as error:
        yield finding(error)


def finding(error: ValueError) -> FileFinding:
    """A refusal of a kind as a finding."""
    return error.finding if isinstance(error, ProfileError) else FileFinding(str(error))


def _first_fatal_of_each_file(found: Iterable[FileFinding]) -> Iterator[FileFinding]:
    seen = set()
    for each in found:
        if not each.fatal:
            yield each
        elif each.where not in seen:
            seen.add(each.where)
            yield each
