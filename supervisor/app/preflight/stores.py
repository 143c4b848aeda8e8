"""Facts about secrets, clients' files and directories: whether they can be read or written. Contents are
dropped.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from supervisor.app.files import Files
from supervisor.config.model import Config
from supervisor.core.preflight.facts import DirectoryFacts, SecretFile
from tunnels.base import AnyKind, Input, inputs_of

_KEY = b"PRIVATE KEY"  # makes a secret of a client's configuration


def secrets(
    config: Config,
    kinds: Mapping[str, AnyKind],
    files: Files,
    privileged: bool,
    credentials: Container[str] = (),
) -> tuple[SecretFile, ...]:
    """Each input. `privileged`: this process has the daemon's rights, so what it cannot read the daemon
    cannot either.

    `credentials`: names of systemd credentials, which only the daemon can read.
    """
    found = ((_secret(what, item, files, privileged), item) for what, item in _inputs(config, kinds, files))
    return tuple(
        replace(secret, error=None, credential=True)
        if secret.error and str(item.where) in credentials
        else secret
        for secret, item in found
    )


def _inputs(config: Config, kinds: Mapping[str, AnyKind], files: Files) -> Iterator[tuple[str, Input]]:
    """Each input with its description."""
    for name, tunnel in config.tunnels.items():
        items = list(inputs_of(kinds[tunnel.kind], tunnel))
        if tunnel.alert.routing_key is not None:
            items.append(Input("alert.routing_key", tunnel.alert.routing_key))
        yield from ((name, item) for item in (*items, *files.named(kinds[tunnel.kind], tunnel)))
    if config.alerts.pagerduty is not None:
        yield "alerts.pagerduty", Input("routing_key", config.alerts.pagerduty.routing_key)
    if config.alerts.webhook is not None:
        yield "alerts.webhook", Input("url", config.alerts.webhook.url)


def _secret(owner: str, item: Input, files: Files, privileged: bool) -> SecretFile:
    what = f"{owner}: {item.name}"
    places = files.paths([item])
    try:
        content = files.read(item)
        path = next((path for path in places if path.exists()), None)
        mode = stat.S_IMODE(path.stat().st_mode) if path is not None else None
    except (OSError, ValueError) as error:
        text = str(error).removeprefix(f"{item.name}: ")
        belongs = str(places[-1]) if places else None
        return SecretFile(what, belongs, error=text, unseen="Permission denied" in text and not privileged)
    if not content.strip():
        return SecretFile(what, _text(path), error=f"{path or 'the environment variable'} is empty")
    private = item.secret or _KEY in content
    return SecretFile(what, _text(path), mode=mode if private else None)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def directories(config: Config, privileged: bool) -> tuple[DirectoryFacts, ...]:
    """The directories that the daemon writes to; of one that does not exist yet, its parent is checked."""
    own = config.facilitator
    paths = {"facilitator.state_dir": own.state_dir, "facilitator.runtime_dir": own.runtime_dir}
    return tuple(_directory(setting, path, privileged) for setting, path in paths.items())


def _directory(setting: str, path: Path, privileged: bool) -> DirectoryFacts:
    existing = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not existing.is_dir():
        return DirectoryFacts(setting, str(path), f"{existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        where = "" if existing == path else f" to make it in {existing}"
        return DirectoryFacts(
            setting,
            str(path),
            f"no permission{where}, or the file system is read-only",
            unseen=not privileged,
        )
    space = os.statvfs(existing)
    return DirectoryFacts(setting, str(path), free=space.f_bavail * space.f_frsize)
