"""Reads what the configuration only names: the file itself, secrets, the clients' own files, and what
those name in turn.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from supervisor.app.confined_reader import names_beneath, read_beneath, read_regular
from supervisor.config import Config, ConfigErrors, candidates
from supervisor.core.exits import CannotStart, Exit
from supervisor.included import with_included
from tunnels.base import AnyKind, Input, ReferencedFile, Secret, Tunnel, inputs_of
from tunnels.profiles import ProfileError
from tunnels.settings import SecretError


def load(path: Path, kinds: Mapping[str, AnyKind]) -> Config:
    """The configuration in a file. ConfigErrors: all its errors; CannotStart: it cannot be read."""
    from supervisor.config.parse import parse  # the daemon does without what this brings

    return parse(text_of(path), str(path), kinds)


def text_of(path: Path) -> str:
    """The text of a configuration with its included files. CannotStart: one cannot be read (NO_RIGHT: by
    this user).
    """
    return with_included(_text_of(path), path, _text_of)


def _text_of(path: Path) -> str:
    try:
        if path.is_fifo() and not path.is_relative_to("/dev"):  # a shell's <(...) is there, and has a writer
            raise CannotStart(Exit.CONFIG, f"{path} is a FIFO: reading it could wait for ever; write a file")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CannotStart(Exit.CONFIG, f"{path} is not text in UTF-8") from None
    except PermissionError:
        text = f"the user {_user()} may not read the configuration {path}; {_permitting(path)}"
        raise CannotStart(Exit.NO_RIGHT, text) from None
    except FileNotFoundError:
        text = f"there is no configuration {path}; write it, or name another one with -c FILE"
        raise CannotStart(Exit.CONFIG, text) from None
    except OSError as error:
        text = f"cannot read the configuration {path}: {error.strerror}; name another one with -c FILE"
        raise CannotStart(Exit.CONFIG, text) from None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _permitting(path: Path) -> str:
    """What root does about a file that this user may not read."""
    closed = [each for each in reversed(path.absolute().parents) if not _passable(each)]
    if closed:
        return f"its directory {closed[0]} is closed to it: chmod 0755 {closed[0]}"
    return f"do: chgrp facilitator {path} && chmod {'0750' if path.is_dir() else '0640'} {path}"


def _passable(directory: Path) -> bool:
    return os.access(directory, os.X_OK, effective_ids=True)


def code_of(problem: ConfigErrors | CannotStart) -> Exit:
    """The exit code of a command that ends for it."""
    return problem.code if isinstance(problem, CannotStart) else Exit.CONFIG


def errors_of(problem: ConfigErrors | CannotStart) -> list[str]:
    """The lines to show."""
    return [str(line) for line in problem] if isinstance(problem, ConfigErrors) else [str(problem)]


class Files:
    """Reads inputs each time they are needed, so that a rotated secret is used at the next login."""

    def __init__(
        self, beside: Path, remember: Callable[[str], None], environment: Mapping[str, str] | None = None
    ) -> None:
        """`beside`: directory of the configuration. `remember` is told of each secret, so that logs can
        mask it.
        """
        self._beside = beside
        self._remember = remember
        self._environment = os.environ if environment is None else environment

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where the configuration and its secrets lie."""
        credentials = self._environment.get("CREDENTIALS_DIRECTORY")
        return (self._beside, *(() if credentials is None else (Path(credentials),)))

    def inputs(self, kind: AnyKind, tunnel: Tunnel) -> dict[str, bytes]:
        """All that a start of the tunnel needs, by the kind's names. OSError or ValueError with a
        sentence.
        """
        inputs = {item.name: self.read(item) for item in inputs_of(kind, tunnel)}
        return inputs | {
            item.name: self.read(item) for item in self.companions(kind.referenced_inputs(tunnel, inputs))
        }

    def read(self, item: Input) -> bytes:
        """The content of an input. OSError or ValueError with a sentence."""
        if isinstance(item.where, Path):
            return _filled(_content(item.where, item.name), item.name, item.where)
        content = (
            _referenced(item.where)
            if isinstance(item.where, ReferencedFile)
            else self._secret(item.where, item.name)
        )
        if item.secret:
            self._remember(content.decode(errors="replace").strip())
        return content

    def companions(self, items: Iterable[Input]) -> tuple[Input, ...]:
        """The same with the files of a folder in place of each folder. OSError or ValueError with a
        sentence.
        """
        return tuple(each for item in items for each in _files_of(item))

    def secret_text(self, secret: Secret) -> str:
        """A secret that is one text. OSError or ValueError with a sentence."""
        return self.read(Input("secret", secret)).decode(errors="replace").strip()

    def watched(self, kind: AnyKind, tunnel: Tunnel) -> tuple[Path, ...]:
        """Every file and folder that a start of the tunnel depends on, existing or not."""
        named = self._companions(kind, tunnel)
        return tuple(dict.fromkeys(self.paths((*inputs_of(kind, tunnel), *named, *self._present(named)))))

    def named(self, kind: AnyKind, tunnel: Tunnel) -> tuple[Input, ...]:
        """The files that its profile names, as far as that can be read and is good."""
        return self._present(self._companions(kind, tunnel))

    def _present(self, items: Iterable[Input]) -> tuple[Input, ...]:
        try:
            return self.companions(items)
        except (OSError, ValueError):  # a folder that cannot be read
            return ()

    def _companions(self, kind: AnyKind, tunnel: Tunnel) -> tuple[Input, ...]:
        profiles = [item for item in inputs_of(kind, tunnel) if isinstance(item.where, Path)]
        try:
            return kind.referenced_inputs(tunnel, {item.name: self.read(item) for item in profiles})
        except (OSError, ValueError):  # they are known as soon as the profile is good
            return ()

    def paths(self, items: Iterable[Input]) -> tuple[Path, ...]:
        """Every place that an input may come from, existing or not."""
        return tuple(path for item in items for path in self._paths(item.where))

    def _paths(self, where: Secret | Path | ReferencedFile) -> tuple[Path, ...]:
        if isinstance(where, Secret):
            return self._candidates(where)
        return (where.profile.parent / where.name if isinstance(where, ReferencedFile) else where,)

    def _candidates(self, secret: Secret) -> tuple[Path, ...]:
        return candidates(secret, self._environment, self._beside)

    def _secret(self, secret: Secret, name: str) -> bytes:
        """Never empty: a scheduler's template writes an empty file for an item that it does not find, and an
        empty password spends a login. SecretError with a sentence.
        """
        if secret.env is not None:
            place, content = (
                f"the environment variable {secret.env}",
                self._environment.get(secret.env, "").encode(),
            )
            if secret.env not in self._environment:
                raise SecretError(f"{name}: {place} is not set")
        else:
            places = self._candidates(secret)
            path = next((path for path in places if path.exists()), None)
            if path is None:
                raise SecretError(f"{name}: no file {' or '.join(map(str, places))}")
            try:
                place, content = str(path), _content(path, name)
            except (OSError, ValueError) as error:
                raise SecretError(str(error)) from error
        return _filled(content, name, place)


