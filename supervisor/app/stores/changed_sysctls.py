"""Which sysctls of this host the daemon has changed, and what each was before: a file in `state_dir`, from
which the end of the daemon (`on_exit: remove`) and `facilitator cleanup` put them back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.stores.json_file import JsonFile
from supervisor.clients.processes import boot_id, in_this_boot
from supervisor.core.formats import NotUnderstood, document
from supervisor.kernel.sysctl import ChangedSysctl

NAME = "changed-sysctls.json"


@dataclass(frozen=True, slots=True)
class _Changes:
    boot: str  # boot id: a reboot sets all of them back by itself
    changed: dict[str, ChangedSysctl]  # by path below /proc/sys/net, in the order of the changes


DOCUMENT = document(_Changes, 1)


def _format_0(raw: Any) -> _Changes:
    raise NotUnderstood("version 0.1.0 wrote no such file")


class ChangedSysctls:
    """The first value of each setting counts, also over restarts of the daemon. A `FirstValues`."""

    def __init__(self, state_dir: Path) -> None:
        self._file = JsonFile(state_dir / NAME, DOCUMENT, _format_0)
        self._boot = boot_id()
        self._changed: dict[str, ChangedSysctl] = {}
        self._writable = True  # as far as the last write tells
        try:
            stored = self._file.load()
        except (OSError, ValueError) as error:
            structlog.get_logger().warning(
                "which kernel settings were changed is forgotten", path=str(self._file.path), why=str(error)
            )
            return
        if stored is not None and (stored.boot == self._boot or self._written_in_this_boot()):
            self._changed = dict(stored.changed)

    @property
    def changed(self) -> Mapping[str, ChangedSysctl]:
        """What is known, by path below /proc/sys/net, the earliest change first."""
        return self._changed

    def keep(self, changes: Mapping[str, ChangedSysctl]) -> None:
        """These are about to be changed. Without sync: after a power failure all have their first values."""
        known = self._changed
        self._changed = known | {
            name: ChangedSysctl(known[name].first if name in known else each.first, each.ours)
            for name, each in changes.items()
        }
        if self._changed != known:
            self._save()

    def forget(self) -> None:
        """All were put back. No file is left: one that root makes here could not be read by the daemon."""
        self._changed = {}
        with contextlib.suppress(OSError):
            self._file.path.unlink(missing_ok=True)

    def _written_in_this_boot(self) -> bool:
        """In a container a service can see another boot id than an administrator does: systemd-nspawn mounts
        one over the kernel's, and ProtectKernelTunables= undoes that.
        """
        with contextlib.suppress(OSError):
            return in_this_boot(self._file.path.stat().st_mtime)
        return False

    def _save(self) -> None:
        try:
            self._file.save(_Changes(self._boot, self._changed))
            self._writable = True
        except OSError as error:
            if self._writable:
                structlog.get_logger().warning(
                    "the first values of kernel settings are not kept: nothing will put them back",
                    error=str(error),
                )
            self._writable = False
