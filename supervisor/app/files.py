"""Reads what the configuration only names: the file itself, secrets, and the clients' own files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from supervisor.config import Config, ConfigErrors, candidates, parse
from supervisor.core.exits import CannotStart, Exit
from tunnels.base import AnyKind, Input, Secret


def load(path: Path, kinds: Mapping[str, AnyKind]) -> Config:
    """The configuration in a file. ConfigErrors: all its mistakes; CannotStart: it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CannotStart(Exit.CONFIG, f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise CannotStart(Exit.CONFIG, f"cannot read the configuration {path}: {error.strerror}; name another with -c") from None
    return parse(text, str(path), kinds)


def errors_of(problem: ConfigErrors | CannotStart) -> list[str]:
    """The lines to show."""
    return [str(line) for line in problem] if isinstance(problem, ConfigErrors) else [str(problem)]


class Files:
    """Reads inputs each time they are needed, so that a rotated secret is used at the next login."""

    def __init__(self, beside: Path, remember: Callable[[str], None], environment: Mapping[str, str] | None = None) -> None:
        """`beside`: directory of the configuration. `remember` is told of each secret, so that logs can mask it."""
        self._beside = beside
        self._remember = remember
        self._environment = os.environ if environment is None else environment

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where the configuration and its secrets lie."""
        credentials = self._environment.get("CREDENTIALS_DIRECTORY")
        return (self._beside, *(() if credentials is None else (Path(credentials),)))

    def read(self, item: Input) -> bytes:
        """The content of an input. OSError or ValueError with a sentence."""
        if isinstance(item.where, Path):
            return _content(item.where, item.name)
        content = self._secret(item.where, item.name)
        self._remember(content.decode(errors="replace").strip())
        return content

    def secret_text(self, secret: Secret) -> str:
        """A secret that is one text. OSError or ValueError with a sentence."""
        return self.read(Input("secret", secret)).decode(errors="replace").strip()

    def paths(self, items: Iterable[Input]) -> tuple[Path, ...]:
        """Every file that an input may come from, existing or not."""
        return tuple(
            path for item in items for path in ((item.where,) if isinstance(item.where, Path) else self._candidates(item.where))
        )

    def _candidates(self, secret: Secret) -> tuple[Path, ...]:
        return candidates(secret, self._environment, self._beside)

    def _secret(self, secret: Secret, name: str) -> bytes:
        if secret.env is not None:
            if secret.env not in self._environment:
                raise ValueError(f"{name}: the environment variable {secret.env} is not set")
            return self._environment[secret.env].encode()
        places = self._candidates(secret)
        for path in places:
            if path.exists():
                return _content(path, name)
        raise ValueError(f"{name}: no file {' or '.join(map(str, places))}")


def _content(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{name}: cannot read {path}: {error.strerror}") from None
