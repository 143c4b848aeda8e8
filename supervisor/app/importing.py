"""`facilitator import`: reads a customer's file or a command line, copies the files of the tunnel into
`customers/NAME` beside the main configuration, and writes its entry to `conf.d/NAME.yaml`.

Sources are untrusted: they are read up to a limit, files that they name only below their own directory, and
no symbolic link is followed. Nothing is overwritten.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from common.configuration.sources import SourceFile, include_pattern, join, split
from supervisor import included
from supervisor.app.confined_reader import read_beneath
from supervisor.app.files import Files, text_of
from supervisor.app.profiles import Weight, remarks
from supervisor.config.entry import EntryChoices, config_name, entry_text
from tunnels.base import AnyKind, ReferencedFile, Tunnel, inputs_of
from tunnels.profile_text import decoded
from tunnels.profiles import ProfileError
from tunnels.proposals import ImportSource, ProposedTunnel
from tunnels.recognition import ProfileFormat, identified

MAX_BYTES = 1 << 20  # of a source
MAX_LINE = 32 << 10  # characters of a command line: shlex takes the square of it
MAX_WORDS = 500  # of a command line
GROUP = "facilitator"  # may read what is written, as the service does
_DIRECTORY_MODE, _FILE_MODE = 0o750, 0o640
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class ImportRefused(ValueError):
    """Why a source does not become a tunnel: sentences for people."""


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source, and where it lies."""

    source: ImportSource
    name: str  # for people
    path: Path | None  # None: the argument itself is the command line


def opened(argument: str, username: str | None) -> OpenedSource:
    """The file of this name, or the command line in the argument. ImportRefused."""
    path = Path(argument)
    if not os.path.lexists(path) and len(argument.split()) > 1:
        words = _words(argument)
        return OpenedSource(
            ImportSource(argument.encode(errors="replace"), None, words, username),
            f"the {words[0]} command",
            None,
        )
    data = _content(path)
    try:
        text = decoded(data, "#;")
        found = identified(text)
    except ProfileError as error:
        raise ImportRefused(f"{path}: {error.text}") from None
    if isinstance(found, ProfileFormat):
        return OpenedSource(ImportSource(data, found, (), username), path.name, path)
    words = _command_in(text)
    if words:
        return OpenedSource(ImportSource(data, None, words, username), path.name, path)
    raise ImportRefused(f"{path}: {found or 'no file and no command line that any kind of tunnel reads'}")


