"""What a daemon hands over to the program that it becomes by `facilitator upgrade`: a document in a memfd,
and open descriptors.

    HandoverDocument -> memfd -> execve -> received the same -> memfd -> `check_requested`: the new program,
    in a process of its own, before anything is given up

The document holds secrets (session cookies that spare the next login), so it is never written elsewhere. It
is the contract between two versions of this program: the new one must understand what the old one writes, or
refuse.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from supervisor.app.files import errors_of, load
from supervisor.app.stores import state_store
from supervisor.app.stores.state_store import Stored
from supervisor.config import Config, ConfigErrors
from supervisor.core.exits import CannotStart, Exit
from supervisor.core.formats import document
from supervisor.version import version
from tunnels.base import AnyKind

FORMAT = 4  # incremented with each change of the document, tunnel records included (`state_store.RECORD`)
GIVEN = "FACILITATOR_HANDOVER"  # environment variable: descriptor of the document to continue from
CHECKED = "FACILITATOR_CHECK"  # environment variable: descriptor of a document to check only
LAZY_MODULES = (
    "supervisor.app.http_app",
    "supervisor.reports.paging.http",
    "prometheus_client.exposition",
    "cryptography.x509",
    "re2",
)  # what a daemon loads only when its clients are adopted


@dataclass(frozen=True, slots=True)
class HandoverDocument:
    """Everything that is not in files."""

    version: str  # who gives it
    upgrades: int  # how often the process has changed its program
    runtime_dir: str
    state_dir: str
    lock: int  # descriptor of the lock on runtime_dir
    parent: int = 0  # pid of whoever started the process; 0: not known
    listening: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # descriptors by address
    tunnels: Mapping[str, Stored] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict, repr=False)  # by slot: what spares its next login

    def descriptors(self) -> Iterator[int]:
        """The descriptors that must stay open over execve."""
        yield self.lock
        for each in self.listening.values():
            yield from each


def _upgraded(format: int, raw: Any) -> Any:
    """What an earlier version hands over, as this version would have done it."""
    if not isinstance(raw, dict) or not isinstance(raw.get("tunnels"), dict):
        return raw
    records = {name: state_store.upgraded(_RECORDS[format], each) for name, each in raw["tunnels"].items()}
    return {**raw, "tunnels": records}


_RECORDS = (0, 0, 1, 2, 2)  # the format of the tunnels' records, by that of the document
DOCUMENT = document(HandoverDocument, FORMAT, _upgraded)


def written(handover: HandoverDocument) -> int:
    """The document in a memfd, positioned at its start; the caller closes it."""
    fd = os.memfd_create("handover", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(DOCUMENT.written(handover))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def received(environ: MutableMapping[str, str] = os.environ) -> HandoverDocument | None:
    """The document of the program that this process was before; None: there was none, or it is not
    understood.

    In the latter case the daemon starts as after a crash.
    """
    named = environ.pop(GIVEN, None)
    if named is None:
        return None
    try:
        handover = _read(int(named))
    except (OSError, ValueError) as problem:
        print(
            f"facilitator: what is handed over is not understood; continuing as after a crash: {problem}",
            file=sys.stderr,
        )
        return None
    for fd in handover.descriptors():
        os.set_inheritable(fd, False)
    return handover


def check_requested(
    path: Path, kinds: Mapping[str, AnyKind], environ: MutableMapping[str, str] = os.environ
) -> int | None:
    """If this process should only check a document: its exit code, after it has printed its version, or the
    reasons why it cannot take over. None: no check is requested, run.
    """
    named = environ.pop(CHECKED, None)
    if named is None:
        return None
    for module in LAZY_MODULES:
        import_module(module)  # what is wrong with it, it says itself
    try:
        handover = _read(int(named))
        reasons = [*_objections(handover, load(path, kinds))]
    except (ConfigErrors, CannotStart) as problem:
        reasons = errors_of(problem)
    except (OSError, ValueError) as problem:
        reasons = [f"version {version()} does not understand what this one would hand over: {problem}"]
    for reason in reasons:
        print(reason, file=sys.stderr)
    if not reasons:
        print(version())
    return Exit.FAILED if reasons else Exit.OK


def _objections(handover: HandoverDocument, config: Config) -> Iterator[str]:
    for name in ("runtime_dir", "state_dir"):
        before, after = getattr(handover, name), str(getattr(config.facilitator, name))
        if before != after:
            yield f"facilitator.{name} was {before} and is {after}: that takes a restart"


def _read(fd: int) -> HandoverDocument:
    """ValueError: it is none that we understand."""
    with open(fd, "rb") as file:
        content = file.read()
    return DOCUMENT.read(content)
