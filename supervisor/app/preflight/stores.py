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
from supervisor.app.preflight.account import obstacle, within
from supervisor.config.model import Config
from supervisor.core.preflight.facts import DirectoryFacts, SecretFile, ServiceAccount
from tunnels.base import AnyKind, Input, inputs_of

_KEY = b"PRIVATE KEY"  # makes a secret of a client's configuration


def secrets(
    config: Config,
    kinds: Mapping[str, AnyKind],
    files: Files,
    privileged: bool,
    credentials: Container[str] = (),
    account: ServiceAccount | None = None,
) -> tuple[SecretFile, ...]:
    """Each input. `privileged`: this process has the daemon's privileges, so what it cannot read the daemon
    cannot either.

    `credentials`: names of systemd credentials, which only the daemon can read. `account`: the service's,
    whose sandbox hides files; call it in `acting_as` the same.
    """
    found = (
        (_secret(what, item, files, privileged, account), item)
        for what, item in _inputs(config, kinds, files)
    )
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


def configuration(path: Path, account: ServiceAccount | None) -> SecretFile:
    """The configuration file itself: this command has read it; can the service?"""
    hidden = obstacle(account, path.resolve(), write=False)
    if account is not None and hidden is None and not os.access(path, os.R_OK, effective_ids=True):
        hidden = "Permission denied"
    return SecretFile("the configuration", str(path), hidden and f"cannot read {path}: {hidden}")


def _secret(
    owner: str, item: Input, files: Files, privileged: bool, account: ServiceAccount | None
) -> SecretFile:
    what = f"{owner}: {item.name}"
    places = files.paths([item])
    try:
        content = files.read(item)
        path = next((path for path in places if path.exists()), None)
        hidden = None if path is None else obstacle(account, path.resolve(), write=False)
        if hidden is not None:
            raise OSError(f"cannot read {path}: {hidden}")
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


FULL_BYTES = 1 << 20  # of free space, below which a directory counts as full: one client's output may need it


def directories(
    config: Config, privileged: bool, account: ServiceAccount | None = None
) -> tuple[DirectoryFacts, ...]:
    """The directories that the daemon writes to; of one that does not exist yet, its parent is checked."""
    own = config.facilitator
    paths = {"facilitator.state_dir": own.state_dir, "facilitator.runtime_dir": own.runtime_dir}
    if config.audit is not None:
        paths["audit.file"] = config.audit.file.parent
    return tuple(_directory(setting, path, privileged, account) for setting, path in paths.items())


def full(config: Config) -> tuple[tuple[str, str], ...]:
    """Settings and paths of the directories that are full, by bytes or by inodes."""
    own = config.facilitator
    paths = {"facilitator.state_dir": own.state_dir, "facilitator.runtime_dir": own.runtime_dir}
    return tuple((setting, str(path)) for setting, path in paths.items() if _full(path))


def _full(path: Path) -> bool:
    try:
        space = os.statvfs(path)
    except OSError:
        return False
    inodes = space.f_files > 0 and space.f_favail == 0  # some file systems do not count them
    return inodes or space.f_bavail * space.f_frsize < FULL_BYTES


def _directory(setting: str, path: Path, privileged: bool, account: ServiceAccount | None) -> DirectoryFacts:
    closed = obstacle(account, path.resolve(), write=True)
    if closed is not None:
        return DirectoryFacts(setting, str(path), closed)
    if account is not None and within(path.resolve(), account.made) and not path.exists():
        return DirectoryFacts(setting, str(path))  # systemd makes it when it starts the service
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