def _content(path: Path) -> bytes:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImportRefused(f"{path}: it is not a regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        link = "; it is a symbolic link: name the file itself" if os.path.islink(path) else ""
        raise ImportRefused(f"cannot read {path}: {error.strerror}{link}") from None
    if len(data) > MAX_BYTES:
        raise ImportRefused(f"{path}: it is larger than {MAX_BYTES >> 20} MiB")
    return data


def _command_in(text: str) -> tuple[str, ...]:
    """The first line of a text that is no comment, with the lines that it continues on; nothing if the quotes
    do not close.
    """
    lines = [
        line for line in text.replace("\\\n", " ").split("\n") if line.strip() and line.lstrip()[0] != "#"
    ]
    try:
        return _words(lines[0].strip().removeprefix("$ ")) if lines else ()
    except ImportRefused:
        return ()


def _words(line: str) -> tuple[str, ...]:
    """The words of a command line, without `sudo` and assignments; the program without its directory."""
    if len(line) > MAX_LINE:
        raise ImportRefused(f"the command line is longer than {MAX_LINE >> 10} KiB")
    try:
        words = shlex.split(line)
    except ValueError:
        raise ImportRefused("the quotes in the command line do not close") from None
    while words and (words[0] == "sudo" or _ASSIGNMENT.match(words[0])):
        words.pop(0)
    if not words or len(words) > MAX_WORDS:
        raise ImportRefused("the command line is empty" if not words else f"more than {MAX_WORDS} words")
    return (PurePosixPath(words[0]).name, *words[1:])


def proposed(found: OpenedSource, kinds: Mapping[str, AnyKind]) -> ProposedTunnel:
    """The tunnel that one of the kinds sees in the source. ImportRefused."""
    for kind in kinds.values():
        try:
            tunnel = kind.propose(found.source)
        except ProfileError as error:
            line = "" if error.line is None else f":{error.line}"
            raise ImportRefused(f"{found.name}{line}: {error.text}") from None
        if tunnel is not None:
            return tunnel
    raise ImportRefused(
        f"{found.name}: no kind of tunnel can be made of it; see docs/kinds.md for what is read"
    )


@dataclass(frozen=True, slots=True)
class PlannedImport:
    """What is to be written, and what is to be said."""

    text: str  # of the entry
    entry: Path
    files: Mapping[Path, bytes]  # relative to the directory of the main configuration
    warnings: tuple[str, ...]


def plan(
    main: Path,
    found: OpenedSource,
    tunnel: ProposedTunnel,
    choices: EntryChoices,
    kinds: Mapping[str, AnyKind],
) -> PlannedImport:
    """Everything of the import, judged as `facilitator check` would. ImportRefused; ConfigErrors: the
    configuration and this entry do not go together.
    """
    from supervisor.config.parse import parse

    text = entry_text(tunnel, choices)
    pattern = include_pattern(included.readable(main))
    folder = Path(pattern or "conf.d/*.yaml").parent
    entry = folder / f"{choices.name}.yaml"
    own, others = split(text_of(main))
    config = parse(join(own, [*others, SourceFile(str(entry), text)]), str(main), kinds)
    settings = config.tunnels[choices.name]
    files = dict(_files(tunnel, choices.name, found, settings, kinds[tunnel.kind]))
    if pattern is None or not fnmatchcase(entry.name, Path(pattern).name):
        yaml = "include: conf.d/*.yaml"
        raise ImportRefused(f"{main} includes no files; add the line {yaml} to it, at the left edge")
    warnings = [str(each) for each in config.warnings if each.file == str(main.parent / entry)]
    return PlannedImport(text, entry, files, tuple(warnings))


def _files(
    proposed: ProposedTunnel, name: str, found: OpenedSource, tunnel: Tunnel, kind: AnyKind
) -> Iterator[tuple[Path, bytes]]:
    config = config_name(proposed, name)
    if config is None:
        return
    yield Path(config), proposed.content
    inputs = {item.name: proposed.content for item in inputs_of(kind, tunnel) if isinstance(item.where, Path)}
    try:
        for item in kind.referenced_inputs(tunnel, inputs):
            where = item.where
            if isinstance(where, ReferencedFile) and not where.folder and found.path is not None:
                yield Path(config).parent / where.name, _beside(found.path, where)
    except ProfileError as error:
        raise ImportRefused(f"{found.name}: {error.text}") from None


def _beside(profile: Path, where: ReferencedFile) -> bytes:
    try:
        content = read_beneath(profile.parent, where.name, links=False)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ImportRefused(
            f"{profile}: {where.option or 'it'} names {where.name}, which cannot be read: {said}"
        ) from None
    if len(content) > MAX_BYTES:
        raise ImportRefused(f"{profile}: {where.name} is larger than {MAX_BYTES >> 20} MiB")
    return content


def write(main: Path, planned: PlannedImport) -> None:
    """Write everything, or nothing. ImportRefused."""
    made: list[Path] = []
    try:
        for name, content in {**planned.files, planned.entry: planned.text.encode()}.items():
            _make_directories(main.parent, name.parent, made)
            _create(main.parent / name, content, made)
    except OSError as error:
        _unmake(made)
        where = error.filename or main.parent  # a full disk names no file
        raise ImportRefused(f"cannot write {where}: {error.strerror}; nothing was written") from None


def judged(tunnel: Tunnel, kind: AnyKind, main: Path) -> list[str]:
    """What `check` says about the tunnel's files once they are written: errors."""
    files = Files(main.resolve().parent, lambda _: None)
    return [str(each) for each in remarks(tunnel, kind, files) if each.weight is Weight.ERROR]


def _make_directories(root: Path, folder: Path, made: list[Path]) -> None:
    here = root
    for part in folder.parts:
        here /= part
        if not os.path.lexists(here):
            os.mkdir(here, _DIRECTORY_MODE)
            made.append(here)
            _give(here, _DIRECTORY_MODE)
        elif os.path.islink(here):
            raise OSError(0, "a directory on the way is a symbolic link", str(here))


def _create(path: Path, content: bytes, made: list[Path]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    made.append(path)
    with open(fd, "wb") as file:
        file.write(content)
    _give(path, _FILE_MODE)


def _give(path: Path, mode: int) -> None:
    """To the group of the service, where there is one and this user may."""
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    os.chmod(path, mode)


def _unmake(made: list[Path]) -> None:
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def write_new(path: Path, text: str) -> None:
    """Write the first configuration, and the folder of included files beside it. ImportRefused."""
    made: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path, text.encode(), made)
        _make_directories(path.parent, Path("conf.d"), made)
    except OSError as error:
        _unmake(made)
        raise ImportRefused(f"cannot write {path}: {error.strerror}; nothing was written") from None
