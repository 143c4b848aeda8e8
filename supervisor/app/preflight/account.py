"""As whom systemd runs the daemon, and what the unit's sandbox lets it see: `doctor` run by root judges with
this account, not with root's.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path

from supervisor.core.preflight.facts import ServiceAccount

# systemctl(1) show; what they mean: systemd.exec(5)
PROPERTIES = (
    "User",
    "Group",
    "SupplementaryGroups",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "ReadWritePaths",
    "InaccessiblePaths",
    "RuntimeDirectory",
    "StateDirectory",
    "LogsDirectory",
)
_MADE = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "LogsDirectory": "/var/log"}
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 (nothing is written there)
_READ_ONLY: Mapping[str, tuple[str, ...]] = {
    "yes": ("/usr", "/boot", "/efi"),
    "full": ("/usr", "/boot", "/efi", "/etc"),
    "strict": ("/",),
}


def account(shown: Mapping[str, str]) -> ServiceAccount | None:
    """From the properties of the loaded unit. None: there is no such user or group."""
    user, words = shown.get("User") or "root", {name: value.split() for name, value in shown.items()}
    try:
        entry = pwd.getpwnam(user)
        group = grp.getgrnam(shown["Group"]).gr_gid if shown.get("Group") else entry.pw_gid
        more = tuple(grp.getgrnam(name).gr_gid for name in words.get("SupplementaryGroups", ()))
    except KeyError:
        return None
    allowed = {name.upper() for name in words.get("CapabilityBoundingSet", ())}
    given = {name.upper() for name in words.get("AmbientCapabilities", ())} & allowed
    made = tuple(f"{root}/{name}" for key, root in _MADE.items() for name in words.get(key, ()))
    temporary = _TEMPORARY if shown.get("PrivateTmp") == "yes" else ()
    hidden = _HOMES if shown.get("ProtectHome") in ("yes", "tmpfs") else ()
    return ServiceAccount(
        entry.pw_uid,
        group,
        tuple(sorted({*os.getgrouplist(user, group), *more})),
        frozenset(allowed if entry.pw_uid == 0 else given),
        made=made,
        writable=(*made, *temporary, "/dev", "/proc", "/sys", *_paths(words.get("ReadWritePaths", ()))),
        read_only=_READ_ONLY.get(shown.get("ProtectSystem", ""), ()),
        hidden=(*hidden, *temporary, *_paths(words.get("InaccessiblePaths", ()))),
    )


def _paths(words: list[str] | tuple[()]) -> list[str]:
    return [word.lstrip("-+") for word in words]


@contextlib.contextmanager
def acting_as(account: ServiceAccount | None) -> Iterator[None]:
    """Open files as this user, without capabilities: only the effective user changes (credentials(7))."""
    if account is None or account.uid == 0:
        yield
        return
    user, group, groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)
        os.setgroups(groups)


def obstacle(account: ServiceAccount | None, path: Path, write: bool) -> str | None:
    """What in the unit's sandbox keeps the daemon from this path; None: nothing."""
    if account is None:
        return None
    if within(path, account.hidden):
        return "the service cannot see it (ProtectHome=, PrivateTmp= or InaccessiblePaths= of the unit)"
    deepest_read_only = _deepest(path, account.read_only)
    if write and deepest_read_only > _deepest(path, account.writable):
        return "the unit makes it read-only (ProtectSystem=)"
    return None


def within(path: Path, places: tuple[str, ...]) -> bool:
    """Is it one of these places, or in one?"""
    return _deepest(path, places) > 0


def _deepest(path: Path, places: tuple[str, ...]) -> int:
    """Parts of the longest of these places that the path is in; 0: it is in none."""
    return max((len(Path(place).parts) for place in places if path.is_relative_to(place)), default=0)