def _content(path: Path, name: str) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise _unreadable(error, f"{name}: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{name}: cannot read {path}: {error}") from None


def _referenced(where: ReferencedFile) -> bytes:
    """SecretError: it is a secret, and empty."""
    content, name = _beside(where), where.option or where.name
    return _filled(content, name, where.profile.parent / where.name) if where.secret else content


def _filled(content: bytes, name: str, place: object) -> bytes:
    """The content. SecretError: it is empty. Profiles hold keys and passwords, so this goes for them, too."""
    if not content.strip():
        raise SecretError(f"{name}: {place} is empty")
    return content


def _beside(where: ReferencedFile) -> bytes:
    try:
        return read_beneath(where.profile.parent, where.name)
    except OSError as error:
        raise _unreadable(error, str(_complaint(where, error.strerror))) from None
    except ValueError as error:
        raise _complaint(where, error) from None


def _files_of(item: Input) -> Iterable[Input]:
    """The files of a folder; else the input itself."""
    if not (isinstance(item.where, ReferencedFile) and item.where.folder):
        return (item,)
    try:
        names = names_beneath(item.where.profile.parent, item.where.name)
    except OSError as error:
        raise _unreadable(error, str(_complaint(item.where, error.strerror))) from None
    except ValueError as error:
        raise _complaint(item.where, error) from None
    return [
        Input(
            f"{item.name}/{name}",
            ReferencedFile(item.where.profile, f"{item.where.name}/{name}", secret=item.where.secret),
        )
        for name in names
    ]


def _complaint(where: ReferencedFile, why: object) -> ProfileError:
    option = f"{where.option}: " if where.option is not None else ""
    return ProfileError(f"{option}cannot read {where.name}: {why}", where.line, where.profile)


def _unreadable(error: OSError, text: str) -> OSError:
    """An error of the same class with this sentence."""
    known = (each for each in (PermissionError, FileNotFoundError) if isinstance(error, each))
    return next(known, OSError)(text)
