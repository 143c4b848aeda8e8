"""Files that the service reads: looked at several times a second, because they may be replaced in any way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from common.secrets import candidates
from hub.config.reading import SecretPlace

_MAX_BYTES = 1 << 20

FileMark = tuple[int, int, int] | None


def mark(path: Path) -> FileMark:
    """Changes when the file does; None: it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def text(path: Path) -> str:
    """The content. OSError or ValueError with a sentence."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_BYTES} bytes")
    return content.decode()


class HubSecrets:
    """Secrets by the places that the configuration names."""

    def __init__(self, directory: Path, environment: Mapping[str, str] = os.environ) -> None:
        """`directory`: of the configuration file."""
        self._directory, self._environment = directory, environment

    def path(self, place: SecretPlace) -> Path | None:
        """The file that holds it; None: it is in the environment."""
        places = candidates(place, self._environment, self._directory)
        return next((each for each in places if each.exists()), places[-1] if places else None)

    def read(self, place: SecretPlace) -> str:
        """The secret, without white space around it. OSError or ValueError, which do not repeat it."""
        path = self.path(place)
        found = (text(path) if path is not None else self._environment.get(place.env or "", "")).strip()
        if not found:
            raise ValueError(f"the secret in {path or place.env} is empty")
        return found
