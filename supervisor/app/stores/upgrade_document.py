"""What a daemon gives to the one that takes its place in the same process: a document in an anonymous
file, and open descriptors.

    Handover -> memfd -> execve -> received
    the same -> memfd -> `checked` by the new program in a process of its own, before anything is given up

The document holds secrets (what spares the next login), so it is never anywhere else. Its shape is the
contract between two versions of this program: a new one must understand what the old one says, or refuse
before it is too late.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from supervisor import __version__
from supervisor.app.files import errors_of, load
from supervisor.app.stores import state_store
from supervisor.app.stores.state_store import Stored
from supervisor.config import Config, ConfigErrors
from supervisor.core.exits import CannotStart, Exit
from supervisor.core.formats import document
from tunnels.base import AnyKind

FORMAT = 3  # grows with each change of what is given, records of tunnels included (`memory.RECORD`)
GIVEN = "FACILITATOR_HANDOVER"  # names the descriptor of the document that we go on from
CHECKED = "FACILITATOR_CHECK"  # names the descriptor of one that we are only asked about
LATER = (
    "supervisor.app.http_app",
    "supervisor.reports.paging.http",
)  # what a daemon loads only when its clients are adopted


@dataclass(frozen=True, slots=True)
class HandoverDocument:
    """Everything that is not in files."""

    version: str  # who gives it
    upgrades: int  # how often the process has changed its program
    runtime_dir: str
    state_dir: str
    lock: int  # descriptor of the lock on runtime_dir
    listening: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # descriptors by address
    tunnels: Mapping[str, Stored] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict, repr=False)  # by slot: what spares its next login

    def descriptors(self) -> Iterator[int]:
        """Those that go along."""
        yield self.lock
        for each in self.listening.values():
            yield from each


def _upgraded(format: int, raw: Any) -> Any:
    """What an earlier version hands over, as this version would have done it."""
    if not isinstance(raw, dict) or not isinstance(raw.get("tunnels"), dict):
        return raw
    records = {name: state_store.upgraded(_RECORDS[format], each) for name, each in raw["tunnels"].items()}
    return {**raw, "tunnels": records}


_RECORDS = (0, 0, 1, 2)  # the format of the tunnels' records, by that of the document
DOCUMENT = document(HandoverDocument, FORMAT, _upgraded)


def written(handover: HandoverDocument) -> int:
    """The document as an anonymous file, from its beginning; the caller closes it."""
    fd = os.memfd_create("handover", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(DOCUMENT.written(handover))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def received(environ: MutableMapping[str, str] = os.environ) -> HandoverDocument | None:
    """What the program before us in this process has given; None: nobody was before us, or its document
    says nothing to us.

    In the latter case we go on as after a crash.
    """
    named = environ.pop(GIVEN, None)
    if named is None:
        return None
    try:
        handover = _read(int(named))
    except (OSError, ValueError) as problem:
        print(
            f"facilitator: what is handed over is not understood, we go on as after a crash: {problem}",
            file=sys.stderr,
        )
        return None
    for fd in handover.descriptors():
        os.set_inheritable(fd, False)
    return handover


def asked(
    path: Path, kinds: Mapping[str, AnyKind], environ: MutableMapping[str, str] = os.environ
) -> int | None:
    """Where we are only asked whether we could go on from a document: our exit code, after our version or
    the reasons against it.

    None: nobody asks, we are to run.
    """
    named = environ.pop(CHECKED, None)
    if named is None:
        return None
    for module in LATER:
        import_module(module)  # what is wrong with it, it says itself
    try:
        handover = _read(int(named))
        reasons = [*_against(handover, load(path, kinds))]
    except (ConfigErrors, CannotStart) as problem:
        reasons = errors_of(problem)
    except (OSError, ValueError) as problem:
        reasons = [f"version {__version__} does not understand what this one would hand over: {problem}"]
    for reason in reasons:
        print(reason, file=sys.stderr)
    if not reasons:
        print(__version__)
    return Exit.FAILED if reasons else Exit.OK


def _against(handover: HandoverDocument, config: Config) -> Iterator[str]:
    for name in ("runtime_dir", "state_dir"):
        before, after = getattr(handover, name), str(getattr(config.facilitator, name))
        if before != after:
            yield f"facilitator.{name} was {before} and is {after}: that takes a restart"


def _read(fd: int) -> HandoverDocument:
    """ValueError: it is none that we understand."""
    with open(fd, "rb") as file:
        content = file.read()
    return DOCUMENT.read(content)
