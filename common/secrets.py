"""The files that may hold a secret. Pure: the caller reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

_DIRECTORIES = ("CREDENTIALS_DIRECTORY", "NOMAD_SECRETS_DIR")


class SecretReference(Protocol):
    """Where a secret lies; never the secret itself."""

    @property
    def file(self) -> str | None:
        """The name or path of a file; None: it is in the environment."""


def candidates(
    secret: SecretReference, environment: Mapping[str, str], config_directory: Path
) -> tuple[Path, ...]:
    """The files that may hold the secret; the first that exists counts. None for a secret in the environment.

    An absolute name is the only candidate; a relative one is looked up in `$CREDENTIALS_DIRECTORY` (systemd),
    `$NOMAD_SECRETS_DIR`, then beside the configuration file.
    """
    if secret.file is None:
        return ()
    if Path(secret.file).is_absolute():
        return (Path(secret.file),)
    directories = [Path(environment[name]) for name in _DIRECTORIES if environment.get(name)]
    return tuple(dict.fromkeys(directory / secret.file for directory in (*directories, config_directory)))
